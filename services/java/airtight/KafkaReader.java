package airtight;

import airtight.KafkaMark.Position;
import java.io.IOException;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.beam.sdk.io.UnboundedSource;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.values.KV;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.joda.time.Instant;

/**
 * Reads the partitions of one split. Flink calls every method under one lock.
 *
 * <p>A partition's watermark is the largest stamp that was read, less the bound of disorder. One that is read to its
 * end follows the log of all partitions: the largest stamp was looked at first, then the ends, so that a message that
 * comes after its partition's end is older than the log by the bound at most.
 */
final class KafkaReader extends UnboundedSource.UnboundedReader<KV<byte[], byte[]>> {
  private static final long MIN = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();
  private static final long MAX = BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis();
  /** A partition that had nothing is asked again so much later: other splits are read by the same thread. */
  private static final long REST_NANOS = 10_000_000;
  /** So many in a row are no mistake of a producer: it is the clock of this host that is behind. */
  private static final int MAX_AHEAD = 10;
  private static final byte[] EMPTY = {};

  private final KafkaSource source;
  private final KafkaSource.Settings settings;
  private final LogClock clock;
  private final Map<TopicPartition, Position> positions = new HashMap<>();
  private final AtomicReference<KafkaMark> completed = new AtomicReference<>();
  private KafkaConsumer<byte[], byte[]> consumer;
  private Iterator<ConsumerRecord<byte[], byte[]>> batch = Collections.emptyIterator();
  private ConsumerRecord<byte[], byte[]> current;
  private LogClock.Log log;
  private long watermark = MIN;
  private int ahead;
  private long restUntil = System.nanoTime();

  KafkaReader(KafkaSource source, KafkaMark mark) {
    this.source = source;
    this.settings = source.settings();
    this.clock = LogClock.of(settings);
    if (mark != null) {
      positions.putAll(mark.positions);
      // Of a job that was resumed without one of its topics.
      positions.keySet().removeIf(partition -> !settings.topics.contains(partition.topic()));
      // Before the first look, too, nothing may come to a window that was over at the checkpoint.
      watermark = positions.values().stream().mapToLong(position -> position.watermark).min().orElse(MIN);
    }
  }

  @Override
  public boolean start() throws IOException {
    Map<String, Object> configuration = new HashMap<>(settings.consumer);
    // Flink's checkpoints hold the offsets, and an offset that is not there any more is a fault.
    configuration.put("enable.auto.commit", false);
    configuration.put("auto.offset.reset", "none");
    configuration.putIfAbsent("max.poll.records", 5_000);
    consumer = new KafkaConsumer<>(configuration, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    consumer.assign(positions.keySet());
    positions.forEach((partition, position) -> consumer.seek(partition, position.next));
    return advance();
  }

  @Override
  public boolean advance() throws IOException {
    if (!batch.hasNext() && !poll()) {
      return false;
    }
    current = batch.next();
    Position position = positions.get(new TopicPartition(current.topic(), current.partition()));
    position.next = current.offset() + 1;
    long now = LogClock.now();
    long stamp = LogClock.plausible(current.timestamp(), now);
    ahead = stamp == LogClock.UNKNOWN ? ahead + 1 : 0;
    if (ahead == MAX_AHEAD) {
      throw new IOException(
          ahead + " messages of " + current.topic() + " in a row, the last of " + new Instant(current.timestamp())
              + ", are more than a day ahead of this host's clock, which says " + new Instant(now)
              + ": correct the clock");
    }
    raise(position, stamp);
    return true;
  }

  private boolean poll() throws IOException {
    if (System.nanoTime() - restUntil < 0) {
      return false;
    }
    look();
    if (!positions.isEmpty()) {
      commit();
      // Past what is no message, such as marks of transactions: all that was polled before has been read.
      positions.forEach((partition, position) -> position.next = consumer.position(partition));
      batch = consumer.poll(Duration.ZERO).iterator();
    }
    if (!batch.hasNext()) {
      restUntil = System.nanoTime() + REST_NANOS;
    }
    return batch.hasNext();
  }

  /** Takes over what the clock has learned of the log: partitions that are new, and topics that are other ones. */
  private void look() throws IOException {
    LogClock.Log seen = clock.look();
    if (seen == null || seen == log) {
      return;
    }
    log = seen;
    boolean added = false;
    for (Map.Entry<TopicPartition, LogClock.Part> part : log.parts.entrySet()) {
      Position position = positions.get(part.getKey());
      if (position != null && !position.topicId.equals(part.getValue().topicId)) {
        throw new IOException(part.getKey().topic() + " was made anew since the checkpoint: start the job anew");
      }
      if (position == null && source.owns(part.getKey())) {
        positions.put(part.getKey(), new Position(part.getValue().topicId, part.getValue().begin, watermark));
        added = true;
      }
    }
    if (added) {
      Map<TopicPartition, Position> wanted = new HashMap<>(positions);
      wanted.keySet().removeAll(consumer.assignment());
      consumer.assign(positions.keySet());
      wanted.forEach((partition, position) -> consumer.seek(partition, position.next));
    }
  }

  @Override
  public Instant getWatermark() {
    if (log == null) {
      return new Instant(watermark);
    }
    long least = log.reached == LogClock.UNKNOWN ? MIN : Math.max(MIN, log.reached - settings.outOfOrder);
    for (Map.Entry<TopicPartition, Position> entry : positions.entrySet()) {
      LogClock.Part part = log.parts.get(entry.getKey());
      if (part != null && entry.getValue().next >= part.end) {
        raise(entry.getValue(), log.reached);
      }
      least = Math.min(least, entry.getValue().watermark);
    }
    watermark = Math.max(watermark, Math.min(MAX, least));
    return new Instant(watermark);
  }

  private void raise(Position position, long stamp) {
    if (stamp != LogClock.UNKNOWN) {
      position.watermark = Math.max(position.watermark, stamp - settings.outOfOrder);
    }
  }

  @Override
  public KafkaMark getCheckpointMark() {
    Map<TopicPartition, Position> copy = new HashMap<>();
    positions.forEach((partition, p) -> copy.put(partition, new Position(p.topicId, p.next, p.watermark)));
    return new KafkaMark(copy, this);
  }

  /** Called when Flink has completed the checkpoint of a mark. */
  void completed(KafkaMark mark) {
    completed.set(mark);
  }

  /** So that lag shows in Kafka's own tools. Nothing is ever resumed from it, so a failure is none of ours. */
  private void commit() {
    KafkaMark mark = completed.getAndSet(null);
    if (mark != null && settings.consumer.containsKey("group.id")) {
      Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
      mark.positions.forEach((partition, position) -> offsets.put(partition, new OffsetAndMetadata(position.next)));
      consumer.commitAsync(offsets, (done, error) -> {});
    }
  }

  @Override
  public KV<byte[], byte[]> getCurrent() {
    // Beam's coder of bytes has no null.
    return KV.of(
        current.key() == null ? EMPTY : current.key(), current.value() == null ? EMPTY : current.value());
  }

  @Override
  public Instant getCurrentTimestamp() {
    return new Instant(Math.max(MIN, Math.min(MAX, current.timestamp())));
  }

  @Override
  public KafkaSource getCurrentSource() {
    return source;
  }

  @Override
  public void close() {
    if (consumer != null) {
      consumer.close(Duration.ofSeconds(5));
    }
  }
}
