"""Every kind of entry is sent twice, and to stores that lose their answer: it stands there once."""

from __future__ import annotations

import errno
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import ViewType

from alexnet_mlflow import delivery, journal, models, track
from alexnet_mlflow.cli import main
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.journal import Entry
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import LoggedModel, Tracker
from alexnet_mlflow.track import connect
from tests.flaky import MODES, Flaky, flaky
from tests.tracking_server import serving

pytestmark = pytest.mark.usefixtures("narrow")

EPOCHS = 4
WAIT_SECONDS = 0.02  # for the disk alone; it is 1 ms (bench_tracking)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as uri:
        MlflowClient(uri).get_experiment("0")  # it opens its store now, not in a test's second
        yield uri


@pytest.fixture
def proxy(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flaky]:
    """A server behind a proxy as the tracking store; an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    before = mlflow.get_tracking_uri()
    with flaky(upstream) as found:
        mlflow.set_tracking_uri(found.uri)
        yield found
    mlflow.set_tracking_uri(before)


def entries(client: MlflowClient, pictures: Path, copy: Path) -> list[Entry]:
    """One of each kind, for a new run; the model is one that it has logged."""
    run_id = client.create_run("0", tags={"created_by": "me"}).info.run_id
    model = client.create_logged_model("0", "model", run_id).model_id
    copy.write_text("text")
    data = load(DataConfig(dataset=str(pictures)))
    entity = {
        "name": data.title, "digest": data.digest[:36], "source_type": "local", "source": "{}",
        "profile": "{}",
    }
    return [
        Entry(1, run_id, "batch", {"metrics": [["loss", 0.5, 7, 1], ["loss", 0.25, 9, 2]]}),
        Entry(2, run_id, "batch", {
            "metrics": [["test_loss", 0.1, 8, 0]], "link": [model, data.title, "digest", run_id],
        }),
        Entry(3, run_id, "batch", {"params": {"lr": "0.1"}, "tags": {"stage": "x"}}),
        Entry(4, run_id, "file", {"folder": "plots"}, copy.name),
        Entry(5, run_id, "data", {"entity": entity, "context": "training"}),
        Entry(6, run_id, "only", {"mark": "me"}),
        Entry(7, run_id, "end", {"status": "KILLED", "time_ms": 12345}),
    ]


def what_stands(client: MlflowClient, run_id: str) -> dict[str, Any]:
    run = client.get_run(run_id)
    [model] = client.search_logged_models(["0"], f"source_run_id = '{run_id}'")
    return {
        "points": {
            name: [(at.step, at.timestamp, at.value)
                   for at in client.get_metric_history(run_id, name)]
            for name in run.data.metrics
        },
        "model": [(at.key, at.value, at.step) for at in model.metrics or ()],
        "params": run.data.params, "stage": run.data.tags["stage"],
        "files": [file.path for file in client.list_artifacts(run_id, "plots")],
        "data": [one.dataset.name for one in run.inputs.dataset_inputs],
        "end": (run.info.status, run.info.end_time),
    }


@pytest.mark.parametrize("place", ["sqlite", "server"])
def test_what_is_sent_twice_stands_there_once(
    place: str, request: pytest.FixtureRequest, pictures: Path, tmp_path: Path
) -> None:
    if place == "sqlite":
        request.getfixturevalue("store")
    else:
        request.getfixturevalue("proxy")
    client, copy = MlflowClient(), tmp_path / "curves.txt"
    made = entries(client, pictures, copy)
    for entry in made:
        delivery.send(client, entry, copy)
    once = what_stands(client, made[0].run_id)
    assert once["points"]["loss"] == [(1, 7, 0.5), (2, 9, 0.25)] and once["end"][1] == 12345
    assert len(once["data"]) == len(once["model"]) == len(once["files"]) == 1
    for entry in (*made, *made[:3]):
        delivery.send(client, entry, copy)
    assert what_stands(client, made[0].run_id) == once


def trained(run: Tracker, proxy: Flaky, mode: str) -> float:
    """Something of everything, while the store goes and comes back. Seconds for which training
    waits, an epoch, while it is away: the median.
    """
    run.params({"lr": 0.1})
    proxy.goes(mode)
    waited = []
    for epoch in range(1, EPOCHS + 1):
        began = time.perf_counter()
        run.metrics({"loss": 1 / epoch, "accuracy": 1 - 1 / epoch}, epoch)
        waited.append(time.perf_counter() - began)
        run.tags({"epoch": epoch})
        run.text(f"epoch {epoch}", "notes/last.txt")
    proxy.wait_for(2, 30)
    proxy.goes("well")
    return statistics.median_low(waited)  # two of four may have met a slow disk


def complete(run_id: str, status: str = "FINISHED") -> None:
    """The run that `trained` logs is there, whole, once."""
    client = MlflowClient()
    run = client.get_run(run_id)
    assert run.info.status == status and run.data.params == {"lr": "0.1"}
    for name in ("loss", "accuracy"):
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert steps == list(range(1, EPOCHS + 1))
    assert run.data.tags["epoch"] == str(EPOCHS)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/notes/last.txt") == f"epoch {EPOCHS}"
    mark = f"tags.created_by = '{run.data.tags['created_by']}'"
    assert len(client.search_runs(["0"], mark, ViewType.ACTIVE_ONLY)) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_store_that_goes_away_and_comes_back_has_everything_once(
    mode: str, proxy: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect().child("x", {"stage": "final"}) as run:
        waited = trained(run, proxy, mode)
    assert waited < WAIT_SECONDS, "training has waited for the store"
    complete(str(run.run_id))
    told = capsys.readouterr().err.splitlines()
    assert [" does not answer (" in line for line in told] == [True, False]
    assert told[1].endswith("answers again.")
    assert not Path("checkpoints").exists(), "nothing is left of the journal"


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_made_while_the_store_is_away_is_made_once(
    mode: str, proxy: Flaky
) -> None:
    with connect().child("search", {"stage": "search"}) as parent:
        proxy.goes(mode, only="/runs/create", times=2)
        with parent.child("trial", {"stage": "trial"}) as trial:
            trial.metrics({"loss": 1.0}, 1)
        assert len(proxy.asked) == 2 if mode != "lost" else 1
        below = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
        [found] = MlflowClient().search_runs(["0"], below, ViewType.ALL)  # none was deleted
        assert found.info.run_id == trial.run_id and found.info.status == "FINISHED"


def test_a_run_that_a_hanging_store_makes_later_does_not_stay(proxy: Flaky) -> None:
    """It is made after it was looked for: then there are two, until the first is told of."""
    client, create = MlflowClient(), MlflowClient.create_run
    asked, late = list[dict[str, Any]](), list[str]()

    def slow(self: MlflowClient, *given: Any, **named: Any) -> Any:
        if not asked:
            asked.append(named)
            raise ConnectionError("no answer")
        if not late:  # the first is made between the look and this call
            late.append(create(self, *given, **asked[0]).info.run_id)
        return create(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", slow)
        with connect().child("x", {"stage": "slow"}) as run:
            pass
    [found] = client.search_runs(["0"], "tags.stage = 'slow'")
    assert found.info.run_id == run.run_id != late[0]


@pytest.mark.parametrize("path", ["/logged-models", "/mlflow-artifacts/", "/outputs"])
def test_a_model_is_logged_once_though_an_answer_is_lost(path: str, proxy: Flaky) -> None:
    servable, example = Servable(build(2, seed=1)).eval(), torch.rand(2, 3, 32, 32)
    with connect().child("x", {"stage": "final"}) as run:
        run.metrics({"loss": 1.0}, 1)
        proxy.goes("lost", only=path, times=1)
        model = run.model(servable, example, ("cat", "dog"))
        assert len(proxy.asked) == 1 and isinstance(model, LoggedModel)
        [found] = MlflowClient().search_logged_models(["0"], f"source_run_id = '{run.run_id}'")
    assert found.model_id == model.model_id and found.status == "READY"


def test_what_is_read_has_what_was_logged(proxy: Flaky) -> None:
    proxy.goes("well")
    with connect().child("x", {"stage": "final"}) as run:
        proxy.goes("500", times=2)
        run.metrics({"loss": 1.0}, 1)
        assert run.steps("loss") == {1}
        run.tags({"colour": "red"})
        found = run.newest(colour="red")
        assert found is not None and found.run_id == run.run_id


@pytest.mark.parametrize("only", ["", "/runs/create"])
@pytest.mark.parametrize("status", ["401", "403"])
def test_at_the_start_a_refused_login_is_an_error_at_once(
    proxy: Flaky, status: str, only: str
) -> None:
    proxy.goes(status, only)
    with pytest.raises(BadInput, match="refuses this login"):
        with connect().child("x", {}):
            pass
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("mode", ["down", "500"])
def test_at_the_start_a_store_that_is_away_is_an_error_at_once(proxy: Flaky, mode: str) -> None:
    proxy.goes(mode)
    with pytest.raises(BadInput, match="does not answer.*MLFLOW_TRACKING_URI"):
        connect()


def test_what_is_refused_later_is_told_and_kept(
    proxy: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect().child("x", {"stage": "final"}) as run:
        proxy.goes("403", only="log-batch", times=3)
        for epoch in range(1, 6):
            run.metrics({"loss": 1 / epoch}, epoch)
    told = capsys.readouterr().err
    assert told.count("refuses what run") == 1 and "3 entries" in told
    assert MlflowClient().get_run(str(run.run_id)).info.status == "FINISHED"
    connect()
    assert run.steps("loss") == {1, 2, 3, 4, 5} and not Path("checkpoints").exists()


def test_a_store_that_stays_away_is_given_up(
    proxy: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delivery, journal):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(journal, "END_SECONDS", 0.1)
    with pytest.raises(BadInput, match="has not answered for a day.*--resume"):
        with connect().child("x", {"stage": "search"}) as run:
            proxy.goes("down")
            run.metrics({"loss": 1.0}, 1)
            with run.child("y", {}):
                pass


LOGGING = """
import signal, sys, time
from alexnet_mlflow.track import connect
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with connect().child("x", {"stage": "final"}, *sys.argv[1:]) as run:
    print(run.run_id, flush=True)
    known = run.steps("loss")
    for epoch in range(1, 21):
        if epoch not in known:
            run.metrics({"loss": 1 / epoch}, epoch)
            run.text(f"epoch {epoch}", "last.txt")
        print(epoch, flush=True)
        if len(sys.argv) == 1:
            sys.stdin.readline()
