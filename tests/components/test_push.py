"""push: versions from the interval, all or nothing, and a server that has the last word."""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.errors import TerminalError, TransientError
from airtight.files import digest_of_tree
from airtight.interval import Interval
from components import promote, push
from components.artifacts import Dataset, Proposal
from components.modelling import judged
from components.modelling.model_server import SERVER_VARIABLE, ModelServer, VersionState
from components.modelling.served import FILE, HIGHEST, Choice, Served
from components.rollout import delivery
from serving.config import models_from_file
from tests.serving import models

INTERVAL = ("2013-06-01T00:00:00-04:00", "2013-07-01T00:00:00-04:00")
JULY = ("2013-07-01T00:00:00-04:00", "2013-08-01T00:00:00-04:00")
JUNE_1, JULY_1 = 201307010400001, 201308010400001


def artifact(kind, folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    new = kind()
    new.uri = str(folder)
    return new


def model_of(folder: Path, content: str = "a graph") -> standard_artifacts.Model:
    """A Model artifact whose SavedModel is any bytes: without a server nobody reads them."""
    saved = folder / "Format-Serving"
    (saved / "variables").mkdir(parents=True)
    (saved / "saved_model.pb").write_text(content)
    (saved / "variables" / "variables.index").write_text("variables")
    return artifact(standard_artifacts.Model, folder)


class Pusher:
    """Calls the component's function as the launcher does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        self.root = folder / "models"
        self.base = self.root / "toy"

    def __call__(self, model, interval=INTERVAL, blessed=(1, 1), judged_models=(None, None), **settings):
        self.runs += 1
        here = self.folder / f"run{self.runs}"
        dataset = artifact(Dataset, here / "dataset")
        dataset.interval_start, dataset.interval_end = interval
        blessing = artifact(standard_artifacts.ModelBlessing, here / "blessing")
        infra = artifact(standard_artifacts.InfraBlessing, here / "infra")
        for judge, value, other in zip((blessing, infra), blessed, judged_models, strict=True):
            judged.write(judge, other or model)
            if value is not None:
                judge.set_int_custom_property("blessed", value)
        pushed = artifact(standard_artifacts.PushedModel, here / "pushed")
        push.push.EXECUTOR_SPEC.executor_class._FUNCTION(
            model=model,
            blessing=blessing,
            infra_blessing=infra,
            dataset=dataset,
            pushed=pushed,
            model_name="toy",
            zone="America/New_York",
            **{"serving_root": str(self.root), "server_url": "", "timeout_s": 60.0} | settings,
        )
        return pushed

    @property
    def versions(self) -> list[str]:
        return sorted(path.name for path in self.base.iterdir()) if self.base.is_dir() else []


@pytest.fixture
def pusher(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    return Pusher(tmp_path)


def test_the_version_is_the_instant_at_which_the_interval_ends(pusher, tmp_path):
    model = model_of(tmp_path / "model")
    pushed = pusher(model)
    assert pusher.versions == [str(JUNE_1)]
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_int_custom_property("version") == JUNE_1
    assert pushed.get_string_custom_property("interval_end") == INTERVAL[1]
    assert pushed.get_string_custom_property("model_uri") == model.uri
    digest = digest_of_tree(pusher.base / str(JUNE_1))
    assert pushed.get_string_custom_property("model_digest") == digest
    record = json.loads((Path(pushed.uri) / push.RECORD).read_text())
    assert (record["version"], record["model_digest"]) == (JUNE_1, digest)


def test_the_same_content_is_pushed_once_and_other_content_is_the_next_attempt(pusher, tmp_path):
    first = model_of(tmp_path / "a", "one")
    pusher(first)
    before = (pusher.base / str(JUNE_1) / "saved_model.pb").stat()
    again = pusher(model_of(tmp_path / "b", "one"))
    assert again.get_int_custom_property("version") == JUNE_1
    assert "nothing was copied" in again.get_string_custom_property("reason")
    assert (pusher.base / str(JUNE_1) / "saved_model.pb").stat().st_mtime_ns == before.st_mtime_ns
    assert pusher(model_of(tmp_path / "c", "two")).get_int_custom_property("version") == JUNE_1 + 1
    assert pusher(first, JULY).get_int_custom_property("version") == 201308010400001
    assert pusher.versions == [str(JUNE_1), str(JUNE_1 + 1), "201308010400001"]


@pytest.mark.parametrize("minutes", [1, 60, 24 * 60])
def test_an_older_interval_that_is_run_again_is_never_the_highest(pusher, tmp_path, minutes):
    # Across the hour that the clocks in New York show twice.
    first = datetime(2013, 11, 3, 4, 30, tzinfo=UTC)
    ends = [first + timedelta(minutes=minutes) * number for number in range(4)]
    intervals = [tuple(end.isoformat() for end in pair) for pair in pairwise(ends)]
    numbers = [
        pusher(model_of(tmp_path / f"m{n}", f"m{n}"), i).get_int_custom_property("version")
        for n, i in enumerate(intervals)
    ]
    assert numbers == sorted(numbers)
    again = pusher(model_of(tmp_path / "again", "again"), intervals[0]).get_int_custom_property("version")
    assert numbers[0] < again < numbers[1]


def test_versions_of_ten_digits_stay_readable_and_in_the_order_of_their_intervals(pusher, tmp_path):
    def push(content: str, month: int) -> int:
        interval = tuple(f"2013-{number:02}-01T00:00:00-04:00" for number in (month, month + 1))
        return pusher(model_of(tmp_path / content, content), interval).get_int_custom_property("version")

    may, august, october = 2013060101, 2013090101, 2013110101
    for old in (may, august, october):
        models.save_affine(pusher.base / str(old), 1.0)
    # June lies between them, so that a number of fifteen digits would put it over October.
    june = push("june", 6)
    assert june == 2013070101
    november = push("november", 11)
    assert november == 201312010400001
    # November has one of fifteen digits; an older interval still lies below October.
    again, september = push("june again", 6), push("september", 9)
    assert again == june + 1
    november_again = push("november again", 11)
    in_order = [may, june, again, august, september, october, november, november_again]
    assert list(map(int, sorted(pusher.versions, key=int))) == in_order
    for served, previous in zip(in_order[:0:-1], in_order[-2::-1], strict=True):
        proposal = artifact(Proposal, tmp_path / f"below {served}")
        promote.propose.EXECUTOR_SPEC.executor_class._FUNCTION(
            proposal=proposal, model_name="toy", version=promote.PREVIOUS, reason="?", serving_root=str(pusher.root)
        )
        assert (proposal.served, proposal.version) == (served, previous)
        shutil.rmtree(pusher.base / str(served))


def test_the_content_of_a_version_of_ten_digits_is_not_pushed_anew(pusher, tmp_path):
    model = model_of(tmp_path / "model", "one")
    for number, content in ((2013070101, "zero"), (2013070102, "one")):
        shutil.copytree(Path(model_of(tmp_path / content, content).uri) / "Format-Serving", pusher.base / str(number))
    pushed = pusher(model)
    assert pushed.get_int_custom_property("version") == 2013070102
    assert "nothing was copied" in pushed.get_string_custom_property("reason")
    # The attempt before holds other content than the one that is served; what follows has fifteen digits.
    assert pusher(model_of(tmp_path / "again", "zero")).get_int_custom_property("version") == JUNE_1
    assert pusher(model).get_int_custom_property("version") == JUNE_1 + 1


def test_an_interval_shorter_than_a_minute_has_no_version(pusher, tmp_path):
    interval = ("2013-06-01T00:00:00-04:00", "2013-06-01T00:00:59-04:00")
    with pytest.raises(TerminalError, match="too short for a version"):
        pusher(model_of(tmp_path / "a", "a"), interval)
    assert pusher.versions == []


def test_content_that_another_attempt_replaced_is_a_new_attempt(pusher, tmp_path):
    first = model_of(tmp_path / "a", "one")
    for model in (first, model_of(tmp_path / "b", "two")):
        pusher(model)
    assert pusher(first).get_int_custom_property("version") == JUNE_1 + 2


def acts() -> list[tuple[str, int]]:
    return [(line.entry["act"], line.entry["version"]) for line in AuditLog("toy").lines()[0]]


def test_each_push_and_refusal_is_an_act_and_a_retry_adds_none(pusher, tmp_path):
    model = model_of(tmp_path / "model")
    with acting(Actor("toy", "push", "run", "first", "first")):
        first = pusher(model)
    with acting(Actor("toy", "push", "run", "second", "first")):
        again = pusher(model)
    refused = pusher(model, blessed=(0, 1))
    assert acts() == [("pushed", JUNE_1), ("not pushed", 0)]
    pushed, not_pushed = AuditLog("toy").lines()[0]
    assert pushed.entry["digest"] == first.get_string_custom_property("model_digest")
    assert pushed.entry["interval"] == list(INTERVAL) and pushed.entry["details"]["took_over"] == 1
    assert "evaluate did not bless" in not_pushed.entry["reason"]
    anchors = [
        (a.get_int_custom_property("audit_line"), a.get_string_custom_property("audit_sha256"))
        for a in (first, again, refused)
    ]
    assert anchors == [(1, pushed.sha256), (1, pushed.sha256), (2, not_pushed.sha256)]


def test_a_broken_audit_log_lets_nothing_be_pushed(pusher, tmp_path):
    pusher(model_of(tmp_path / "a", "one"))
    log = AuditLog("toy")
    whole = log.file.read_bytes()
    log.file.write_bytes(whole.replace(b'"pushed"', b'"pushed" ', 1))
    with pytest.raises(TerminalError, match="audit log of toy"):
        pusher(model_of(tmp_path / "b", "two"))
    assert pusher.versions == [str(JUNE_1)]
    log.file.write_bytes(whole)
    pusher(model_of(tmp_path / "c", "two"))
    assert acts() == [("pushed", JUNE_1), ("pushed", JUNE_1 + 1)]


def test_a_push_that_could_not_be_written_down_is_by_its_retry(pusher, tmp_path, monkeypatch):
    model = model_of(tmp_path / "model")

    def full(*unused):
        raise OSError(errno.ENOSPC, "no room")

    with acting(Actor("toy", "push", "run", "first", "first")), monkeypatch.context() as patched:
        patched.setattr("airtight.audit.log.os.fsync", full)
        patched.setattr("airtight.files._sync", lambda path: None)
        with pytest.raises(TransientError, match="no room"):
            pusher(model)
    assert acts() == []
    with acting(Actor("toy", "push", "run", "second", "first")):
        pusher(model)
    assert acts() == [("pushed", JUNE_1)] and pusher.versions == [str(JUNE_1)]


class Serves:
    """A server that has these versions, and says `at_ask` when it is asked a second time."""

    url = "http://models"

    def __init__(self, *numbers: int, at_ask: BaseException | None = None) -> None:
        self.numbers, self.at_ask, self.calls = numbers, at_ask, 0

    def versions(self, model: str) -> dict[int, VersionState]:
        self.calls += 1
        if self.at_ask is not None and self.calls > 1:
            raise self.at_ask
        return {number: VersionState("AVAILABLE", "") for number in self.numbers}


def test_a_version_that_is_registered_only_names_the_reason(tmp_path):
    for number, reason in (
        (JUNE_1 + 1, "a later attempt of the same interval"),
        (201308010400001, "of a later interval"),
    ):
        assert reason in delivery.await_served(Serves(number), tmp_path / "toy", JUNE_1, 0.0)


def test_the_first_push_of_a_model_enters_it_and_a_later_one_leaves_a_persons_choice(pusher, tmp_path):
    served = Served(pusher.root)
    pusher(model_of(tmp_path / "a", "one"))
    assert 'name: "toy"' in served.file.read_text()
    assert served.choice("toy") == HIGHEST
    choice = Choice.only(JUNE_1, at="2013-08-02T10:00:00+00:00", by="admin", reason="July is worse")
    served.choose("toy", choice)
    pushed = pusher(model_of(tmp_path / "b", "two"), JULY)
    assert pushed.get_int_custom_property("pushed") == 1
    reason = pushed.get_string_custom_property("reason")
    assert f"registered only: version {JUNE_1} was promoted by hand on 2013-08-02T10:00:00+00:00 and stays" in reason
    assert "promote latest" in reason
    assert served.choice("toy") == choice
    # The very version that was promoted is no other one.
    assert "registered only" not in pusher(model_of(tmp_path / "c", "one")).get_string_custom_property("reason")


def test_a_version_beside_a_promoted_one_is_not_waited_for(tmp_path):
    Served(tmp_path).choose("toy", Choice.only(JUNE_1))
    assert "promoted by hand and stays" in delivery.await_served(Serves(JUNE_1), tmp_path / "toy", JUNE_1 + 1, 0.0)


def test_two_first_pushes_of_two_models_at_once_are_both_served(tmp_path):
    def push(name: str) -> None:
        source = Path(model_of(tmp_path / name, name).uri) / "Format-Serving"
        delivery.deliver(
            source,
            digest_of_tree(source),
            tmp_path / "models" / name,
            Interval.of(*INTERVAL),
            zone="UTC",
            server=None,
            timeout_s=1,
        )

    names = [f"model{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, names))
    assert {model.name for model in models_from_file(Served(tmp_path / "models").file)} == set(names)


def test_a_push_that_is_stopped_takes_its_version_back_and_leaves_one_of_before(pusher, tmp_path):
    model = model_of(tmp_path / "model")
    source = Path(model.uri) / "Format-Serving"
    digest = digest_of_tree(source)

    def deliver():
        server = Serves(at_ask=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            delivery.deliver(
                source, digest, pusher.base, Interval.of(*INTERVAL), zone="UTC", server=server, timeout_s=1.0
            )

    deliver()
    assert pusher.versions == []
    pusher(model)
    deliver()
    assert pusher.versions == [str(JUNE_1)]


@pytest.mark.parametrize("place", [0, 1])
def test_a_blessing_of_another_model_pushes_nothing(pusher, tmp_path, place):
    model, other = model_of(tmp_path / "second", "two"), model_of(tmp_path / "first", "one")
    judged_models = [None, None]
    judged_models[place] = other
    with pytest.raises(TerminalError, match="judged another model") as refused:
        pusher(model, judged_models=judged_models)
    assert ("evaluate", "try_serving")[place] in refused.value.remedy
    assert pusher.versions == []
    # A judgement of the same content under another artifact, such as the cache finds, is one of this model.
    judged_models[place] = model_of(tmp_path / "again", "two")
    assert pusher(model, judged_models=judged_models).get_int_custom_property("pushed") == 1


def test_a_blessing_of_tfx_names_the_model_by_its_uri_alone(tmp_path):
    model, blessing = model_of(tmp_path / "model"), standard_artifacts.ModelBlessing()
    with pytest.raises(TerminalError, match="names no model"):
        judged.check("evaluate", blessing, model)
    blessing.set_string_custom_property(judged.URI, model.uri)
    judged.check("evaluate", blessing, model)


@pytest.mark.parametrize(
    ("blessed", "judge"), [((0, 1), "evaluate"), ((1, 0), "try_serving"), ((None, 1), "evaluate"), ((1, None), "try_s")]
)
def test_what_a_gate_did_not_bless_is_not_pushed_and_says_why(pusher, tmp_path, blessed, judge):
    pushed = pusher(model_of(tmp_path / "model"), blessed=blessed)
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_int_custom_property("version") == 0
    assert judge in pushed.get_string_custom_property("reason")
    assert pusher.versions == []
    assert json.loads((Path(pushed.uri) / push.RECORD).read_text())["pushed"] == 0


def test_a_crash_between_copy_and_rename_leaves_nothing_visible(pusher, tmp_path, monkeypatch):
    model = model_of(tmp_path / "model")

    def crash(*unused):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("airtight.files.os.rename", crash)
        pusher(model)
    assert pusher.versions == []
    # A killed process leaves its temporary folder, under a name that no server takes for a version.
    leftover = pusher.base / f".{JUNE_1}.0123.tmp"
    shutil.copytree(Path(model.uri) / "Format-Serving", leftover)
    assert pusher(model).get_int_custom_property("version") == JUNE_1
    assert not leftover.name.isdecimal()


def test_of_two_pushes_for_one_version_one_gets_it_and_the_other_is_told(pusher, tmp_path, monkeypatch):
    contents = [model_of(tmp_path / name, name) for name in "ab"]
    # Both looked before either was there.
    monkeypatch.setattr(delivery, "_version_for", lambda *unused: (JUNE_1, True))

    def outcome(model):
        try:
            return pusher(model).get_int_custom_property("version")
        except TransientError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(outcome, contents))
    assert outcomes.count(JUNE_1) == 1
    assert sum("Another push took version" in str(one) for one in outcomes) == 1
    assert pusher.versions == [str(JUNE_1)]


def test_an_unreachable_server_fails_the_push_before_anything_is_visible(pusher, tmp_path):
    with pytest.raises(TransientError, match="cannot be reached"):
        pusher(model_of(tmp_path / "model"), server_url="http://127.0.0.1:9")
    assert pusher.versions == []
    with pytest.raises(TerminalError, match="address"):
        pusher(model_of(tmp_path / "model2"), server_url="localhost")


def test_the_local_server_and_folder_are_found_in_the_environment(pusher, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    pusher(model_of(tmp_path / "model"), serving_root="")
    assert (tmp_path / "home" / "models" / "toy" / str(JUNE_1) / "saved_model.pb").is_file()
    monkeypatch.setenv(SERVER_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot be reached"):
        pusher(model_of(tmp_path / "model2"))


def test_an_interval_has_a_thousand_attempts(pusher, tmp_path):
    (pusher.base / f"{JUNE_1 + 998}").mkdir(parents=True)
    with pytest.raises(TerminalError, match="no version left"):
        pusher(model_of(tmp_path / "model"))


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, ""], ids=["no config file", "an empty one"])
def test_a_server_that_starts_before_anything_was_pushed_picks_the_first_model_up(pusher, tmp_path, before):
    good = tmp_path / "good" / "Format-Serving"
    good.parent.mkdir()
    models.save_affine(good, 2.0)
    pusher.root.mkdir()
    config = pusher.root / FILE
    if before is not None:
        config.write_text(before)
    polling = ("--model_config_file_poll_wait_seconds=0.1", "--file_system_poll_wait_seconds=0.1")
    with models.running(tmp_path, f"--model_config_file={config}", *polling) as server:
        assert server.states("toy") == {}
        model = artifact(standard_artifacts.Model, good.parent)
        pushed = pusher(model, server_url=f"http://127.0.0.1:{server.rest}")
        assert "the server answers with it" in pushed.get_string_custom_property("reason")
        assert server.ask("POST", "/v1/models/toy:predict", {"instances": [3]}) == (200, {"predictions": [6.0]})
    assert "left as it was" not in (tmp_path / "serving.log").read_text()


@pytest.mark.slow
def test_a_push_ends_when_the_server_serves_the_version_and_takes_back_what_it_cannot(pusher, tmp_path):
    good = tmp_path / "good" / "Format-Serving"
    good.parent.mkdir()
    models.save_affine(good, 2.0)
    broken = model_of(tmp_path / "broken", "no graph")
    pusher.root.mkdir()
    with models.running(tmp_path, f"--models_root={pusher.root}", "--file_system_poll_wait_seconds=0.1") as server:
        there = {"server_url": f"http://127.0.0.1:{server.rest}"}
        pushed = pusher(artifact(standard_artifacts.Model, good.parent), **there)
        assert "the server answers with it" in pushed.get_string_custom_property("reason")
        assert server.ask("POST", "/v1/models/toy:predict", {"instances": [3]}) == (200, {"predictions": [6.0]})

        with pytest.raises(TerminalError, match="cannot load version 201308010400001"):
            pusher(broken, JULY, **there)
        assert pusher.versions == [str(JUNE_1)]
        assert server.ask("POST", "/v1/models/toy:predict", {"instances": [3]}) == (200, {"predictions": [6.0]})

        # An earlier interval, pushed later: it is there to be compared, and the later one stays served.
        late = pusher(
            artifact(standard_artifacts.Model, good.parent),
            ("2013-05-01T00:00:00-04:00", "2013-06-01T00:00:00-04:00"),
            **there,
        )
        assert late.get_int_custom_property("version") == 201306010400001
        assert "registered only" in late.get_string_custom_property("reason")
        assert ModelServer(there["server_url"]).versions("toy")[JUNE_1].state == "AVAILABLE"

        with pytest.raises(TransientError, match="did not serve"):
            delivery.await_served(ModelServer(there["server_url"]), pusher.base, 201309010400001, 0.3)
