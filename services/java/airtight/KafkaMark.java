package airtight;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.HashMap;
import java.util.Map;
import org.apache.beam.sdk.coders.CustomCoder;
import org.apache.beam.sdk.io.UnboundedSource;
import org.apache.kafka.common.TopicPartition;

/** How far a split has read: the next offset and the watermark of each of its partitions, and which topic that was. */
final class KafkaMark implements UnboundedSource.CheckpointMark {
  final Map<TopicPartition, Position> positions;
  private final KafkaReader reader;

  KafkaMark(Map<TopicPartition, Position> positions, KafkaReader reader) {
    this.positions = positions;
    this.reader = reader;
  }

  /** Flink has completed the checkpoint. */
  @Override
  public void finalizeCheckpoint() {
    if (reader != null) {
      reader.completed(this);
    }
  }

  /** Of one partition. */
  static final class Position {
    final String topicId;
    long next;
    long watermark;

    Position(String topicId, long next, long watermark) {
      this.topicId = topicId;
      this.next = next;
      this.watermark = watermark;
    }
  }

  /** Written by hand, so that it does not change with the class. */
  static final class MarkCoder extends CustomCoder<KafkaMark> {
    private static final long serialVersionUID = 1L;

    @Override
    public void encode(KafkaMark mark, OutputStream stream) throws IOException {
      DataOutputStream out = new DataOutputStream(stream);
      out.writeInt(mark.positions.size());
      for (Map.Entry<TopicPartition, Position> entry : mark.positions.entrySet()) {
        out.writeUTF(entry.getKey().topic());
        out.writeInt(entry.getKey().partition());
        out.writeUTF(entry.getValue().topicId);
        out.writeLong(entry.getValue().next);
        out.writeLong(entry.getValue().watermark);
      }
      out.flush();
    }

    @Override
    public KafkaMark decode(InputStream stream) throws IOException {
      DataInputStream in = new DataInputStream(stream);
      Map<TopicPartition, Position> positions = new HashMap<>();
      for (int left = in.readInt(); left > 0; left--) {
        TopicPartition partition = new TopicPartition(in.readUTF(), in.readInt());
        positions.put(partition, new Position(in.readUTF(), in.readLong(), in.readLong()));
      }
      return new KafkaMark(positions, null);
    }
  }
}
