"""The command line, as a person types it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint, cli
from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import COMMANDS
from alexnet_mlflow.config import STAGES
from alexnet_mlflow.models import load_model
from alexnet_mlflow.stages import final
from alexnet_mlflow.train import EpochResult

PROGRAM = [sys.executable, "-m", "alexnet_mlflow"]


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a wrong command is answered with; exit code 2, nothing on stdout."""
    assert main(list(arguments)) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("Error: ") and caught.err.count("\n") == 1, caught.err
    assert "Traceback" not in caught.err
    return caught.err


@pytest.mark.parametrize("stage", [*STAGES, *COMMANDS])
def test_help_answers(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage, "--help"]) == 0
    assert f"alexnet-mlflow {stage}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["search", "--dataset=nothing"], "neither a name nor a path"),
        (["search", "--lr-low=0"], "--lr-low must be above 0"),
        (["search", "--lr-low=1", "--lr-high=1"], "--lr-low must be below --lr-high"),
        (["search", "--trials=0"], "--trials must be above 0"),
        (["search", "--trials=many"], "alexnet-mlflow search --help"),
        (["sanity", "--lr=-1"], "--lr must be above 0"),
        (["sanity", "--lr=nan"], "--lr must be above 0 and finite, got nan"),
        (["sanity", "--lr=abc"], "'abc'"),
        (["sanity", "--optimizer=rmsprop"], "'sgd', 'adam'"),
        (["sanity", "--batch-size=0"], "--batch-size"),
        (["sanity", "--batch-size=145"], "fewer than the batch of 145"),
        (["babysit", "--batch-size=145"], "fewer than the batch of 145"),
        (["sanity", "--momentum=1"], "--momentum must be below 1"),
        (["sanity", "--val-fraction=1"], "--val-fraction must lie between 0 and 1"),
        (["sanity", "--limit=-1"], "--limit must be at least 0"),
        (["sanity", "--limit=3"], "--limit"),
        (["sanity", "--nonsense=1"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["final"], "alexnet-mlflow search --dataset=faces --optimizer=sgd"),
        (["final", "--lr=0.1", "--weight-decay=-1"], "--weight-decay must be at least 0"),
        (["final", "--resume=../../etc"], "run id"),
        (["final", "--resume"], "no interrupted final run"),
        (["evaluate"], "alexnet-mlflow final --dataset=faces --optimizer=sgd"),
        (["evaluate", "--run=abc"], "--run=abc is not a finished final run"),
        (["promote"], "alexnet-mlflow evaluate --dataset=faces"),
    ],
)
def test_bad_input_gets_one_sentence(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert part in refused(arguments, capsys)
    assert MlflowClient().search_runs(["0"]) == [], "a run was left behind"
    assert sorted(path.name for path in store.iterdir()) == ["mlflow.db"]


def test_a_corrupt_picture_is_named_and_can_be_left_out(
    store: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = store / "pets"
    for name in ("blue", "red"):
        (broken / name).mkdir(parents=True)
        for file in list((pictures / name).iterdir())[:16]:
            (broken / name / file.name).write_bytes(file.read_bytes())
    (broken / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    arguments = ["overfit", f"--dataset={broken}", "--batch-size=4", "--device=cpu"]
    assert "broken.png" in refused(arguments, capsys)
    code = main([*arguments, "--skip-corrupt"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and last["verdict"] == "pass"
    [run] = MlflowClient().search_runs(["0"])
    assert run.data.metrics["pictures_skipped"] == 1


def test_a_run_that_is_deleted_while_it_is_trained_is_told(
    store: Path, pictures: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = final.shown

    def deleting(*given: Any) -> Iterator[EpochResult]:
        for result in shown(*given):
            if result.epoch == 1:
                [run] = MlflowClient().search_runs(["0"])
                MlflowClient().delete_run(run.info.run_id)
            yield result

    monkeypatch.setattr(final, "shown", deleting)
    words = ["--lr=1e-4", "--weight-decay=0", "--epochs=2", "--batch-size=8", "--device=cpu"]
    assert main(["final", f"--dataset={pictures}", *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: the run was deleted") and "mlflow runs restore" in last


def test_a_gate_that_says_no_is_exit_code_1(
    store: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["overfit", f"--dataset={pictures}", "--batch-size=8", "--epochs=1"]
    assert main([*arguments, "--lr=1e-9", "--device=cpu"]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["verdict"] == "fail"
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.run_id == last["run_id"] and run.info.status == "FAILED"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_of_the_last_epoch_and_the_run_killed(
    store: Path, pictures: Path, number: signal.Signals, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Within five seconds, long before the next checkpoint is due; what goes on ends as if nothing
    had been.
    """
    words = ["--lr=1e-4", "--weight-decay=0", "--epochs=7", "--batch-size=8", "--device=cpu"]
    command = [*PROGRAM, "final", f"--dataset={pictures}", *words]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    with subprocess.Popen(
        command, cwd=store, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 4/7" in line:
                break
        time.sleep(0.2)  # within the fifth
        came = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == code, rest
        assert time.monotonic() - came < 5
    assert "Traceback" not in rest
    client = MlflowClient()
    [run] = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    logged = [at.step for at in client.get_metric_history(run.info.run_id, "val_loss")]
    path = checkpoint.path_of(run.info.run_id, store / checkpoint.FOLDER)
    assert checkpoint.load(path)["training"]["epoch"] == logged[-1] >= 4
    if number == signal.SIGINT:
        return  # as well as the other
    uris = []
    for more in (["--resume=last"], []):
        assert main([*command[len(PROGRAM):], *more]) == 0
        uris.append(json.loads(capsys.readouterr().out.splitlines()[-1])["model_uri"])
    assert client.get_run(run.info.run_id).data.tags["model_uri"] == uris[0]
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 7
    resumed, straight = (load_model(uri).state_dict() for uri in uris)
    assert all(torch.equal(weight, straight[name]) for name, weight in resumed.items())


def test_a_signal_while_the_model_is_logged_leaves_all_epochs(store: Path, pictures: Path) -> None:
    words = ["--lr=1e-4", "--weight-decay=0", "--epochs=2", "--batch-size=8", "--device=cpu"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    with subprocess.Popen(
        [*PROGRAM, "final", f"--dataset={pictures}", *words], cwd=store, env=environment,
        stderr=subprocess.PIPE, text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 2/2" in line:
                break
        time.sleep(0.5)
        came = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 143, rest
        assert time.monotonic() - came < 5
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.status == "KILLED" and "model_uri" not in run.data.tags
    path = checkpoint.path_of(run.info.run_id, store / checkpoint.FOLDER)
    assert checkpoint.load(path)["training"]["epoch"] == 2


def test_help_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; from alexnet_mlflow.cli import main; main(['search', '--help']);"
        "print(sorted({'torch', 'mlflow', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_command_shows_the_help() -> None:
    done = subprocess.run(PROGRAM, capture_output=True, text=True)
    assert done.returncode == 2 and "babysit" in done.stdout + done.stderr


def test_every_switch_of_a_stage_means_something_without_a_value() -> None:
    fields = (item for config in STAGES.values() for item in dataclasses.fields(config))
    assert {item.name for item in fields if item.type == "bool"} <= set(cli.FLAGS)


def test_a_warning_is_shown_whatever_level_mlflow_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)
    monkeypatch.setattr(logging.getLogger("alexnet_mlflow"), "level", logging.NOTSET)
    assert main(["--version"]) == 0
    assert logging.getLogger("alexnet_mlflow.data.cache").getEffectiveLevel() == logging.WARNING
