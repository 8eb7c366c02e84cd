"""The manager: which versions of the folders and the config file are loaded, and when one is let go."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest

from serving import manager as manager_module
from serving.config import ModelSettings, Settings, models_from_file
from serving.errors import Code, ServingError
from serving.manager import Manager, versions_on_disk
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

    monkeypatch.setattr(manager_module, "_load_warm", load)
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

    monkeypatch.setattr(manager_module, "_load_warm", load)
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
        await asyncio.gather(*manager._going)
        await manager.poll()
        assert not manager.registry.models
        await manager.close()

    asyncio.run(run())


def test_base_paths_and_config_file_are_looked_at_each_in_its_own_time(tmp_path, monkeypatch):
    async def run() -> list[str]:
        looks = []

        async def look(what: str) -> None:
            looks.append(what)

        manager = Manager(Settings(file_system_poll_wait_seconds=60, config_poll_wait_seconds=0.01), Registry())
        monkeypatch.setattr(manager, "poll", lambda: look("paths"))
        monkeypatch.setattr(manager, "_reread_config", lambda: look("config"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(manager.run(), 0.2)
        return looks

    assert set(asyncio.run(run())) == {"config"}
