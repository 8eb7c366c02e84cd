"""One server for the contract suite, which starts once and serves three models, and an empty base path for a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import models


@pytest.fixture(scope="session")
def contract_server(tmp_path_factory):
    """A server with the models `half` (version 3), `mixed` (version 1) and `affine` (versions 1 and 2, two labels)."""
    root = tmp_path_factory.mktemp("contract")
    for name in ("half", "mixed", "affine"):
        (root / name).mkdir()
    models.save_half_plus_two(root / "half" / "3")
    models.save_mixed(root / "mixed" / "1")
    models.save_affine(root / "affine" / "1", 1.0)
    models.save_affine(root / "affine" / "2", 2.0)
    config = root / "models.config"
    config.write_text(
        f"""
        model_config_list {{
          config {{ name: "half" base_path: "{root}/half" model_platform: "tensorflow" }}
          config {{ name: "mixed" base_path: "{root}/mixed" }}
          config {{
            name: "affine" base_path: "{root}/affine"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }}
            version_labels {{ key: "canary" value: 2 }}
          }}
        }}
        """
    )
    with models.running(root, f"--model_config_file={config}", "--max_request_bytes=8388608") as server:
        yield server


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    return folder
