package airtight;

import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.io.Read;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;

/** The Java side of streaming/engine/kafka_source.py. */
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
      return Read.from(
          new KafkaSource(
              new KafkaSource.Settings(given.consumer, given.topics, given.outOfOrderMs, given.idleMs), 0, 1));
    }
  }
}
