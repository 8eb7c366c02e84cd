"""Several pipelines of one request: each compiled as if alone, and none lost to another's fault."""

import pytest

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from runtime import compiled_store, fresh_pipelines
from tests.tiny_pipeline.running import TINY
from tests.tiny_supervised.settings import SETTINGS

pytestmark = pytest.mark.slow
KILLED = "killed_pipeline"


def test_each_is_what_it_is_alone(tmp_path):
    together, alone = Home(tmp_path / "together"), Home(tmp_path / "alone")
    sources = [SETTINGS.source(part) for part in ("train", "promote")]
    _, promotion = fresh_pipelines.fresh_all(sources, together)
    source, arguments = sources[1]
    assert promotion.digest == fresh_pipelines.fresh(source, alone, arguments=arguments).digest
    assert "components/train.py" not in promotion.sources


def test_the_first_that_does_not_compile_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    (tmp_path / f"{KILLED}.py").write_text(
        "import os, signal\ndef create_pipeline():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    home = Home(tmp_path / "home")
    killed = f"{KILLED}:create_pipeline"
    with pytest.raises(TransientError, match=f"{KILLED}.*is memory short"):
        fresh_pipelines.fresh_all([(killed, None), ("no_such_pipeline", None), (TINY, None)], home)
    assert compiled_store.usable(TINY, home) is not None
    with pytest.raises(AirtightError, match="no_such_pipeline"):
        fresh_pipelines.fresh_all([(TINY, None), ("no_such_pipeline", None), (killed, None)], home)
