package airtight;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.time.Clock;
import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The classes of the source with a real broker, without Flink: prints what holds, and ends with 1 where something does not. */
public final class SourceChecks {
  private static final long BEGIN = 1_370_044_800_000L;
  private static final Clock SYSTEM = Clock.systemUTC();
  private static final Set<KafkaReader> STARTED = new HashSet<>();
  private static String servers;
  private static Admin admin;
  private static KafkaProducer<byte[], byte[]> plain;

  /** Argument: the broker, host:port. */
  public static void main(String[] args) throws Exception {
    servers = args[0];
    admin = Admin.create(Map.of("bootstrap.servers", servers));
    plain = producer(Map.of());
    splitsOwnEachPartitionOnce();
    aResumedSourceTakesTheTopicsOfTheNewOne();
    twoTopicsHaveOneClockAndOneReader();
    aTopicThatIsLeftOutIsReadNoMore();
    theNewestThousandOffsetsAreLookedAt();
    aBeginningThatWasDeletedStopsNothing();
    aTopicMadeAnewBeginsAnew();
    anOutageIsNoSilence();
    aHostWhoseClockIsBehindSaysSo();
    System.exit(0);
  }

  private static void splitsOwnEachPartitionOnce() {
    for (int splits = 1; splits < 9; splits++) {
      for (String topic : List.of("a", "flights.events", "another")) {
        for (int number = 0; number < 12; number++) {
          int owners = 0;
          for (int split = 0; split < splits; split++) {
            owners += source(settings("", 0, topic), split, splits).owns(new TopicPartition(topic, number)) ? 1 : 0;
          }
          holds(owners == 1, topic + "-" + number + " of " + splits + " splits has " + owners + " owners");
        }
      }
    }
  }

  private static void aResumedSourceTakesTheTopicsOfTheNewOne() throws Exception {
    KafkaSource before = source(settings("resumed", 0, "one"), 0, 1);
    Thread.sleep(2);
    KafkaSource after = source(settings("resumed", 7, "one", "two"), 0, 1);
    for (KafkaSource read : List.of(copy(after), copy(before), copy(after))) {
      holds(read.settings().topics.equals(List.of("one", "two")), "the topics are " + read.settings().topics);
    }
  }

  private static void twoTopicsHaveOneClockAndOneReader() throws Exception {
    String[] topics = {make("first", 1), make("second", 2)};
    send(topics[0], 0, BEGIN + 5_000);
    send(topics[1], 1, BEGIN + 9_000);
    KafkaSource.Settings settings = settings("", 0, topics);
    LogClock.Log log = await(settings, seen -> seen.reached == BEGIN + 9_000);
    holds(log.parts.size() == 3, "both topics' partitions are known: " + log.parts.keySet());
    KafkaReader reader = new KafkaReader(source(settings, 0, 1), null);
    holds(read(reader, 2) == 2, "both are read");
    holds(reader.getWatermark().getMillis() <= BEGIN + 9_000, "event time is not ahead of the log");
    reader.close();
  }

  private static void aTopicThatIsLeftOutIsReadNoMore() throws Exception {
    String kept = make("kept", 1);
    String left = make("left", 1);
    send(kept, 0, BEGIN);
    send(left, 0, BEGIN);
    KafkaReader both = new KafkaReader(source(settings("", 0, kept, left), 0, 1), null);
    holds(read(both, 2) == 2, "both are read");
    KafkaMark mark = both.getCheckpointMark();
    both.close();
    send(kept, 0, BEGIN + 1);
    send(left, 0, BEGIN + 1);
    KafkaReader one = new KafkaReader(source(settings("", 0, kept), 0, 1), mark);
    holds(read(one, 2) == 1, "one of the two new messages is read");
    one.close();
  }

  private static void theNewestThousandOffsetsAreLookedAt() throws Exception {
    String near = make("near", 1);
    send(near, 0, BEGIN);
    abort(near, 900, BEGIN + 60_000);
    await(settings("", 0, near), seen -> seen.reached == BEGIN);
    String far = make("far", 1);
    send(far, 0, BEGIN);
    abort(far, 1_500, BEGIN + 60_000);
    LogClock.Log log = await(settings("", 0, far), seen -> seen.parts.size() == 1);
    holds(log.reached == LogClock.UNKNOWN, "behind 1,500 aborted messages nothing is known, and nothing is late");
    send(far, 0, BEGIN + 1_000);
    await(settings("", 0, far), seen -> seen.reached == BEGIN + 1_000);
  }

  private static void aBeginningThatWasDeletedStopsNothing() throws Exception {
    String topic = make("deleted", 1);
    // The largest stamp is deleted; the broker may name it for as long as its segment is there.
    send(topic, 0, BEGIN + 90_000);
    send(topic, 0, BEGIN);
    admin.deleteRecords(Map.of(new TopicPartition(topic, 0), RecordsToDelete.beforeOffset(1))).all().get();
    LogClock.Log log = await(settings("", 0, topic), seen -> seen.reached == BEGIN);
    holds(log.parts.get(new TopicPartition(topic, 0)).begin == 1, "it begins where it begins now");
    send(topic, 0, BEGIN + 1_000);
    await(settings("", 0, topic), seen -> seen.reached == BEGIN + 1_000);
  }

