"""The manager: which versions of the folders and the config file are loaded, and when one is let go."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import types
from pathlib import Path

import pytest

from serving import load_threads, model_watch, scanning, version_folders, version_loader
from serving.config import ModelSettings, Settings, VersionPolicy, models_from_file
from serving.errors import Code, ServingError
from serving.manager import Manager
from serving.version_folders import versions_on_disk
from serving.versions import Registry, State


@pytest.mark.parametrize("wait", [0.0, -1.0])
def test_a_server_that_is_to_look_once_goes_on_serving(wait):
    async def run() -> None:
        manager = Manager(Settings(file_system_poll_wait_seconds=wait), Registry())
        await asyncio.wait_for(manager.run(), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_label_of_a_config_file_waits_for_its_version_alone(tmp_path, monkeypatch):
    broken: set[str] = set()

    def load(path: Path, *unused: object) -> object:
        if path.name in broken:
            raise ServingError(Code.INVALID_ARGUMENT, "broken")
        return object()

    monkeypatch.setattr(version_loader, "_load_warm", load)
    file = tmp_path / "models.config"

    def config(label: int) -> None:
        entries = [
            f"""config {{ name: "{name}" base_path: "{tmp_path}/{name}" model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: {label} }} }}"""
            for name in "ab"
        ]
        file.write_text("model_config_list {" + " ".join(entries) + "}")

    def version(name: str, number: int) -> None:
        (tmp_path / name / str(number)).mkdir(parents=True)
        (tmp_path / name / str(number) / "saved_model.pb").touch()

    async def run() -> None:
        config(1)
        settings = Settings(models=models_from_file(file), model_config_file=file, config_poll_wait_seconds=1e-9)
        registry = Registry()
        manager = Manager(settings, registry)

        async def look() -> dict[str, int]:
            await manager._reread_config()
            await manager.poll()
            return {name: model.labels["stable"] for name, model in registry.models.items()}

        for name in "ab":
            version(name, 1)
        await manager.poll()
        manager.apply_labels()
        broken.add("2")
        for name in "ab":
            version(name, 2)
        config(2)
        assert await look() == {"a": 1, "b": 1}  # Neither version 2 loads.
        broken.clear()
        (tmp_path / "a" / "2" / "repaired").touch()
        await look()
        assert await look() == {"a": 2, "b": 1}
        (tmp_path / "b" / "2" / "repaired").touch()
        await look()
        assert await look() == {"a": 2, "b": 2}

    asyncio.run(run())


def test_only_numbers_are_versions(tmp_path):
    for name in ("1", "20", "007", "1.tmp", ".3.tmp", "x", "²", "-1", "1_000", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert sorted(versions_on_disk(tmp_path)) == [1, 7, 20]
    with pytest.raises(FileNotFoundError):
        versions_on_disk(tmp_path / "nothing")


class Loaded:
    """Stands for a SavedModel in memory."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def broken(monkeypatch) -> set[Path]:
    """Folders of versions that do not load; all others do, without TensorFlow."""
    folders: set[Path] = set()

    def load(path: Path, *unused: object) -> Loaded:
        if path in folders:
            raise ServingError(Code.INVALID_ARGUMENT, "broken")
        return Loaded()

    monkeypatch.setattr(version_loader, "_load_warm", load)
    return folders


def managed(*models_: ModelSettings) -> Manager:
    return Manager(Settings(models=models_), Registry())


def test_a_base_path_that_goes_away_takes_nothing_with_it_and_an_empty_one_does(base, broken, caplog):
    async def run() -> None:
        manager = managed(ModelSettings("m", base))
        base.rename(base.with_name("away"))
        await manager.poll()  # It is not there yet.
        base.with_name("away").rename(base)
        (base / "1").mkdir()
        await manager.poll()
        base.rename(base.with_name("away"))
        await manager.poll()
        assert manager.registry.resolve("m").number == 1 and "left as they are" in caplog.text
        base.mkdir()
        await manager.poll()
        with pytest.raises(ServingError, match="Servable not found"):
            manager.registry.resolve("m")
        await manager.close()

    asyncio.run(run())


def test_a_model_that_cannot_be_looked_at_leaves_the_others_alone(base, broken, caplog):
    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("bad", Path("a\0b")), ModelSettings("m", base))
        await manager.poll()
        assert manager.registry.resolve("m").number == 1 and "null byte" in caplog.text
        await manager.close()

    asyncio.run(run())


