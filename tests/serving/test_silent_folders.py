"""Base paths, roots and config files that do not answer (their file server is gone): nobody else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import file_reads, models_root, version_loader
from serving.config import ModelSettings, Settings, VersionPolicy
from serving.errors import Code, ServingError
from serving.manager import Manager
from serving.versions import Registry
from tests.serving import models

MNT_FORCE_DETACH = 1 | 2
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A file system (FUSE) whose server never answers: each call that touches the folder blocks in the kernel."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE: {error}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if LIBC.mount(b"silent", bytes(folder), b"fuse", 0, options):
            pytest.skip(f"no right to mount: {os.strerror(ctypes.get_errno())}")
        yield
    finally:
        os.close(device)  # Ends the calls that wait.
        LIBC.umount2(bytes(folder), MNT_FORCE_DETACH)


@contextlib.contextmanager
def patched(folder: Path) -> Iterator[None]:
    """The same for what reads a base path or a root of models in this process."""
    answers, stat, scandir = threading.Event(), os.stat, os.scandir

    def silent(read):
        def call(path, *args, **kwargs):
            if isinstance(path, (str, Path)) and Path(path).is_relative_to(folder):
                answers.wait()
            return read(path, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "stat", silent(stat))
        monkeypatch.setattr(os, "scandir", silent(scandir))
        try:
            yield
        finally:
            answers.set()


@pytest.fixture(params=[mounted, patched])
def silent(request):
    return request.param


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Models without TensorFlow, and little patience."""
    monkeypatch.setattr(version_loader, "_load_warm", lambda path, *unused: Loaded())
    monkeypatch.setattr(file_reads, "SILENT_S", 0.2)


class Loaded:
    """Stands for a SavedModel in memory."""

    def close(self) -> None:
        """Frees nothing."""


def folders(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name / "1").mkdir(parents=True)
    return [root / name for name in names]


async def served(manager: Manager, name: str, number: int) -> None:
    while True:
        with contextlib.suppress(ServingError):
            if manager.registry.resolve(name).number == number:
                return
        await asyncio.sleep(0.01)


def run(steps) -> None:
    asyncio.run(asyncio.wait_for(steps, 30))


def test_a_base_path_that_does_not_answer_delays_no_other_model(tmp_path, silent, caplog):
    gone, base = folders(tmp_path, "gone", "m")

    async def steps() -> None:
        settings = Settings(
            models=(ModelSettings("gone", gone), ModelSettings("m", base)), file_system_poll_wait_seconds=0.01
        )
        manager = Manager(settings, Registry())
        await manager.poll()
        polling = asyncio.create_task(manager.run())
        with silent(gone):
            while "gone has not answered" not in caplog.text:
                await asyncio.sleep(0.01)
            (base / "2").mkdir()
            await served(manager, "m", 2)
            assert manager.registry.resolve("gone").number == 1
            assert caplog.text.count("gone has not answered") == 1
        polling.cancel()
        await manager.close()

    run(steps())


def test_more_base_paths_than_threads_that_do_not_answer_delay_no_other_model(tmp_path, monkeypatch):
    monkeypatch.setattr(file_reads, "PATIENCE_S", 0.01)
    root, base = tmp_path / "gone", *folders(tmp_path, "m")
    gone = folders(root, *map(str, range(2 * file_reads.READS)))

    async def steps() -> None:
        listed = (*(ModelSettings(path.name, path) for path in gone), ModelSettings("m", base))
        manager = Manager(Settings(models=listed), Registry())
        with patched(root):
            await manager.poll()
            await served(manager, "m", 1)
        await manager.close()

    run(steps())


def test_a_reload_answers_for_what_answers(tmp_path, silent):
    gone, base = folders(tmp_path, "gone", "m")
    (base / "2").mkdir()
    every = VersionPolicy(every=True)

    def listed(label: int, *others: ModelSettings) -> tuple[ModelSettings, ...]:
        return (ModelSettings("m", base, every, {"stable": label}), *others)

    async def steps() -> None:
        manager = Manager(Settings(models=listed(1)), Registry())
        await manager.poll()
        with silent(gone):
            calling = asyncio.create_task(manager.reload(listed(2, ModelSettings("gone", gone))))
            while manager.registry.models["m"].labels != {"stable": 2}:
                assert not calling.done()
                await asyncio.sleep(0)
            with pytest.raises(ServingError, match=r"name: gone; .*gone has not answered") as refused:
                await calling
            assert refused.value.code is Code.UNKNOWN
            # It is known by now, so that nobody waits for it again; and another path of its is read at once.
            with pytest.raises(ServingError, match="gone has not answered"):
                await manager.reload(listed(1, ModelSettings("gone", gone), ModelSettings("n", base)))
            assert manager.registry.models["m"].labels == {"stable": 1}
            assert manager.registry.resolve("n").number == 2
            await manager.reload(listed(1, ModelSettings("gone", base)))
            assert manager.registry.resolve("gone").number == 2
        await manager.close()

    run(steps())


