package airtight;

import java.time.Clock;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.function.Supplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Looks at some topics' log each second: how far it has come in event time, and which partitions there are.
 *
 * <p>Event time is the largest stamp of a message in the log, the same in every TaskManager. When nothing new has come
 * for the idleness, it goes on as fast as the clock on the wall, and never past now: a log of 2013 stays in 2013.
 */
final class LogClock implements Runnable {
  static final long UNKNOWN = Long.MIN_VALUE;

  private static final Logger LOG = LoggerFactory.getLogger(LogClock.class);
  private static final Map<String, LogClock> CLOCKS = new ConcurrentHashMap<>();
  private static final long POLL_MS = 1_000;
  private static final long LATE_LOOK_MS = 3 * POLL_MS;
  private static final long UNUSED_MS = 60_000;
  private static final long ABSURD_MS = Duration.ofDays(1).toMillis();

  /** Of this host. */
  static volatile Clock host = Clock.systemUTC();

  private final Map<String, Object> consumer;
  private final List<String> topics;
  private final long idle;
  private volatile Log log;
  private Map<TopicPartition, String> known = Map.of();
  private long newest = UNKNOWN;
  private long since;
  private long looked;
  private long used;
  private Thread thread;

  private LogClock(KafkaSource.Settings settings) {
    this.consumer = settings.consumer;
    this.topics = settings.topics;
    this.idle = settings.idle;
  }

  /** One partition at a look. */
  static final class Part {
    final String topicId;
    final long begin;
    final long end;

    Part(String topicId, long begin, long end) {
      this.topicId = topicId;
      this.begin = begin;
      this.end = end;
    }
  }

  /** One look: the event time that the log had reached, and then every partition with its ends. */
  static final class Log {
    final long reached;
    final Map<TopicPartition, Part> parts;

    Log(long reached, Map<TopicPartition, Part> parts) {
      this.reached = reached;
      this.parts = parts;
    }
  }

  /** The clock of these topics, one in each process. */
  static LogClock of(KafkaSource.Settings settings) {
    String name = settings.consumer + " " + settings.topics + " " + settings.idle;
    return CLOCKS.computeIfAbsent(name, key -> new LogClock(settings));
  }

  static long now() {
    return host.millis();
  }

  /** A stamp as the watermark counts it: one ahead of this host's clock as now, one a day ahead not at all. */
  static long plausible(long stamp, long now) {
    return stamp > now + ABSURD_MS ? UNKNOWN : Math.min(stamp, now);
  }

  /** The last look; null before the first. A clock that nobody reads for a minute stops until it is read again. */
  synchronized Log look() {
    used = System.currentTimeMillis();
    if (thread == null) {
      // What was known when nobody read may be of other topics, and of another time.
      looked = 0;
      thread = new Thread(this, "log-clock " + topics);
      thread.setDaemon(true);
      thread.start();
    }
    return log;
  }

  private synchronized boolean inUse() {
    return thread == Thread.currentThread() && System.currentTimeMillis() - used <= UNUSED_MS;
  }

  private synchronized void ended() {
    thread = null;
    log = null;
  }

  @Override
  public void run() {
    try {
      while (inUse()) {
        try (Admin client = Admin.create(admin(consumer));
            NewestMessages messages = new NewestMessages(consumer)) {
          while (inUse()) {
            log = lookAt(client, messages);
            Thread.sleep(POLL_MS);
          }
        } catch (RuntimeException | ExecutionException error) {
          LOG.warn("The log of {} could not be looked at: {}", topics, String.valueOf(error));
          Thread.sleep(POLL_MS);
        }
      }
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    } finally {
      ended();
    }
  }

  private Log lookAt(Admin client, NewestMessages messages) throws InterruptedException, ExecutionException {
    Map<TopicPartition, String> ids = partitions(client, topics);
    long now = now();
    if (looked == 0 || known.entrySet().stream().anyMatch(was -> !was.getValue().equals(ids.get(was.getKey())))) {
      // A topic that was made anew begins anew.
      newest = UNKNOWN;
      messages.forget();
    } else {
      // While nobody could look, nobody knows that there was silence.
      since += Math.max(0, now - looked - LATE_LOOK_MS);
    }
    known = ids;
    for (Map.Entry<TopicPartition, ListOffsetsResultInfo> entry :
        list(client, ids, OffsetSpec::maxTimestamp).entrySet()) {
      // An empty partition has no largest stamp.
      long offset = entry.getValue().offset();
      long stamp = offset < 0 ? UNKNOWN : plausible(entry.getValue().timestamp(), now);
      if (stamp > newest) {
        stamp = messages.largest(entry.getKey(), offset, stamp);
      }
      if (stamp > newest) {
        newest = stamp;
        since = now;
      }
    }
    looked = now;
    long silence = idle > 0 && newest != UNKNOWN ? Math.max(0, now - since - idle) : 0;
    long reached = silence == 0 ? newest : Math.max(newest, Math.min(now, newest + silence));
    // After the stamps: what is not in the log by now is no older than what they say, less the bound.
    Map<TopicPartition, ListOffsetsResultInfo> ends = list(client, ids, OffsetSpec::latest);
    Map<TopicPartition, ListOffsetsResultInfo> begins = list(client, ids, OffsetSpec::earliest);
    Map<TopicPartition, Part> parts = new HashMap<>();
    ids.forEach((p, id) -> parts.put(p, new Part(id, begins.get(p).offset(), ends.get(p).offset())));
    return new Log(reached, parts);
  }

  private static Map<TopicPartition, ListOffsetsResultInfo> list(
      Admin client, Map<TopicPartition, String> partitions, Supplier<OffsetSpec> spec)
      throws InterruptedException, ExecutionException {
    Map<TopicPartition, OffsetSpec> wanted = new HashMap<>();
    partitions.keySet().forEach(partition -> wanted.put(partition, spec.get()));
    return client.listOffsets(wanted).all().get();
  }

  /** Every partition of some topics, with the id of its topic; a fault where a topic is not there. */
  static Map<TopicPartition, String> partitions(Map<String, Object> consumer, List<String> topics)
      throws InterruptedException, ExecutionException {
    try (Admin client = Admin.create(admin(consumer))) {
      return partitions(client, topics);
    }
  }

  private static Map<TopicPartition, String> partitions(Admin client, List<String> topics)
      throws InterruptedException, ExecutionException {
    Map<TopicPartition, String> ids = new HashMap<>();
    client.describeTopics(topics).allTopicNames().get().forEach((topic, described) ->
        described.partitions().forEach(p ->
            ids.put(new TopicPartition(topic, p.partition()), described.topicId().toString())));
    return ids;
  }

  private static Map<String, Object> admin(Map<String, Object> consumer) {
    Map<String, Object> known = new HashMap<>(consumer);
    known.keySet().retainAll(AdminClientConfig.configNames());
    return known;
  }
}