def test_a_replacement_that_does_not_load_is_tried_again_only_when_its_files_change(base, broken, caplog):
    async def run() -> None:
        manager = managed(ModelSettings("m", base))
        (base / "1").mkdir()
        await manager.poll()
        served = manager.registry.resolve("m").loaded
        (base / "1").rename(base / "old")
        (base / "1").mkdir()
        broken.add(base / "1")
        for _ in range(3):
            await manager.poll()
        assert caplog.text.count("does not load") == 1 and manager.registry.resolve("m").loaded is served
        (base / "1" / "repaired").touch()
        broken.clear()
        await manager.poll()
        assert manager.registry.resolve("m").loaded is not served
        await manager.close()

    asyncio.run(run())


def test_a_request_that_is_slow_holds_up_its_own_version_alone(base, broken):
    async def run() -> None:
        other = base.with_name("n")
        for folder in (base / "1", other / "1"):
            folder.mkdir(parents=True)
        manager = managed(ModelSettings("m", base), ModelSettings("n", other))
        await manager.poll()
        slow = manager.registry.resolve("m")
        with slow as loaded:
            for folder in (base, other):
                (folder / "2").mkdir()
            await asyncio.wait_for(manager.poll(), 10)
            assert [manager.registry.resolve(name).number for name in "mn"] == [2, 2]
            shutil.rmtree(base / "1")
            await asyncio.wait_for(manager.poll(), 10)
            assert (slow.state, loaded.closed) == (State.UNLOADING, False) and 1 in manager.registry.models[
                "m"
            ].versions
            closing = asyncio.ensure_future(manager.close())
            await asyncio.sleep(0.05)
            assert not closing.done() and not loaded.closed
        await asyncio.wait_for(closing, 10)
        assert (slow.state, loaded.closed) == (State.END, True)

    asyncio.run(run())


def test_a_model_that_is_taken_away_is_forgotten_when_its_requests_have_ended(base, broken):
    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("m", base))
        await manager.poll()
        with manager.registry.resolve("m"):
            await manager.reload(())
            with pytest.raises(ServingError, match="Servable not found"):
                manager.registry.resolve("m")
            assert [version.state for version in manager.registry.states("m")] == [State.UNLOADING]
        await manager._loader.unloaded()
        await manager.poll()
        assert not manager.registry.models
        await manager.close()

    asyncio.run(run())


@pytest.mark.parametrize(("paths_s", "config_s", "looked_at"), [(60, 0.01, "config"), (0.01, 60, "paths")])
def test_base_paths_and_config_file_are_looked_at_each_in_its_own_time(monkeypatch, paths_s, config_s, looked_at):
    async def run() -> list[str]:
        looks = []

        async def look(what: str) -> None:
            looks.append(what)

        manager = Manager(
            Settings(file_system_poll_wait_seconds=paths_s, config_poll_wait_seconds=config_s), Registry()
        )
        monkeypatch.setattr(manager, "_look_at_all", lambda: look("paths"))
        monkeypatch.setattr(manager, "_reread_config", lambda: look("config"))
        running = asyncio.create_task(manager.run())
        while len(looks) < 5:
            await asyncio.sleep(0.01)
        running.cancel()
        return looks

    assert set(asyncio.run(asyncio.wait_for(run(), 30))) == {looked_at}


class Gate:
    """Holds the loads of some folders until it is opened."""

    def __init__(self, monkeypatch) -> None:
        self.closed: set[Path] = set()
        self.open, self.reached = threading.Event(), threading.Event()
        self.loaded: list[tuple[Path, Loaded]] = []
        monkeypatch.setattr(version_loader, "_load_warm", self._load)

    def _load(self, path: Path, *unused: object) -> Loaded:
        if path in self.closed:
            self.reached.set()
            assert self.open.wait(60)
        self.loaded.append((path, Loaded()))
        return self.loaded[-1][1]

    async def is_reached(self) -> None:
        """Waits until a load is held."""
        while not self.reached.is_set():
            await asyncio.sleep(0.01)


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.open.set()


