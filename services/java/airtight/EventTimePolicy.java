package airtight;

import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.io.kafka.TimestampPolicy;
import org.apache.beam.sdk.io.kafka.TimestampPolicyFactory;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.kafka.common.TopicPartition;
import org.joda.time.Instant;

/**
 * The watermark of one partition: the largest stamp that was read, less the bound of disorder.
 *
 * <p>A partition that is read to its end follows the log of all partitions: a message that came after the log had
 * reached a stamp is older than it by the bound at most. So the log is looked at first, then the partition's end; only
 * where nothing was there to read does the watermark follow. A broker that does not tell the end holds it.
 */
final class EventTimePolicy extends TimestampPolicy<byte[], byte[]> {
  private static final long MIN = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();
  private static final long MAX = BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis();

  private final LogClock clock;
  private final long outOfOrder;
  private long watermark;
  private long lookedAt = Long.MAX_VALUE;
  private long reached;

  EventTimePolicy(LogClock clock, long outOfOrder, long watermark) {
    this.clock = clock;
    this.outOfOrder = outOfOrder;
    this.watermark = watermark;
  }

  @Override
  public Instant getTimestampForRecord(PartitionContext partition, KafkaRecord<byte[], byte[]> record) {
    advance(LogClock.plausible(record.getTimestamp(), System.currentTimeMillis()));
    return new Instant(Math.max(MIN, Math.min(MAX, record.getTimestamp())));
  }

  @Override
  public Instant getWatermark(PartitionContext partition) {
    long now = System.currentTimeMillis();
    boolean looked = lookedAt <= partition.getBacklogCheckTime().getMillis();
    if (looked && partition.getMessageBacklog() == 0) {
      advance(reached);
    }
    if (looked || lookedAt == Long.MAX_VALUE) {
      reached = clock.reached(now);
      lookedAt = now;
    }
    return new Instant(watermark);
  }

  private void advance(long stamp) {
    if (stamp != LogClock.UNKNOWN) {
      watermark = Math.min(MAX, Math.max(watermark, stamp - outOfOrder));
    }
  }

  /** Makes the policy of each partition, in the TaskManager that reads it. */
  static final class Factory implements TimestampPolicyFactory<byte[], byte[]> {
    /** Checkpoints hold it: another version of this class must read what this one wrote. */
    private static final long serialVersionUID = 1L;

    private final Map<String, Object> consumer;
    private final List<String> topics;
    private final long outOfOrder;
    private final long idle;

    Factory(Map<String, Object> consumer, List<String> topics, long outOfOrder, long idle) {
      this.consumer = consumer;
      this.topics = List.copyOf(topics);
      this.outOfOrder = outOfOrder;
      this.idle = idle;
    }

    @Override
    public TimestampPolicy<byte[], byte[]> createTimestampPolicy(TopicPartition of, Optional<Instant> previous) {
      LogClock clock = LogClock.of(consumer, topics, idle);
      return new EventTimePolicy(clock, outOfOrder, previous.map(Instant::getMillis).orElse(MIN));
    }
  }
}
