"""models.config: one file says what is served, whoever writes it, and the server reads what was written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from components.modelling.served import HIGHEST, STABLE, Choice, Served, main
from serving.config import VersionPolicy, models_from_file

JUNE, JULY = 201307010400001, 201308010400001


@pytest.fixture
def served(tmp_path) -> Served:
    return Served(tmp_path / "models")


def read(served: Served) -> dict:
    """The file as our server reads it."""
    return {model.name: model for model in models_from_file(served.file)}


def test_a_model_that_is_entered_is_served_at_its_highest_version(served):
    assert served.choice("toy") == HIGHEST
    served.enter("toy")
    entry = read(served)["toy"]
    assert (entry.base_path, entry.policy, entry.labels) == (served.root / "toy", VersionPolicy(latest=1), {})
    before = served.file.stat().st_ino
    served.enter("toy")
    assert served.file.stat().st_ino == before, "what is there already is not written again"


def test_a_promoted_version_is_the_only_one_and_has_a_label_until_the_highest_is_wanted_again(served):
    served.enter("toy", "other")
    choice = Choice.only(JUNE, at="2013-08-02T10:00:00+00:00", by="admin", reason='too many "late"\nflights # now')
    served.choose("toy", choice)
    assert served.choice("toy") == choice
    assert served.choice("toy").pinned == JUNE
    entry = read(served)["toy"]
    assert (entry.policy.specific, entry.labels) == ({JUNE}, {STABLE: JUNE})
    assert read(served)["other"].policy == VersionPolicy(latest=1)
    served.enter("toy", "third")
    assert served.choice("toy") == choice, "a push leaves the choice of a person"
    served.choose("toy", HIGHEST)
    assert served.choice("toy") == HIGHEST
    assert (read(served)["toy"].policy, read(served)["toy"].labels) == (VersionPolicy(latest=1), {})
    assert "chosen toy" not in served.file.read_text()


def test_beside_the_served_version_the_label_stays_where_it_is(served):
    beside = Choice.only(JULY).beside(JUNE, JULY)
    assert (beside.versions, beside.labels, beside.pinned) == ((JUNE, JULY), {STABLE: JULY}, JULY)
    served.choose("toy", beside)
    assert served.choice("toy") == beside
    assert served.choice("toy").settled == Choice.only(JULY)
    trial = HIGHEST.beside(JUNE, JULY)
    assert (trial.versions, trial.pinned, trial.settled) == ((JUNE, JULY), 0, HIGHEST), "nobody has chosen July"
    assert HIGHEST.beside(JUNE, 0).versions == (JUNE,)


def test_a_version_beside_none_has_no_label_and_what_was_chosen_is_not_lost(served):
    pinned = Choice.only(JULY, at="2013-08-02", by="admin")
    for loaded, labels in ((0, {}), (JULY - 1, {STABLE: JULY - 1})):
        beside = pinned.beside(JUNE, loaded)
        assert (beside.labels, beside.settled, beside.pinned) == (labels, pinned, JULY)
        served.choose("toy", beside)
        assert served.choice("toy") == beside


def test_what_others_wrote_by_hand_stays(served):
    served.root.mkdir()
    served.file.write_text(
        """model_config_list {
             config { name: "theirs" base_path: "/elsewhere" logging_config { sampling_config { sampling_rate: 0.5 } }
                      model_version_policy { specific { versions: 7 } } }
           }"""
    )
    assert served.choice("theirs").pinned == 7
    served.enter("toy")
    text = served.file.read_text()
    assert "sampling_rate: 0.5" in text
    assert read(served)["theirs"].base_path == Path("/elsewhere")
    served.choose("theirs", HIGHEST)
    assert "sampling_rate: 0.5" in served.file.read_text()


def test_a_file_that_cannot_be_read_is_told_and_left_alone(served):
    served.root.mkdir()
    served.file.write_text("model_config_list { config {")
    for action in (lambda: served.choice("toy"), lambda: served.enter("toy"), lambda: served.choose("toy", HIGHEST)):
        with pytest.raises(TerminalError, match="cannot be read"):
            action()
    assert served.file.read_text() == "model_config_list { config {"


def test_writers_at_once_lose_nothing(served):
    names = [f"model{number}" for number in range(16)]

    def write(name: str) -> None:
        mine = Served(served.root)
        mine.enter(name)
        mine.choose(name, Choice.only(int(name.removeprefix("model")) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, names))
    assert {name: model.labels[STABLE] for name, model in read(served).items()} == {
        name: number + 1 for number, name in enumerate(names)
    }


def test_before_the_first_start_of_a_server_the_file_names_the_models_that_are_there(served):
    main(served.root)
    assert models_from_file(served.file) == ()
    served.file.unlink()
    (served.root / "toy" / str(JUNE)).mkdir(parents=True)
    (served.root / "empty").mkdir()
    main(served.root)
    assert set(read(served)) == {"toy"}
    served.choose("toy", Choice.only(JUNE))
    main(served.root)
    assert served.choice("toy").pinned == JUNE