def test_a_load_that_does_not_end_holds_up_no_other_model_and_no_other_version(base, gate, monkeypatch):
    monkeypatch.setattr(load_threads, "PATIENCE_S", 0.01)
    other = base.with_name("n")

    async def served(manager: Manager, name: str, number: int) -> None:
        while manager.registry.models[name].latest is None or manager.registry.resolve(name).number != number:
            await manager._look_at_all()
            await asyncio.sleep(0.01)

    async def run() -> None:
        for folder in (base / "1", other / "1"):
            folder.mkdir(parents=True)
        manager = managed(ModelSettings("m", base), ModelSettings("n", other))
        await manager.poll()
        gate.closed = {base / str(number) for number in range(2, 6)}
        for number in range(2, 6):  # More than there are threads.
            (base / str(number)).mkdir()
            await manager._look_at_all()
            await asyncio.sleep(0.05)
        (other / "2").mkdir()
        await asyncio.wait_for(served(manager, "n", 2), 30)
        (base / "6").mkdir()
        await asyncio.wait_for(served(manager, "m", 6), 30)
        shutil.rmtree(other / "2")
        await asyncio.wait_for(served(manager, "n", 1), 30)
        await asyncio.wait_for(manager.close(), 30)

    asyncio.run(run())


def test_a_load_that_is_not_wanted_any_more_is_let_go_when_it_has_ended(base, gate):
    async def run() -> None:
        manager = managed(ModelSettings("m", base))
        (base / "1").mkdir()
        await manager.poll()
        gate.closed = {base / "2"}
        (base / "2").mkdir()
        await manager._look_at_all()
        while 2 not in manager.registry.models["m"].versions:
            await asyncio.sleep(0.01)
        assert manager.registry.models["m"].versions[2].state == State.LOADING
        (base / "3").mkdir()
        await asyncio.wait_for(manager.poll(), 30)
        assert manager.registry.resolve("m").number == 3 and 2 not in manager.registry.models["m"].versions
        gate.open.set()
        while not any(path == base / "2" and loaded.closed for path, loaded in gate.loaded):
            await asyncio.sleep(0.01)
        assert manager.registry.resolve("m").number == 3
        await manager.close()

    asyncio.run(run())


def test_retries_of_one_model_keep_no_other_from_loading(base, broken):
    async def run() -> None:
        other = base.with_name("n")
        for folder in (base / "1", other / "1"):
            folder.mkdir(parents=True)
        broken.add(base / "1")
        settings = Settings(
            models=(ModelSettings("m", base), ModelSettings("n", other)),
            max_num_load_retries=5,
            load_retry_interval_s=3600,
            num_load_threads=1,
        )
        manager = Manager(settings, Registry())
        await manager._look_at_all()
        while manager.registry.models["n"].latest is None:
            await asyncio.sleep(0.01)
        await manager.reload((ModelSettings("n", other),))
        await asyncio.wait_for(manager.close(), 30)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_versions_on_disk_cost_nothing_while_nothing_changes(tmp_path, broken, monkeypatch):
    bases = [tmp_path / f"m{number}" for number in range(3)]
    for folder in bases:
        for number in range(1, 51):
            (folder / str(number)).mkdir(parents=True)
        os.utime(folder, (1e9, 1e9))
    scans = []

    def scandir(*given):
        scans.append(given)
        return scan(*given)

    async def run() -> None:
        manager = managed(*[ModelSettings(folder.name, folder) for folder in bases])
        await manager.poll()
        scans.clear()
        for _ in range(3):
            await manager.poll()
        assert not scans
        (bases[0] / "51").mkdir()
        await manager.poll()
        assert manager.registry.resolve("m0").number == 51
        assert {Path(*given) for given in scans} == {bases[0], bases[0] / "51"}
        (bases[1] / "50" / "replaced").touch()  # Beneath the base path, whose own times stay.
        before = manager.registry.resolve("m1").loaded
        await manager.poll()
        assert manager.registry.resolve("m1").loaded is not before
        await manager.close()

    scan = os.scandir
    # A folder's ctime is now: only its age says that it is final.
    monkeypatch.setattr(scanning, "COARSE_S", -1.0)
    monkeypatch.setattr(os, "scandir", scandir)
    asyncio.run(run())


@pytest.mark.parametrize(("age_s", "reads"), [(60.0, 1), (1.0, 3), (-60.0, 3)])
def test_a_folder_that_has_just_changed_is_read_again_whatever_its_times_say(base, monkeypatch, age_s, reads):
    calls = []
    listing = scanning.Listing(base, lambda path: calls.append(path) or {})
    changed = base.stat().st_mtime  # Its ctime is the same: it is new.
    monkeypatch.setattr(scanning.time, "time", lambda: changed + age_s)
    for _ in range(3):
        listing.versions(())
    assert len(calls) == reads
    monkeypatch.setattr(scanning.time, "time", lambda: changed + age_s + scanning.FULL_S + 1)
    listing.versions(())
    assert len(calls) == reads + 1


