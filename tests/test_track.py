"""What reaches MLflow, on a real sqlite store."""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from alexnet_mlflow import signals
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.journal import Journal
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import without_password
from alexnet_mlflow.runs import PROCESS
from alexnet_mlflow.track import connect, logged
from alexnet_mlflow.train import EpochResult


def result(epoch: int, loss: float = 0.5) -> EpochResult:
    return EpochResult(epoch, loss, 0.5, loss, 0.25, 0.01, 1.0, 100.0, None, dict)


def test_children_nest_and_finish(store: Path) -> None:
    with connect().child("parent", {"stage": "babysit"}) as parent:
        with parent.child("child", {"stage": "sanity"}) as child:
            child.params({"lr": 0.001, "epochs": 3})
    client = MlflowClient()
    run = client.get_run(str(child.run_id))
    assert run.info.status == client.get_run(str(parent.run_id)).info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.params == {"lr": "0.001", "epochs": "3"}


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_error_leaves_no_run_open(store: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), connect().child("x", {}) as run:
        raise error
    found = MlflowClient().get_run(str(run.run_id))
    assert found.info.status == status and found.data.tags["outcome"] == "failed"


def test_a_gate_that_says_no_makes_the_run_failed(store: Path) -> None:
    with connect().child("x", {}) as run:
        run.fail()
    assert MlflowClient().get_run(str(run.run_id)).info.status == "FAILED"