"""


def logging(proxy: Flaky, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOGGING, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "MLFLOW_TRACKING_URI": proxy.uri},
    )


def killed(proxy: Flaky, number: int) -> str:
    """A run that lost its store after some epochs, and its process after some more: its id."""
    with logging(proxy) as process:
        assert process.stdout and process.stdin
        run_id = process.stdout.readline().strip()
        for line in process.stdout:
            if line == "3\n":
                proxy.goes("down")
            if line == "9\n":
                process.send_signal(number)
            else:
                process.stdin.write("\n")  # the next epoch
                process.stdin.flush()
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    proxy.goes("well")
    assert len(steps(run_id)) < 9, "the store was away"
    return run_id


def steps(run_id: str) -> list[int]:
    return [point.step for point in MlflowClient().get_metric_history(run_id, "loss")]


def test_kill_9_while_the_store_is_away_loses_nothing_and_sync_sends_it(
    proxy: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = killed(proxy, signal.SIGKILL)
    assert main(["sync"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Sent: ") and json.loads(told[-1])["sent"] > 5
    assert steps(run_id)[:9] == list(range(1, 10)), "every epoch that was logged, once"
    assert main(["sync"]) == 0
    assert capsys.readouterr().out.startswith("Nothing was left")
    assert not Path("checkpoints").exists()


def test_sigterm_while_the_store_is_away_leaves_the_rest_to_the_run_that_goes_on(
    proxy: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = killed(proxy, signal.SIGTERM)
    [path] = journal.FOLDER.glob("*.jsonl")
    assert json.loads(path.read_text().splitlines()[-1])["values"]["status"] == "KILLED"
    with logging(proxy, run_id) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0 and "that waited in" in told
    assert steps(run_id) == list(range(1, 21))
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/last.txt") == "epoch 20"


def test_what_is_left_of_a_run_that_another_process_has_ended_changes_nothing(
    proxy: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in another folder, whose process knows nothing of the journal in this one."""
    run_id = killed(proxy, signal.SIGTERM)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with logging(proxy, run_id) as process:
        assert process.communicate(timeout=120) and process.returncode == 0
    ended = MlflowClient().get_run(run_id)
    monkeypatch.chdir(tmp_path)
    assert main(["sync"]) == 0 and not Path("checkpoints").exists()
    assert steps(run_id) == list(range(1, 21)), "an epoch stands twice"
    again = MlflowClient().get_run(run_id)
    assert again.info.status == "FINISHED" and again.info.end_time == ended.info.end_time
    assert again.data.tags == ended.data.tags


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_the_end_of_a_run_arrives_though_the_journals_disk_is_full(
    store: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failing = pytest.raises(OSError, match="No space left")
    with monkeypatch.context() as patch, failing if status == "FAILED" else nullcontext():
        with connect().child("x", {"stage": "final"}) as run:
            run.metrics({"loss": 1.0}, 1)
            patch.setattr(os, "fsync", full)
            if status == "FAILED":
                run.metrics({"loss": 0.5}, 2)
    found = MlflowClient().get_run(str(run.run_id))
    assert found.info.status == status and found.info.end_time
    assert 1 in steps(str(run.run_id))


HANGING = """
import sys
from alexnet_mlflow import signals
from alexnet_mlflow.track import connect
signals.listen()
try:
    with connect().child("x", {"stage": "final"}) as run:
        print(run.run_id, flush=True)
        sys.stdin.readline()
        run.steps("loss")
except SystemExit as stopped:
    signals.leave(stopped.code)  # as the program does
"""


def test_a_signal_does_not_wait_for_a_server_that_hangs(proxy: Flaky) -> None:
    """Its answer may take half a minute, and `docker stop` gives ten seconds."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": proxy.uri,
                   "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env=environment,
    ) as process:
        assert process.stdout and process.stdin
        run_id = process.stdout.readline().strip()
        proxy.goes("hang")
        process.stdin.write("\n")
        process.stdin.flush()
        proxy.wait_for(1)
        came = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143 and time.monotonic() - came < 5
    proxy.goes("well")
    assert main(["sync"]) == 0
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


@pytest.mark.parametrize("mode", ["500", "down"])
def test_what_is_fetched_is_asked_for_again(
    proxy: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A file of a run, and a model: a request that goes wrong is no file that is missing."""
    monkeypatch.setattr(journal, "FIRST_PAUSE_SECONDS", 0.05)
    with connect().child("x", {"stage": "final"}) as run:
        run.text("here", "plots/a.txt")
        logged = run.model(Servable(build(2, 0)).eval(), torch.rand(2, 3, 32, 32), ["a", "b"])
    for path, wrong in (("plots/a.txt", ""), ("plots/a.txt", "a.txt"), ("plots/b.txt", "")):
        proxy.goes(mode, wrong, times=2)
        found = run.fetched(str(run.run_id), path, tmp_path)
        assert (found is not None) == (path == "plots/a.txt") and len(proxy.asked) == 2
    assert logged
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    proxy.goes(mode, times=1)  # MLflow itself asks again, after seconds
    assert models.load_model(logged.uri) and len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("wrong", "times", "asked"), [("artifacts", 15, 15), ("a.txt", 10**9, track.FETCHES + 1)]
)
def test_a_file_that_is_listed_and_does_not_come(
    proxy: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, times: int,
    asked: int,
) -> None:
    """A file that cannot be read is given up on; while the store is away as well, nothing is."""
    monkeypatch.setattr(journal, "FIRST_PAUSE_SECONDS", 0.02)
    with connect().child("x", {"stage": "final"}) as run:
        run.text("here", "plots/a.txt")
    client, first = run._client, [True]  # type: ignore[attr-defined]
    download = client.download_artifacts

    def failing(*given: Any) -> Any:
        if first:
            first.clear()
            proxy.goes("500", wrong, times)
        return download(*given)

    monkeypatch.setattr(client, "download_artifacts", failing)
    found = run.fetched(str(run.run_id), "plots/a.txt", tmp_path)
    assert (found is not None) == (wrong == "artifacts") and len(proxy.asked) == asked


def test_a_model_of_a_process_that_was_killed_is_no_second_one(proxy: Flaky) -> None:
    with connect().child("x", {"stage": "final"}) as run:
        for seed in (0, 1):
            logged = run.model(
                Servable(build(2, seed)).eval(), torch.rand(2, 3, 32, 32), ["a", "b"]
            )
    [kept] = MlflowClient().search_logged_models(["0"], f"source_run_id = '{run.run_id}'")
    assert logged and kept.model_id == logged.model_id


def test_sync_says_what_belongs_to_another_store(
    proxy: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = killed(proxy, signal.SIGKILL)
    [path] = journal.FOLDER.glob("*.jsonl")
    text = path.read_text()
    path.write_text(text.replace(proxy.uri, "http://elsewhere:5000", 1))
    assert main(["sync"]) == 1
    assert "is for http://elsewhere:5000: set MLFLOW_TRACKING_URI" in capsys.readouterr().out
    path.write_text(text)
    proxy.goes("down")
    assert main(["sync"]) == 2
    assert "does not answer" in capsys.readouterr().err
    proxy.goes("well")
    assert main(["sync"]) == 0 and steps(run_id)[:9] == list(range(1, 10))
