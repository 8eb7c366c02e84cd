"""The classes of the source, called directly by a small program in Java, with a real broker."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.own_cluster import OwnCluster
from services import flink_jars, jars

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).parent / "java" / "airtight" / "SourceChecks.java"


def test_the_sources_classes_hold_what_they_promise(cluster: OwnCluster, tmp_path: Path) -> None:
    classes = flink_jars.class_path(cluster.home)
    # The compiler takes no `folder/*`.
    libraries = [str(jar) for name in flink_jars.SETS[:2] for jar in jars.folder(name).iterdir()]
    (compiler,) = jars.folder("java-compiler").iterdir()
    against = ":".join([str(flink_jars.own_jar(cluster.home)), *libraries])
    compile_it = [jars.java(), "-jar", str(compiler), f"-{flink_jars.JAVA}", "-cp", against, "-d", str(tmp_path)]
    subprocess.run([*compile_it, str(CHECKS)], check=True, timeout=600)
    command = [jars.java(), "-Xmx128m", "-cp", f"{tmp_path}:{classes}", "airtight.SourceChecks", cluster.servers]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert "with its clock corrected it reads them" in result.stdout
