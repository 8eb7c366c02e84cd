package airtight;

import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.SerializableFunction;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Deserializer;

/** KafkaIO with watermarks by EventTimePolicy, for streaming/engine/kafka_source.py. */
public final class ReadEvents implements ExternalTransformRegistrar {
  static final String URN = "airtight:kafka:v1";

  @Override
  public Map<String, ExternalTransformBuilder<?, ?, ?>> knownBuilderInstances() {
    return Map.of(URN, new Builder());
  }

  /** The fields of the Python transform's payload. */
  public static final class Configuration {
    private Map<String, String> consumer = Map.of();
    private List<String> topics = List.of();
    private Long outOfOrderMs = 0L;
    private Long idleMs = 0L;

    public void setConsumer(Map<String, String> value) {
      consumer = value;
    }

    public void setTopics(List<String> value) {
      topics = value;
    }

    public void setOutOfOrderMs(Long value) {
      outOfOrderMs = value;
    }

    public void setIdleMs(Long value) {
      idleMs = value;
    }
  }

  static final class Builder
      implements ExternalTransformBuilder<Configuration, PBegin, PCollection<KV<byte[], byte[]>>> {
    @Override
    public PTransform<PBegin, PCollection<KV<byte[], byte[]>>> buildExternal(Configuration given) {
      Map<String, Object> consumer = new HashMap<>(given.consumer);
      KafkaIO.Read<byte[], byte[]> read =
          KafkaIO.<byte[], byte[]>read()
              .withTopics(given.topics)
              .withBootstrapServers(given.consumer.get("bootstrap.servers"))
              .withKeyDeserializer(BytesOrEmpty.class)
              .withValueDeserializer(BytesOrEmpty.class)
              .withConsumerConfigUpdates(consumer)
              .withConsumerFactoryFn(new Consumers())
              .withTimestampPolicyFactory(
                  new EventTimePolicy.Factory(consumer, given.topics, given.outOfOrderMs, given.idleMs));
      // With each completed checkpoint, so that lag shows in Kafka's own tools. Nothing is ever resumed from them.
      return (given.consumer.containsKey("group.id") ? read.commitOffsetsInFinalize() : read).withoutMetadata();
    }
  }

  static final class Consumers implements SerializableFunction<Map<String, Object>, Consumer<byte[], byte[]>> {
    /** Checkpoints hold it: another version of this class must read what this one wrote. */
    private static final long serialVersionUID = 1L;

    @Override
    public Consumer<byte[], byte[]> apply(Map<String, Object> configuration) {
      return new FromTheBeginning(configuration);
    }
  }

  /** Begins at the beginning where KafkaIO seeks to no offset of a checkpoint: Kafka would go on from the commits. */
  static final class FromTheBeginning extends KafkaConsumer<byte[], byte[]> {
    FromTheBeginning(Map<String, Object> configuration) {
      super(configuration);
    }

    @Override
    public void assign(Collection<TopicPartition> partitions) {
      super.assign(partitions);
      seekToBeginning(partitions);
    }
  }

  /** A message without a key or a value has empty ones: Beam's coder of bytes has no null. */
  public static final class BytesOrEmpty implements Deserializer<byte[]> {
    private static final byte[] EMPTY = {};

    @Override
    public byte[] deserialize(String topic, byte[] data) {
      return data == null ? EMPTY : data;
    }
  }
}
