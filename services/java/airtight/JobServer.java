package airtight;

import java.util.Arrays;
import java.util.List;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.runners.flink.FlinkJobInvoker;
import org.apache.beam.runners.flink.FlinkJobServerDriver;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.FlinkPipelineRunner;
import org.apache.beam.runners.jobsubmission.JobInvocation;
import org.apache.beam.runners.jobsubmission.PortablePipelineRunner;
import org.apache.beam.sdk.expansion.service.ExpansionServer;
import org.apache.beam.sdk.expansion.service.ExpansionService;
import org.apache.beam.sdk.expansion.service.ExpansionServiceOptions;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.options.ExperimentalOptions;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.util.concurrent.ListeningExecutorService;

/**
 * Beam's job server with an expansion service that expands reads into Flink's own sources.
 *
 * <p>The job server's own expansion service takes no options, and without use_deprecated_read a source becomes a
 * splittable DoFn, which Beam 2.62 cannot checkpoint without leaking.
 */
public final class JobServer {
  /** Arguments: host and port of the expansion service, the folder of flink-conf.yaml, then FlinkJobServerDriver's. */
  public static void main(String[] args) throws Exception {
    PipelineOptionsFactory.register(ExpansionServiceOptions.class);
    PipelineOptions options = PipelineOptionsFactory.create();
    ExperimentalOptions.addExperiment(options.as(ExperimentalOptions.class), "use_deprecated_read");
    FileSystems.setDefaultPipelineOptions(PipelineOptionsFactory.create());
    ExpansionServer.create(new ExpansionService(options), args[0], Integer.parseInt(args[1]));
    String[] rest = Arrays.copyOfRange(args, 3, args.length);
    FlinkJobServerDriver.FlinkServerConfiguration configuration = FlinkJobServerDriver.parseArgs(rest);
    FlinkJobServerDriver.fromConfig(configuration, () -> new Invoker(configuration, args[2])).run();
    // It has logged why. The expansion service's threads would keep the process alive.
    System.exit(1);
  }

  /** Uploads no jars with a job: all are on the TaskManagers' class path. Beam would send 160 MB, which takes 20 s. */
  private static final class Invoker extends FlinkJobInvoker {
    private final String folder;

    Invoker(FlinkJobServerDriver.FlinkServerConfiguration configuration, String folder) {
      super(configuration);
      this.folder = folder;
    }

    @Override
    protected JobInvocation createJobInvocation(
        String id,
        String token,
        ListeningExecutorService executor,
        RunnerApi.Pipeline pipeline,
        FlinkPipelineOptions options,
        PortablePipelineRunner runner) {
      PortablePipelineRunner ours = new FlinkPipelineRunner(options, folder, List.of());
      return super.createJobInvocation(id, token, executor, pipeline, options, ours);
    }
  }
}
