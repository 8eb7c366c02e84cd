"""The program `beam-workers`: starts a Python worker for each TaskManager of Flink that asks for one.

Its address is AIRTIGHT_BEAM_WORKERS. Beam's own worker pool listens on every interface, starts whatever `python` is
first on PATH, and gives a worker that prints a pipe that nobody reads. Each of its workers imports Beam for itself,
which takes 1.4 s of CPU and 240 MB; these are forked from a process that has imported it.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import threading
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import grpc
import psutil
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils import thread_pool_executor

from streaming.engine import addresses

_HARNESS = "apache_beam.runners.worker.sdk_worker"
GARBAGE = (100_000, 50, 50)
"""Thresholds of a worker's garbage collection, see `gc.set_threshold`."""
_FORKED = multiprocessing.get_context("forkserver")
# Beam alone: a worker that is asked for after an upgrade imports the pipelines' new code.
_FORKED.set_forkserver_preload([_HARNESS])


@dataclass(frozen=True)
class Worker:
    """A worker that was started.

    Args:
      id: As its TaskManager names it, which counts anew in each of them.
      taskmanager: Id of the process that asked for it; None where that is in another container than the pool.
      process: It.
    """

    id: str
    taskmanager: int | None
    process: BaseProcess


class Pool(BeamFnExternalWorkerPoolServicer):
    """Starts and stops workers, each a process."""

    def __init__(self) -> None:
        super().__init__(use_process=True)
        self._workers: list[Worker] = []
        self._lock = threading.Lock()

    def StartWorker(self, start_worker_request: Any, context: Any) -> Any:
        """Starts the worker that a TaskManager asks for; the response holds the error where it cannot."""
        worker_id, endpoint = start_worker_request.worker_id, start_worker_request.control_endpoint.url
        try:
            taskmanager = _caller(context)
            process = _FORKED.Process(target=work, args=(endpoint, worker_id), daemon=True)
            with self._lock:
                process.start()
                alive = [worker for worker in self._workers if worker.process.is_alive()]
                self._workers = [*alive, Worker(worker_id, taskmanager, process)]
        except (OSError, psutil.Error) as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, stop_worker_request: Any, context: Any) -> Any:
        """Ends a worker of the TaskManager that calls, which never hangs up where it gave up before the worker came.

        Beam's runner does not call where Flink interrupts it while it waits for a worker, as when another TaskManager
        dies at that moment: such a worker is idle until its TaskManager ends.
        """
        caller = _caller(context)
        for worker in self._workers:  # Never changed, only replaced.
            # A TaskManager that cannot be seen has a pool of its own.
            if (worker.id, worker.taskmanager) == (stop_worker_request.worker_id, caller):
                worker.process.terminate()
        return beam_fn_api_pb2.StopWorkerResponse()


def work(endpoint: str, worker_id: str) -> None:
    """A worker: runs until the TaskManager closes the connection, when the job ends there or it is killed itself.

    Args:
      endpoint: Of the TaskManager's control plane, host:port.
      worker_id: As its TaskManager names it.
    """
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    # Neither events nor totals are in cycles, and Beam makes few. Python's own thresholds would walk all that a worker
    # holds again and again, which takes longer than the work itself.
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    SdkHarness(endpoint, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=-1).run()


def _caller(context: Any) -> int | None:
    """Id of the process from whose port a request comes; None where that cannot be seen."""
    port = int(context.peer().rpartition(":")[2])
    pool = int(addresses.workers().rpartition(":")[2])
    connections = psutil.net_connections("tcp")
    ends = ((one.pid, one.laddr.port, one.raddr.port) for one in connections if one.pid and one.laddr and one.raddr)
    return next((pid for pid, own, other in ends if (own, other) == (port, pool)), None)


def main() -> None:
    """Serves until SIGTERM; its workers end with it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    forkserver.ensure_running()
    pool, address = Pool(), addresses.workers()
    # A pool must outlive long silences of its TaskManagers.
    options = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 0)]
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=options)
    server.add_insecure_port(address)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.start()
    logging.getLogger(__name__).info("Starts workers for Flink at %s.", address)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(0)


if __name__ == "__main__":
    main()