def test_a_base_path_that_answers_late_is_served_without_another_look(tmp_path):
    gone, *_ = folders(tmp_path, "gone")

    async def steps() -> None:
        manager = Manager(Settings(models=(ModelSettings("gone", gone),)), Registry())
        with patched(gone):
            await manager.poll()
            assert not manager.registry.models["gone"].versions
        await served(manager, "gone", 1)
        await manager.close()

    run(steps())


def test_a_root_of_models_that_does_not_answer_leaves_the_known_ones_in_view(tmp_path):
    root = tmp_path / "root"
    base, *_ = folders(root, "m")
    scandir = os.scandir

    async def steps() -> None:
        manager = Manager(Settings(models_root=root), Registry())
        with patched(root):
            await manager.poll()  # Nothing is known yet, and the server starts all the same.
        while not manager.registry.models:
            await manager.poll()
        answers = threading.Event()

        def held(path):
            if path == root:
                answers.wait()
            return scandir(path)

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(os, "scandir", held)
            (base / "2").mkdir()
            with pytest.raises(TimeoutError, match="root has not answered"):
                await manager._look_at_all()
            await served(manager, "m", 2)
            answers.set()
        await manager.close()

    run(steps())


def test_a_link_in_a_root_that_does_not_answer_hides_no_other_model(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(models_root, "PATIENCE_S", 0.1)
    root = tmp_path / "root"
    gone, other, base, *_ = folders(tmp_path, "gone", "other", "root/m")
    (root / "linked").symlink_to(other)
    (root / "known").symlink_to(gone)
    (root / "nothing").symlink_to(tmp_path / "nothing")

    async def steps() -> None:
        manager = Manager(Settings(models_root=root), Registry())
        await manager.poll()
        assert manager.registry.models.keys() == {"known", "linked", "m"}
        with mounted(gone):
            (root / "new").symlink_to(gone)
            folders(root, "n")
            (base / "2").mkdir()
            for _ in range(2):
                await manager._look_at_all()
                await served(manager, "n", 1)
                await served(manager, "m", 2)
                assert manager.registry.models.keys() == {"known", "linked", "m", "n"}
            assert manager.registry.resolve("known").number == 1
            assert caplog.text.count("root/new has not answered") == 1
        while "new" not in manager.registry.models:
            await manager._look_at_all()
        # One whose file system has gone fails at once, and is kept as well.
        (root / "known").unlink()
        (root / "known").symlink_to("known")
        folders(root, "last")
        await manager._look_at_all()
        assert manager.registry.models.keys() == {"known", "linked", "m", "n", "new", "last"}
        await manager.close()

    run(steps())


@pytest.mark.slow
def test_what_does_not_answer_delays_no_other_model_and_not_the_end_of_the_server(tmp_path):
    names = ("gone", "m")
    root = tmp_path / "models"
    for name in names:
        (root / name).mkdir(parents=True)
        models.save_affine(root / name / "1", 1.0)
    file = tmp_path / "models.config"
    entries = " ".join(f'config {{ name: "{name}" base_path: "{root}/{name}" }}' for name in names)
    file.write_text(f"model_config_list {{ {entries} }}")
    flags = ("--file_system_poll_wait_seconds=0.05", "--model_config_file_poll_wait_seconds=0.05")
    with models.running(tmp_path, f"--model_config_file={file}", *flags) as server:

        def serves(number: int) -> None:
            """A new version of one model, and the known one of the other."""
            models.save_affine(root / "m" / str(number), float(number))
            server.await_states("m", **{f"v{number}": "AVAILABLE"})
            for name, answer in (("gone", 3.0), ("m", 3.0 * number)):
                path = f"/v1/models/{name}:predict"
                assert server.ask("POST", path, {"instances": [3.0]}) == (200, {"predictions": [answer]})

        os.mkfifo(file.with_name("pipe"))
        file.with_name("pipe").replace(file)  # Nobody writes into it.
        serves(2)
        with mounted(root / "gone"):
            serves(3)
            os.kill(server.process.pid, signal.SIGTERM)
            assert server.process.wait(60) == 0
