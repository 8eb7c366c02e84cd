package airtight;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.TopicPartition;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The largest stamp in some topics' log, asked of the broker each second: the same in every TaskManager.
 *
 * <p>When nothing new has come for the idleness, event time goes on as fast as the clock on the wall, from the largest
 * stamp, and never past now. A log of 2013 so stays in 2013.
 */
final class LogClock implements Runnable {
  static final long UNKNOWN = Long.MIN_VALUE;

  private static final Logger LOG = LoggerFactory.getLogger(LogClock.class);
  private static final Map<String, LogClock> CLOCKS = new ConcurrentHashMap<>();
  private static final long POLL_MS = 1_000;
  private static final long UNUSED_MS = 60_000;
  private static final long ABSURD_MS = Duration.ofDays(1).toMillis();

  private final Map<String, Object> admin = new HashMap<>();
  private final List<String> topics;
  private final long idle;
  private long newest = UNKNOWN;
  private long since;
  private long used;

  private LogClock(Map<String, Object> consumer, List<String> topics, long idle) {
    consumer.forEach((name, value) -> {
      if (AdminClientConfig.configNames().contains(name)) {
        admin.put(name, value);
      }
    });
    this.topics = topics;
    this.idle = idle;
  }

  /** The clock of these topics, one in each process. */
  static LogClock of(Map<String, Object> consumer, List<String> topics, long idle) {
    String name = consumer.get("bootstrap.servers") + " " + topics + " " + idle;
    return CLOCKS.computeIfAbsent(name, key -> new LogClock(consumer, topics, idle));
  }

  /** A stamp as the watermark counts it: one ahead of this host's clock as now, one a day ahead not at all. */
  static long plausible(long stamp, long now) {
    return stamp > now + ABSURD_MS ? UNKNOWN : Math.min(stamp, now);
  }

  /** How far event time has come, or UNKNOWN while the log is empty or could not be looked at. */
  synchronized long reached(long now) {
    if (used == 0) {
      Thread thread = new Thread(this, "log-clock " + topics);
      thread.setDaemon(true);
      thread.start();
    }
    used = now;
    if (newest == UNKNOWN || idle <= 0) {
      return newest;
    }
    return Math.max(newest, Math.min(now, newest + Math.max(0, now - since - idle)));
  }

  synchronized void observe(long stamp, long now) {
    if (stamp > newest) {
      newest = stamp;
      since = now;
    }
  }

  /** Whether anybody has read the clock lately; a clock that nobody reads ends, and begins again when it is read. */
  private synchronized boolean inUse() {
    if (System.currentTimeMillis() - used > UNUSED_MS) {
      used = 0;
    }
    return used != 0;
  }

  @Override
  public void run() {
    try (Admin client = Admin.create(admin)) {
      while (inUse()) {
        try {
          observe(newest(client), System.currentTimeMillis());
        } catch (Exception error) {
          LOG.warn("The log of {} could not be looked at: {}", topics, String.valueOf(error));
        }
        Thread.sleep(POLL_MS);
      }
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  private long newest(Admin client) throws Exception {
    Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
    for (TopicDescription topic : client.describeTopics(topics).allTopicNames().get().values()) {
      topic.partitions().forEach(p -> ends.put(new TopicPartition(topic.name(), p.partition()), OffsetSpec.maxTimestamp()));
    }
    long now = System.currentTimeMillis();
    long largest = UNKNOWN;
    for (ListOffsetsResult.ListOffsetsResultInfo end : client.listOffsets(ends).all().get().values()) {
      // An empty partition has no largest stamp.
      largest = Math.max(largest, end.offset() < 0 ? UNKNOWN : plausible(end.timestamp(), now));
    }
    return largest;
  }
}
