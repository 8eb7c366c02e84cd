"""A distribution that a test installs and upgrades in a folder on PYTHONPATH, as an installer does."""

import py_compile
import shutil
import tempfile
from pathlib import Path


def install(site: Path, name: str, version: str, code: str = "") -> None:
    """Replaces a distribution of one module, whose VERSION is its version.

    It comes without sources: the fingerprint then takes it for installed, wherever it lies.

    Args:
      site: The folder.
      name: Of the distribution and of its module.
      version: What to install; "" only removes what is there.
      code: Further code of the module.
    """
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    (site / f"{name}.pyc").unlink(missing_ok=True)
    if not version:
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"{name}.py")
        source.write_text(f"VERSION = {version!r}\n{code}")
        py_compile.compile(str(source), str(site / f"{name}.pyc"), doraise=True)
    metadata = site / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "top_level.txt").write_text(f"{name}\n")
