"""Which runs a reader of a page may see."""

import gc
import weakref

from plugins.tfx_airflow.pages.visible import Visible


class Store:
    """A store that knows no run."""


def test_a_page_that_is_made_keeps_no_store_open(monkeypatch):
    monkeypatch.setattr("runtime.lineage.dags.runs_of_dag", lambda *_: {})
    monkeypatch.setattr("runtime.lineage.dags.dag_of_run", lambda store, key: {"other": "another_dag"}.get(key, ""))
    dags = []
    page = Visible(Store(), "a_dag", dags.append)
    assert [page.run(key) for key in ("manual", "other", "other")] == [True, None, None]
    assert dags == ["another_dag"]
    store = weakref.ref(page.store)
    gc.disable()
    try:
        del page
        assert store() is None, "it waits for the garbage collector"
    finally:
        gc.enable()
