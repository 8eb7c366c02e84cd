"""Which folders are versions, and what the log says of a base path without any."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from serving import version_folders, version_loader
from serving.config import ModelSettings, Settings, models_from_text, settings_from_flags
from serving.manager import Manager
from serving.version_folders import versions_on_disk
from serving.versions import Registry, State


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1),
        ("00000123", 123),
        ("0", 0),
        ("000", 0),
        ("+7", 7),
        (" 7 ", 7),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("-7", None),
        ("1_000", None),
        ("٣", None),
        ("1.0", None),
        ("0x1", None),
        (".1.ab.tmp", None),
        ("1.tmp", None),
        ("", None),
    ],
)
def test_names_are_read_as_tensorflow_serving_reads_them(name, number):
    assert version_folders.number_of(name) == number


def test_of_two_folders_of_one_version_the_one_without_padding_counts(base):
    for name in ("0003", "03", "3", "0007", "007"):
        (base / name).mkdir()
    (base / "00000009").touch()
    assert {number: folder.name for number, folder in versions_on_disk(base).items()} == {3: "3", 7: "007"}


def looks(manager: Manager, *changes) -> None:
    async def run() -> None:
        for change in changes:
            change()
            for _ in range(3):
                await manager.poll()

    asyncio.run(run())


def test_a_padded_version_is_loaded_from_its_folder(base, monkeypatch):
    loaded: list[Path] = []
    monkeypatch.setattr(version_loader, "_load_warm", lambda path, *unused: loaded.append(path) or object())
    registry = Registry()
    (base / "00000123").mkdir()
    looks(Manager(Settings(models=(ModelSettings("m", base),)), registry), lambda: None)
    assert loaded == [base / "00000123"]
    assert registry.resolve("m", 123).state == State.AVAILABLE


def test_what_is_wrong_with_a_base_path_is_said_once_for_each_change(base, monkeypatch, caplog):
    monkeypatch.setattr(version_loader, "_load_warm", lambda path, *unused: object())
    caplog.set_level(logging.WARNING, "serving.model_watch")
    base.rmdir()
    aside = base.with_name("aside")
    looks(
        Manager(Settings(models=(ModelSettings("m", base),)), Registry()),
        lambda: None,
        base.mkdir,
        (base / "first").mkdir,
        (base / "1").mkdir,
        lambda: base.rename(aside),
        lambda: aside.rename(base),
        lambda: base.rename(aside),
    )
    missing = f"Could not find base path {base} for servable m"
    left = f"The versions of m were left as they are: {missing}"
    assert [record.getMessage() for record in caplog.records] == [
        missing,
        f"No versions of servable m found under base path {base}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?",
        left,
        left,
    ]


def test_a_scheme_that_is_not_supported_is_said_and_that_of_files_means_nothing(base, caplog):
    text = 'model_config_list {{ config {{ name: "m" base_path: "{}" }} }}'
    (model,) = models_from_text(text.format("s3://bucket/m"), "here")
    looks(Manager(Settings(models=(model,)), Registry()), lambda: None)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "File system scheme 's3' is not supported"
    ]
    assert models_from_text(text.format(f"file://{base}"), "here")[0].base_path == base
    flags = settings_from_flags(["--model_name=m", f"--model_base_path=file://{base}"])
    assert flags.models[0].base_path == base


def test_a_config_file_that_cannot_be_read_is_said_once(tmp_path, caplog, monkeypatch):
    async def run() -> None:
        file = tmp_path / "models.config"
        file.write_text("half wri")
        settings = Settings(model_config_file=file, config_poll_wait_seconds=0.005)
        manager, looks = Manager(settings, Registry()), []
        look = manager._reread_config
        monkeypatch.setattr(manager, "_reread_config", lambda: looks.append(1) or look())
        running = asyncio.create_task(manager.run())
        while len(looks) < 5:
            await asyncio.sleep(0.005)
        running.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert len([record for record in caplog.records if "left as it is" in record.getMessage()]) == 1
