"""Two model servers and a router in front of them, started once."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from tests.serving import models
from tests.serving.router import routers


@pytest.fixture(scope="session")
def models_root(tmp_path_factory):
    """`affine` (versions 1 and 2, labelled), `half` (3 and 4, the same model) and `mixed` (1)."""
    root = tmp_path_factory.mktemp("router") / "models"
    for name in ("affine", "half", "mixed"):
        (root / name).mkdir(parents=True)
    models.save_affine(root / "affine" / "1", 1.0)
    models.save_affine(root / "affine" / "2", 2.0)
    for version in ("3", "4"):
        models.save_half_plus_two(root / "half" / version)
    models.save_mixed(root / "mixed" / "1")
    (root / "models.config").write_text(
        f"""
        model_config_list {{
          config {{ name: "half" base_path: "{root}/half" model_version_policy {{ all {{}} }} }}
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
    return root


@pytest.fixture(scope="session")
def servers(models_root, tmp_path_factory):
    """Two servers of the same models; requests over 8 MiB are too large for them."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                models.running(
                    tmp_path_factory.mktemp("server"),
                    f"--model_config_file={models_root}/models.config",
                    "--max_request_bytes=8388608",
                )
            )
            for _ in range(2)
        ]


@pytest.fixture(scope="session")
def addresses(servers):
    return [(server.rest, server.grpc) for server in servers]


@pytest.fixture(scope="session")
def plain(models_root, addresses, tmp_path_factory):
    """A router in front of both, without releases."""
    with routers.routing(tmp_path_factory.mktemp("plain"), models_root, addresses) as running:
        yield running


@pytest.fixture
def router(models_root, addresses, tmp_path):
    """A router of its own, with its own folder for `releases.json`."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(models_root / "models.config", root)
    with routers.routing(tmp_path / "router", root, addresses) as running:
        yield running
