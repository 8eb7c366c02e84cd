package airtight;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.beam.sdk.coders.ByteArrayCoder;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.io.UnboundedSource;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.values.KV;
import org.apache.kafka.common.TopicPartition;

/**
 * Kafka's partitions as a source of Beam's, which its Flink runner reads inside Flink.
 *
 * <p>KafkaIO's own source fixes the partitions when a job is first submitted. Here each split owns what falls to it,
 * whenever it is added. The number of splits is fixed, and so is a job's largest useful parallelism.
 */
final class KafkaSource extends UnboundedSource<KV<byte[], byte[]>, KafkaMark> {
  /** Checkpoints hold sources: another version of this class must read what this one wrote. */
  private static final long serialVersionUID = 1L;

  private static final Map<String, Settings> NEWEST = new ConcurrentHashMap<>();

  private final Settings settings;
  private final int split;
  private final int splits;

  KafkaSource(Settings settings, int split, int splits) {
    this.settings = settings;
    this.split = split;
    this.splits = splits;
  }

  /** What the pipeline says of the source. */
  static final class Settings implements Serializable {
    private static final long serialVersionUID = 1L;

    final HashMap<String, Object> consumer;
    final ArrayList<String> topics;
    final long outOfOrder;
    final long idle;
    final long since = System.currentTimeMillis();

    Settings(Map<String, String> consumer, List<String> topics, long outOfOrder, long idle) {
      this.consumer = new HashMap<>(consumer);
      this.topics = new ArrayList<>(topics);
      this.outOfOrder = outOfOrder;
      this.idle = idle;
    }

    /** By what a source is known again after it was submitted anew, with other topics too; null without a group. */
    private String name() {
      return (String) consumer.get("group.id");
    }
  }

  /**
   * A resumed job brings its source, and its checkpoint the one of before: both are read here, and the one that was
   * made last tells the brokers, topics and bounds.
   */
  private Object readResolve() {
    if (settings.name() != null) {
      NEWEST.merge(settings.name(), settings, (one, other) -> one.since > other.since ? one : other);
    }
    return this;
  }

  Settings settings() {
    return settings.name() == null ? settings : NEWEST.getOrDefault(settings.name(), settings);
  }

  boolean owns(TopicPartition partition) {
    return (Math.floorMod(partition.topic().hashCode(), splits) + partition.partition()) % splits == split;
  }

  @Override
  public List<KafkaSource> split(int wanted, PipelineOptions options) throws Exception {
    int count = Math.max(wanted, LogClock.partitions(settings.consumer, settings.topics).size());
    List<KafkaSource> sources = new ArrayList<>();
    for (int index = 0; index < count; index++) {
      sources.add(new KafkaSource(settings, index, count));
    }
    return sources;
  }

  @Override
  public UnboundedReader<KV<byte[], byte[]>> createReader(PipelineOptions options, KafkaMark mark) {
    return new KafkaReader(this, mark);
  }

  @Override
  public Coder<KafkaMark> getCheckpointMarkCoder() {
    return new KafkaMark.MarkCoder();
  }

  @Override
  public Coder<KV<byte[], byte[]>> getOutputCoder() {
    return KvCoder.of(ByteArrayCoder.of(), ByteArrayCoder.of());
  }
}
