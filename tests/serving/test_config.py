"""Flags and config files: TensorFlow Serving's names, refusals in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from airtight.errors import TerminalError
from serving.config import VersionPolicy, models_from_text, settings_from_flags


def test_flags_have_tensorflow_servings_names_and_defaults():
    settings = settings_from_flags(["--model_name=m", "--model_base_path=/models/m"])
    assert (settings.host, settings.port, settings.rest_api_port) == ("127.0.0.1", 8500, 8501)
    assert [(model.name, model.base_path) for model in settings.models] == [("m", Path("/models/m"))]
    assert settings.file_system_poll_wait_seconds == 1
    settings = settings_from_flags(["--models_root=/models", "--port", "0", "--exit_with_stdin=false"])
    assert (settings.models, settings.models_root, settings.port) == ((), Path("/models"), 0)
    assert not settings.exit_with_stdin
    assert settings_from_flags(["--models_root=/m", "--exit_with_stdin"]).exit_with_stdin
    assert settings_from_flags(["--models_root=/m", "--allow_ops=ReadFile, WriteFile"]).allow_ops == {
        "ReadFile",
        "WriteFile",
    }


@pytest.mark.parametrize(
    "flags",
    [[], ["--models_root=/m", "--model_base_path=/m"], ["--model_config_file=/nowhere"]],
)
def test_flags_that_leave_open_what_to_serve_are_refused(flags):
    with pytest.raises(TerminalError):
        settings_from_flags(flags)
    with pytest.raises(SystemExit):
        settings_from_flags(["--models_root=/m", "--port=x"])
    with pytest.raises(SystemExit):
        settings_from_flags(["--models_root=/m", "--exit_with_stdin=perhaps"])


def test_a_config_file_is_read_whole():
    models = models_from_text(
        """model_config_list {
          config { name: "a" base_path: "/a" model_version_policy { latest { num_versions: 2 } } }
          config { name: "b" base_path: "/b" model_version_policy { specific { versions: 3 versions: 5 } }
                   version_labels { key: "stable" value: 3 } }
          config { name: "c" base_path: "/c" model_version_policy { all {} } }
        }""",
        "here",
    )
    assert [model.policy.choose([1, 2, 3, 5]) for model in models] == [{3, 5}, {3, 5}, {1, 2, 3, 5}]
    assert models[1].labels == {"stable": 3}
    assert VersionPolicy().choose([]) == set()
    assert VersionPolicy().choose([1, 10, 9]) == {10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "cannot be read"),
        ('model_config_list { config { name: "a" } }', "base_path"),
        ('model_config_list { config { base_path: "/a" } }', "name"),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "onnx" } }', "onnx"),
        ('model_config_list { config { name: "a" base_path: "/a" } config { name: "a" base_path: "/b" } }', "once"),
        ('model_config_list { config { name: "a" base_path: "/a" model_version_policy { specific {} } } }', "specific"),
        ("custom_model_config {}", "custom"),
        (r'model_config_list { config { name: "a" base_path: "a\000b" } }', "NUL"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_refused_in_words(text, message):
    with pytest.raises(TerminalError, match=message):
        models_from_text(text, "here")