  private static void aTopicMadeAnewBeginsAnew() throws Exception {
    String topic = make("anew", 1);
    send(topic, 0, BEGIN + 90_000);
    KafkaSource.Settings settings = settings("", 0, topic);
    String id = await(settings, seen -> seen.reached == BEGIN + 90_000).parts.values().iterator().next().topicId;
    KafkaReader reader = new KafkaReader(source(settings, 0, 1), null);
    holds(read(reader, 1) == 1, "it is read");
    admin.deleteTopics(List.of(topic)).all().get();
    while (admin.listTopics().names().get().contains(topic)) {
      Thread.sleep(100);
    }
    make("anew", 1);
    send(topic, 0, BEGIN);
    LogClock.Log log = await(settings, seen -> seen.reached == BEGIN);
    holds(!log.parts.values().iterator().next().topicId.equals(id), "it is another topic");
    String refused = "";
    try {
      read(reader, 1);
    } catch (IOException error) {
      refused = error.getMessage();
    }
    holds(refused.contains("was made anew"), "a reader of the old one ends: " + refused);
    reader.close();
  }

  private static void anOutageIsNoSilence() throws Exception {
    String topic = make("outage", 1);
    send(topic, 0, BEGIN);
    KafkaSource.Settings settings = settings("", 500, topic);
    await(settings, seen -> seen.reached > BEGIN);
    // As after an hour in which the broker could not be asked.
    LogClock.host = Clock.offset(SYSTEM, Duration.ofHours(1));
    Thread.sleep(3_000);
    long reached = LogClock.of(settings).look().reached;
    LogClock.host = SYSTEM;
    holds(reached > BEGIN && reached < BEGIN + 600_000, "event time goes on by seconds: " + (reached - BEGIN));
  }

  private static void aHostWhoseClockIsBehindSaysSo() throws Exception {
    String topic = make("behind", 1);
    for (int number = 0; number < 20; number++) {
      send(topic, 0, SYSTEM.millis());
    }
    LogClock.host = Clock.offset(SYSTEM, Duration.ofDays(-2));
    String refused = "";
    try (KafkaReader reader = new KafkaReader(source(settings("", 0, topic), 0, 1), null)) {
      read(reader, 20);
    } catch (IOException error) {
      refused = error.getMessage();
    }
    LogClock.host = SYSTEM;
    holds(refused.contains("correct the clock"), "10 messages ahead of the clock by days: " + refused);
    try (KafkaReader reader = new KafkaReader(source(settings("", 0, topic), 0, 1), null)) {
      holds(read(reader, 20) == 20, "with its clock corrected it reads them");
    }
  }

  private static LogClock.Log await(KafkaSource.Settings settings, Predicate<LogClock.Log> wanted) throws Exception {
    LogClock.Log log = null;
    for (long end = System.nanoTime() + 120_000_000_000L; System.nanoTime() < end; Thread.sleep(50)) {
      log = LogClock.of(settings).look();
      if (log != null && wanted.test(log)) {
        return log;
      }
    }
    holds(false, settings.topics + " came to " + (log == null ? "nothing" : log.reached - BEGIN));
    return log;
  }

  /** Reads until so many messages came, or none for ten seconds. */
  private static int read(KafkaReader reader, int wanted) throws Exception {
    int count = 0;
    for (long end = System.nanoTime() + 10_000_000_000L; count < wanted && System.nanoTime() < end; Thread.sleep(5)) {
      count += (STARTED.add(reader) ? reader.start() : reader.advance()) ? 1 : 0;
    }
    return count;
  }

  private static KafkaSource.Settings settings(String group, long idle, String... topics) {
    Map<String, String> consumer = new HashMap<>();
    consumer.put("bootstrap.servers", servers);
    consumer.put("isolation.level", "read_committed");
    if (!group.isEmpty()) {
      consumer.put("group.id", group);
    }
    return new KafkaSource.Settings(consumer, List.of(topics), 0, idle);
  }

  private static KafkaSource source(KafkaSource.Settings settings, int split, int splits) {
    return new KafkaSource(settings, split, splits);
  }

  private static KafkaSource copy(KafkaSource source) throws Exception {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
      out.writeObject(source);
    }
    return (KafkaSource) new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())).readObject();
  }

  private static String make(String name, int partitions) throws Exception {
    String topic = "checks." + name;
    admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(Map.of("retention.ms", "-1"))))
        .all().get();
    return topic;
  }

  private static KafkaProducer<byte[], byte[]> producer(Map<String, Object> more) {
    Map<String, Object> all = new HashMap<>(more);
    all.put("bootstrap.servers", servers);
    return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
  }

  private static void send(String topic, int partition, long stamp) throws Exception {
    plain.send(new ProducerRecord<>(topic, partition, stamp, null, new byte[] {1})).get();
  }

  private static void abort(String topic, int count, long stamp) {
    try (KafkaProducer<byte[], byte[]> producer = producer(Map.of("transactional.id", topic))) {
      producer.initTransactions();
      producer.beginTransaction();
      for (int number = 0; number < count; number++) {
        producer.send(new ProducerRecord<>(topic, 0, stamp, null, new byte[] {1}));
      }
      producer.flush();
      producer.abortTransaction();
    }
  }

  private static void holds(boolean is, String what) {
    System.out.println((is ? "holds: " : "does not hold: ") + what);
    if (!is) {
      System.exit(1);
    }
  }
}