def test_a_data_set_that_another_run_logs_at_the_same_moment(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MLflow's insert fails for one of the two; what else it refuses is told, not tried again."""
    data = load(DataConfig(dataset=str(pictures)))
    log, tries = MlflowClient.log_inputs, list[str]()

    def refused(client: MlflowClient, run_id: str, *given: object) -> None:
        tries.append(run_id)
        if len(tries) == 1:
            raise MlflowException(message, BAD_REQUEST)
        log(client, run_id, *given)

    monkeypatch.setattr(MlflowClient, "log_inputs", refused)
    message = "(psycopg.errors.UniqueViolation) duplicate key value violates ..."
    with connect().child("one", {"stage": "sanity"}) as run:
        run.dataset(data, "training")
    [entry] = MlflowClient().get_run(str(run.run_id)).inputs.dataset_inputs
    assert len(tries) == 2 and entry.dataset.name == data.title
    tries.clear()
    assert capsys.readouterr().err == ""
    message = "the server is on fire"
    with connect().child("two", {"stage": "sanity"}) as run:
        run.dataset(data, "training")
    assert len(tries) == 1
    told = capsys.readouterr().err
    assert "on fire" in told and "1 entry" in told and "alexnet-mlflow sync" in told
    assert MlflowClient().get_run(str(run.run_id)).info.status == "FINISHED"


def test_only_finite_numbers_are_logged_in_one_call_an_epoch(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = MlflowClient.log_batch

    def counted(self: MlflowClient, *args: object, **named: object) -> object:
        calls.append(named)
        return original(self, *args, **named)

    with connect().child("x", {}) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", counted)
        passed = list(logged(run, [result(1), result(2, math.nan), result(3, math.inf)]))
        assert run.steps("val_accuracy") == {1, 2, 3}, "what was logged is read"
        monkeypatch.undo()
    assert len(passed) == 3 and len(calls) == 3
    client = MlflowClient()
    losses = client.get_metric_history(str(run.run_id), "train_loss")
    assert [(point.step, point.value) for point in losses] == [(1, 0.5)]


def test_the_runners_own_run_is_used_and_its_parameters_stay(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    runner = client.create_run("0", run_name="silly-goose-12").info.run_id
    for name, text in {"lr": "1e-3", "epochs": "auto", "skip_corrupt": "false"}.items():
        client.log_param(runner, name, text)
    monkeypatch.setenv("MLFLOW_RUN_ID", runner)
    with connect().child("final faces sgd", {"stage": "final"}) as run:
        run.params({"lr": 0.001, "epochs": 20, "skip_corrupt": False, "seed": 0})
    found = client.get_run(runner)
    assert run.run_id == runner and found.info.run_name == "final faces sgd"
    assert found.data.params == {
        "lr": "1e-3", "epochs": "auto", "resolved_epochs": "20", "skip_corrupt": "false",
        "seed": "0",
    }


def test_a_name_that_the_user_gave_stays(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = MlflowClient().create_run("0", run_name="my best try").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", runner)
    with connect().child("final faces sgd", {}):
        pass
    assert MlflowClient().get_run(runner).info.run_name == "my best try"


def test_latest_finds_by_tags_and_only_what_is_finished(store: Path) -> None:
    root = connect()
    for status in (True, True, False):
        with root.child("search", {"stage": "search", "dataset": "faces"}) as run:
            if not status:
                run.fail()
            else:
                last = run.run_id
    found = root.latest(stage="search", dataset="faces")
    assert found is not None and found.run_id == last
    assert root.latest(stage="search", dataset="digits") is None
    assert root.found("0" * 32) is None


def test_the_experiment_follows_mlflows_rules(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with connect().child("x", {}) as run:
        pass
    experiment = MlflowClient().get_experiment_by_name("mine")
    assert experiment is not None
    found = MlflowClient().get_run(str(run.run_id))
    assert found.info.experiment_id == experiment.experiment_id
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert connect().latest(stage="x") is None


def test_a_data_set_is_logged_with_its_own_digest(store: Path) -> None:
    data = load(DataConfig(dataset="faces"))
    with connect().child("x", {}) as run:
        run.dataset(data, "training")
    [entry] = MlflowClient().get_run(str(run.run_id)).inputs.dataset_inputs
    assert entry.dataset.name == data.title
    assert entry.dataset.digest == data.digest[:36]
    assert data.digest in entry.dataset.profile and '"face": 72' in entry.dataset.profile
    assert entry.tags[0].value == "training"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "nonsense://x", "sqlite:////proc/x.db"])
def test_a_store_that_does_not_answer_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri.format(port=port))
    try:
        with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI"):
            connect()
    finally:
        mlflow.set_tracking_uri(before)


def test_a_run_that_is_left_to_another_process_does_not_end(store: Path) -> None:
    with connect().child("trial", {"stage": "trial"}) as run:
        run.leave()
    assert MlflowClient().get_run(str(run.run_id)).info.status == "RUNNING"
    newest = connect().newest(stage="trial")
    assert newest is not None and newest.run_id == run.run_id
    assert connect().latest(stage="trial") is None, "it is not finished"


@pytest.mark.parametrize(
    "text",
    ["postgresql://me:geheim@host/x", "http://me:geheim@host:5000", "x://h/y?a=1&password=geheim"],
)
def test_nobody_reads_a_password(text: str) -> None:
    told = without_password(f"the store {text} is away")
    assert "geheim" not in told and "//" in told and told.endswith("is away")


def test_a_child_of_a_run_that_another_process_has_open(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = connect()
    with tracker.child("parent", {"stage": "search"}) as parent:
        parent_id = str(parent.run_id)
    with tracker.child("runner", {}) as runner:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", str(runner.run_id))
    below = tracker.below(parent_id)
    assert "MLFLOW_RUN_ID" not in os.environ, "the runner's run would be the first trial"
    assert MlflowClient().get_run(str(runner.run_id)).data.tags["joins"] == parent_id
    assert below.child_with(slot="coarse 1") is None
    with below.child("trial", {"stage": "trial", "slot": "coarse 1"}) as child:
        child_id = child.run_id
    run = MlflowClient().get_run(str(child_id))
    assert run.data.tags["mlflow.parentRunId"] == parent_id and run.info.status == "FINISHED"
    found = below.child_with(slot="coarse 1")
    assert found is not None and found.run_id == child_id
    assert below.child_with(slot="coarse 2") is None
    assert MlflowClient().get_run(parent_id).info.status == "FINISHED", "the parent was touched"


def test_a_copied_run_answers_to_its_old_id(store: Path) -> None:
    client, old = MlflowClient(), "a" * 32
    copy = client.create_run("0", tags={"synced_from": old}, run_name="copy").info.run_id
    root = connect()
    found = root.found(old)
    assert found is not None and found.run_id == copy
    with root.child("again", {"more": "x"}, run_id=old) as run:
        assert run.run_id == copy
    assert root.below(old).run_id == copy and client.get_run(copy).data.tags["more"] == "x"
    assert root.found("b" * 32) is None and root.found("it's not") is None


def test_a_run_that_is_taken_up_has_each_figure_once(store: Path) -> None:
    """The same at the same step stands once; another value is logged, though it stood earlier."""
    root, client = connect(), MlflowClient()
    with root.child("x", {}) as run:
        run.metrics({"loss": 0.8, "best": 0.8}, 1)
        run.metrics({"best": 0.9}, 1)
    with root.child("x", {}, str(run.run_id)) as again:
        again.metrics({"loss": 0.8, "best": 0.8}, 1)
        again.metrics({"loss": 0.7}, 2)

    def points(name: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in client.get_metric_history(str(run.run_id), name)]

    assert points("loss") == [(1, 0.8), (2, 0.7)]
    assert points("best") == [(1, 0.8), (1, 0.9), (1, 0.8)]
    assert client.get_run(str(run.run_id)).data.metrics["best"] == 0.8


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals stop this process as they stop the program."""
    before = {number: signal.getsignal(number) for number in (*signals.NUMBERS, signal.SIGALRM)}
    signals.listen()
    yield
    signals.listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("listening")
def test_a_signal_while_a_failed_run_is_closed_leaves_it_closed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun sends one to a process that has just lost another."""
    with pytest.raises(SystemExit), connect().child("x", {"stage": "final"}) as run:
        monkeypatch.setattr(run, "tags", lambda _: signal.raise_signal(signal.SIGTERM))
        raise ValueError("mine")
    assert MlflowClient().get_run(str(run.run_id)).info.status == "FAILED"


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("call", ["create_run", "update_run", "get_metric_history"])
def test_a_signal_while_a_run_is_opened_leaves_none_running(
    store: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A new one; one that is taken up, before and after its figures are read."""
    with connect().child("x", {}) as run:
        run.metrics({"loss": 1.0}, 1)
    own = getattr(MlflowClient, call)

    def stopped(client: MlflowClient, *given: object, **named: object) -> object:
        found = own(client, *given, **named)
        signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr(MlflowClient, call, stopped)
    known = None if call == "create_run" else run.run_id
    with pytest.raises(SystemExit), connect().child("y", {}, known):
        raise AssertionError("it is not opened")
    newest = MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]
    assert newest.info.status == "KILLED" and newest.data.tags["outcome"] == "failed"
    assert (newest.info.run_id == run.run_id) is (known is not None)


def test_a_run_that_is_taken_up_on_a_full_disk_stays_as_it_is(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="mine"), connect().child("x", {}) as run:
        raise ValueError("mine")
    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(OSError, match="No space"), connect().child("x", {}, run.run_id):
        raise AssertionError("it is not opened")
    assert MlflowClient().get_run(str(run.run_id)).info.status == "FAILED"


def full(*given: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_a_server_makes_as_late_as_its_end_does_not_stay(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for twice, since the first answer did not come."""
    create, asked = MlflowClient.create_run, list[dict[str, str]]()

    def hangs(client: MlflowClient, *given: Any, tags: dict[str, str], **named: Any) -> Run:
        asked.append(tags)
        if len(asked) == 1:
            raise ConnectionError("it hangs")
        return create(client, *given, tags=tags, **named)

    monkeypatch.setattr(MlflowClient, "create_run", hangs)
    with connect().child("x", {}) as run:
        assert run.steps("none") == set()  # all that was logged has arrived
        late = create(MlflowClient(), "0", tags=asked[0])
    assert [one.info.run_id for one in MlflowClient().search_runs(["0"])] == [run.run_id]
    assert late.info.run_id != run.run_id


def test_what_waits_for_a_store_is_not_sent_to_a_run_that_another_process_has_taken_up(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has logged the same epochs meanwhile, at other times."""
    log, away, client = MlflowClient.log_batch, [True], MlflowClient()

    def goes_away(client: MlflowClient, *given: Any, **named: Any) -> None:
        if away[0] and named["metrics"]:
            raise ConnectionError("it is away")
        log(client, *given, **named)

    with connect().child("x", {}) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", goes_away)
        run.metrics({"loss": 1.0}, 1)
        while run._link.outage.failures < 2:
            time.sleep(0.01)
        client.set_tag(str(run.run_id), PROCESS, "another")
        away[0] = False
        run.metrics({"loss": 0.5}, 2)
    assert client.get_metric_history(str(run.run_id), "loss") == []
    assert client.get_run(str(run.run_id)).info.status == "RUNNING", "it is the other's"
    with connect().child("x", {}, run.run_id) as again:
        again.metrics({"loss": 0.5}, 2)
    assert [one.step for one in client.get_metric_history(str(run.run_id), "loss")] == [2]
