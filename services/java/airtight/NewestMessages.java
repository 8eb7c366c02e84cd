package airtight;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Tells the stamps of messages from those of the marks at transactions' ends, which carry the broker's clock.
 *
 * <p>A partition's largest stamp, as the broker has it, counts both. Where it is a mark's, or that of a message whose
 * transaction is open or was aborted, the largest stamp of the newest messages stands for it.
 */
final class NewestMessages implements AutoCloseable {
  /** How many of a partition's newest offsets are read at most. */
  private static final long COUNT = 1_000;
  private static final Duration PATIENCE = Duration.ofSeconds(1);

  private final KafkaConsumer<byte[], byte[]> consumer;
  private final Map<TopicPartition, Known> known = new HashMap<>();

  NewestMessages(Map<String, Object> settings) {
    Map<String, Object> own = new HashMap<>(settings);
    own.remove("group.id");
    own.put("enable.auto.commit", false);
    own.put("auto.offset.reset", "none");
    own.put("max.partition.fetch.bytes", 65_536);
    consumer = new KafkaConsumer<>(own, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  /** What is known of one partition. */
  private static final class Known {
    long offset = -1;
    boolean isMessage;
    long readTo;
    long stamp = LogClock.UNKNOWN;
  }

  /**
   * The largest stamp of a partition's messages.
   *
   * @param partition that has messages or marks
   * @param offset where the broker has the largest stamp
   * @param stamp that stamp, milliseconds
   * @return milliseconds, or {@code LogClock.UNKNOWN}
   */
  long largest(TopicPartition partition, long offset, long stamp) {
    Known last = known.computeIfAbsent(partition, any -> new Known());
    if (last.offset == offset && last.isMessage) {
      return stamp;
    }
    consumer.assign(List.of(partition));
    long begin = consumer.beginningOffsets(List.of(partition)).get(partition);
    long end = consumer.endOffsets(List.of(partition)).get(partition);
    // The broker also counts what was deleted from the beginning; of an open transaction nobody knows yet.
    if (last.offset != offset && offset >= begin && offset < end) {
      last.isMessage = isMessage(partition, offset);
      // What did not come in time is asked for again.
      last.offset = consumer.position(partition) > offset ? offset : -1;
      if (last.isMessage) {
        return stamp;
      }
    }
    read(partition, Math.max(Math.max(begin, last.readTo), end - COUNT), end, last);
    return last.stamp;
  }

  /** Forgets the partitions, which are of topics that were made anew. */
  void forget() {
    known.clear();
  }

  private boolean isMessage(TopicPartition partition, long offset) {
    consumer.seek(partition, offset);
    long deadline = System.nanoTime() + PATIENCE.toNanos();
    // Past marks, and past what was aborted, the position goes on without a message.
    while (consumer.position(partition) <= offset && System.nanoTime() < deadline) {
      for (ConsumerRecord<byte[], byte[]> message : consumer.poll(PATIENCE)) {
        return message.offset() == offset;
      }
    }
    return false;
  }

  /** What is not read in time is read at the next look: event time is behind until then, and nothing is late. */
  private void read(TopicPartition partition, long from, long end, Known last) {
    consumer.seek(partition, from);
    long deadline = System.nanoTime() + PATIENCE.toNanos();
    long now = LogClock.now();
    while (consumer.position(partition) < end && System.nanoTime() < deadline) {
      for (ConsumerRecord<byte[], byte[]> message : consumer.poll(PATIENCE)) {
        last.stamp = Math.max(last.stamp, LogClock.plausible(message.timestamp(), now));
      }
    }
    last.readTo = consumer.position(partition);
  }

  @Override
  public void close() {
    consumer.close(PATIENCE);
  }
}