def test_a_reload_says_which_models_did_not_become_available_and_serves_the_others(base, broken):
    async def run() -> None:
        other, wrong = base.with_name("n"), base.with_name("wrong")
        for folder in (base / "1", other / "1", wrong / "1"):
            folder.mkdir(parents=True)
        broken.add(wrong / "1")
        manager = managed(ModelSettings("m", base))
        await manager.poll()
        listed = (ModelSettings("m", base), ModelSettings("n", other))

        async def refusal(*models_: ModelSettings) -> ServingError:
            with pytest.raises(ServingError) as refused:
                await manager.reload(models_)
            return refused.value

        relative = await refusal(*listed, ModelSettings("r", Path("relative")))
        assert relative.code is Code.INVALID_ARGUMENT and "to have an absolute path or URI" in relative.message
        assert list(manager.registry.models) == ["m"]
        nowhere = await refusal(*listed, ModelSettings("x", base.with_name("nowhere")))
        assert nowhere.code is Code.UNKNOWN
        assert nowhere.message.startswith("1 model(s) did not become available: {{name: x")
        assert manager.registry.resolve("n").number == 1
        failed = await refusal(*listed, ModelSettings("w", wrong))
        assert failed.code is Code.UNKNOWN and "version: 1 due to error: INVALID_ARGUMENT: broken" in failed.message
        moved = await refusal(ModelSettings("m", base.with_name("nowhere")))
        assert moved.code is Code.UNKNOWN and manager.registry.resolve("m").number == 1
        await manager.reload(listed)
        assert sorted(manager.registry.models) == ["m", "n"]
        await manager.close()

    asyncio.run(run())


def test_a_reload_waits_as_long_as_its_client_and_what_it_asked_for_is_loaded_all_the_same(base, gate):
    async def run() -> None:
        (base / "1").mkdir()
        gate.closed = {base / "1"}
        manager = managed()
        reload = asyncio.create_task(manager.reload((ModelSettings("m", base),)))
        await gate.is_reached()
        assert not reload.done()
        reload.cancel()  # The client goes.
        gate.open.set()
        while manager.registry.models["m"].latest is None:
            await asyncio.sleep(0.01)
        await manager.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_model_that_is_taken_away_while_it_is_looked_at_is_not_loaded_again(base, broken, monkeypatch):
    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("m", base))
        await manager.poll()
        reading, let_go = threading.Event(), threading.Event()
        read = model_watch._read

        def held(*given):
            reading.set()
            assert let_go.wait(60)
            return read(*given)

        monkeypatch.setattr(model_watch, "_read", held)
        (base / "2").mkdir()
        with manager.registry.resolve("m"):  # So that the model is known until this request has ended.
            await manager._look_at_all()
            while not reading.is_set():
                await asyncio.sleep(0.01)
            await manager.reload(())
            let_go.set()
            await asyncio.sleep(0.2)
            assert {version.state for version in manager.registry.states("m")} == {State.UNLOADING}
        await manager._loader.unloaded()
        await manager.poll()
        assert not manager.registry.models
        await manager.close()

    asyncio.run(run())


def test_a_version_that_is_refused_while_the_base_path_is_read_is_loaded_once(base, monkeypatch):
    loads, reading = [], threading.Event()
    may_fail, may_read = threading.Event(), threading.Event()
    read = model_watch._read

    def load(path: Path, *unused: object) -> Loaded:
        loads.append(path.name)
        if path.name == "1":
            return Loaded()
        assert may_fail.wait(60)
        raise ServingError(Code.INVALID_ARGUMENT, "broken")

    def held(*given):
        result = read(*given)
        if loads == ["1", "2"]:
            reading.set()
            assert may_read.wait(60)
        return result

    async def run() -> None:
        monkeypatch.setattr(version_loader, "_load_warm", load)
        monkeypatch.setattr(model_watch, "_read", held)
        manager = managed(ModelSettings("m", base))
        (base / "1").mkdir()
        await manager.poll()
        (base / "2").mkdir()
        await manager._look_at_all()
        while loads != ["1", "2"]:
            await asyncio.sleep(0.01)
        await manager._look_at_all()
        while not reading.is_set():
            await asyncio.sleep(0.01)
        may_fail.set()
        while manager.registry.states("m")[0].state != State.END:
            await asyncio.sleep(0.01)
        may_read.set()
        await manager.poll()
        [refused, _] = manager.registry.states("m")
        assert loads == ["1", "2"] and refused.state == State.END and refused.error.message == "broken"
        await manager.close()

    asyncio.run(run())


def test_a_version_whose_thread_does_not_start_is_tried_again_by_the_next_look(base, broken, monkeypatch):
    class NoLoad(threading.Thread):
        def start(self) -> None:
            if self.name == "load":
                raise RuntimeError("can't start new thread")
            super().start()

    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("m", base))
        with monkeypatch.context() as patched:
            patched.setattr(load_threads, "threading", types.SimpleNamespace(Thread=NoLoad))
            await asyncio.wait_for(manager.poll(), 30)
        [version] = manager.registry.states("m")
        assert version.state == State.END and "can't start new thread" in version.error.message
        await asyncio.wait_for(manager.poll(), 30)
        assert manager.registry.resolve("m").number == 1
        await manager.close()

    asyncio.run(run())


def test_a_file_that_cannot_be_looked_at_leaves_no_version_loading(base, broken, monkeypatch):
    lstat = os.lstat

    def stale(path, *given, **named):
        if str(path).endswith("stale"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return lstat(path, *given, **named)

    monkeypatch.setattr(version_folders.os, "lstat", stale)

    async def run() -> None:
        for number in (1, 2):
            (base / str(number)).mkdir()
        (base / "2" / "stale").touch()
        broken.add(base / "2")
        manager = managed(ModelSettings("m", base))
        await asyncio.wait_for(manager.poll(), 30)
        assert manager.registry.resolve("m").number == 1
        assert [version.state for version in manager.registry.states("m")] == [State.END, State.AVAILABLE]
        await manager.close()

    asyncio.run(run())


def test_a_reload_that_is_repeated_says_again_what_did_not_become_available(base, broken):
    async def run() -> None:
        (base / "1").mkdir()
        broken.add(base / "1")
        manager = managed()
        settings = ModelSettings("m", base)
        for _ in range(2):
            with pytest.raises(ServingError) as refused:
                await manager.reload((settings,))
            assert refused.value.code is Code.UNKNOWN
        broken.clear()
        (base / "1" / "repaired").touch()
        await manager.poll()
        await manager.reload((settings,))
        assert manager.registry.resolve("m").number == 1
        await manager.close()

    asyncio.run(run())


def test_labels_of_what_loads_are_given_though_another_model_does_not_or_nobody_waits(base, gate, monkeypatch):
    async def run() -> None:
        late = base.with_name("late")
        for folder in (base / "1", late / "1"):
            folder.mkdir(parents=True)
        gate.closed = {late / "1"}
        manager = managed()
        listed = (
            ModelSettings("m", base, labels={"stable": 1}),
            ModelSettings("late", late, labels={"stable": 1}),
            ModelSettings("nowhere", base.with_name("nowhere")),
        )
        reload = asyncio.create_task(manager.reload(listed))
        await gate.is_reached()
        while manager.registry.models["m"].latest is None:
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reload, 0.3)  # The client goes.
        assert manager.registry.resolve("m", label="stable").number == 1
        gate.open.set()
        await asyncio.wait_for(manager.poll(), 30)
        assert manager.registry.resolve("late", label="stable").number == 1
        (base / "2").mkdir()
        await manager.poll()
        moved = (ModelSettings("m", base, labels={"stable": 2}), *listed[1:])
        with pytest.raises(ServingError) as refused:
            await manager.reload(moved)
        assert refused.value.code is Code.UNKNOWN
        assert manager.registry.resolve("m", label="stable").number == 2
        await manager.close()

    asyncio.run(run())


def test_a_reload_that_another_one_overtakes_changes_nothing_more(base, gate):
    async def run() -> None:
        late = base.with_name("late")
        for folder in (base / "1", base / "2", late / "1"):
            folder.mkdir(parents=True)
        gate.closed = {late / "1"}
        every = VersionPolicy(every=True)
        manager = managed(ModelSettings("m", base, every))
        await manager.poll()
        first = asyncio.create_task(
            manager.reload((ModelSettings("m", base, every, {"stable": 1}), ModelSettings("late", late)))
        )
        await asyncio.sleep(0.1)
        await manager.reload((ModelSettings("m", base, every, {"stable": 2}),))
        gate.open.set()
        with pytest.raises(ServingError) as refused:
            await asyncio.wait_for(first, 30)
        assert refused.value.code is Code.ABORTED
        assert manager.registry.resolve("m", label="stable").number == 2
        await manager.close()

    asyncio.run(run())
