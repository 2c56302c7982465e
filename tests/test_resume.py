"""What a checkpoint holds of a final training, and which one `--resume` means."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alexnet_mlflow import alive, checkpoint, resume
from alexnet_mlflow.config import FinalConfig, TrainConfig
from alexnet_mlflow.data import Splits
from alexnet_mlflow.distributed import Place
from alexnet_mlflow.model import AlexNet, build
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.resume import Progress, as_interrupted, checkpointed, progress_of, to_resume
from alexnet_mlflow.runs import PROCESS, FoundRun, NullTracker
from alexnet_mlflow.train import EpochResult, fit
from tests.shared_batches import pictures

pytestmark = pytest.mark.usefixtures("narrow")

DATA = pictures()
CONFIG = FinalConfig(dataset="noise", lr=0.01, weight_decay=1e-4, epochs=3, batch_size=10)


class Knows(NullTracker):
    """A store that has the runs of these ids."""

    def __init__(self, *names: str, process: str = "") -> None:
        self.names, self.process = names, process

    def found(self, run_id: str) -> FoundRun | None:
        tags = {PROCESS: self.process}
        return FoundRun(run_id, {}, {}, tags) if run_id in self.names else None


def epochs(net: AlexNet, count: int = 3) -> Iterator[EpochResult]:
    config = TrainConfig(
        optimizer="sgd", lr=0.01, weight_decay=1e-4, momentum=0.9, batch_size=10, epochs=count,
        recipe="plain", seed=0,
    )
    return fit(net, DATA, config, torch.device("cpu"))


def interrupted(name: str, config: FinalConfig = CONFIG, data: Splits = DATA) -> Progress:
    """Leave the checkpoint of a training of two epochs under this run id."""
    progress = Progress()
    with torch.random.fork_rng(devices=[]), checkpoint.Writer(checkpoint.path_of(name)) as writer:
        for _ in checkpointed(epochs(build(3, 0), 2), progress, config, data, writer):
            pass
    return progress


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0)


def test_the_best_epochs_weights_are_a_copy() -> None:
    net, progress, seen = build(3, 0), Progress(), []
    with torch.random.fork_rng(devices=[]):
        for result in epochs(net):
            progress.add(result)
            seen.append({name: weight.clone() for name, weight in net.state_dict().items()})
    assert progress.best is not None and len(progress.history) == 3
    best = max(progress.history, key=lambda one: (one.val_accuracy, -one.val_loss))
    assert progress.best is best
    for name, weight in seen[best.epoch - 1].items():
        assert torch.equal(progress.best_weights[name], weight)


def test_the_progress_is_read_back_as_it_was() -> None:
    left = interrupted("a1")
    state, name = to_resume(_resuming("last"), Knows("a1"), DATA)
    assert name == "a1" and state is not None
    found = progress_of(state)
    assert [one.figures for one in found.history] == [one.figures for one in left.history][
        : len(found.history)
    ]
    assert found.best is not None and found.best in found.history
    assert state["training"]["epoch"] == len(found.history) and found.best_weights
    assert progress_of(None) == Progress()


def _resuming(name: str, **changes: object) -> FinalConfig:
    return FinalConfig(**{**vars(CONFIG), "resume": name, **changes})


def test_a_fresh_start_reads_nothing() -> None:
    interrupted("a1")
    assert to_resume(CONFIG, Knows("a1"), DATA) == (None, None)


def test_last_is_the_newest_that_fits_and_is_in_the_store() -> None:
    interrupted("a1")
    interrupted("b2", _resuming("no", lr=0.5))
    interrupted("c3")
    assert checkpoint.newest() == ["c3", "b2", "a1"]
    assert to_resume(_resuming("last"), Knows("a1", "b2", "c3"), DATA)[1] == "c3"
    assert to_resume(_resuming("last"), Knows("a1", "b2"), DATA)[1] == "a1"
    assert to_resume(_resuming("last", lr=0.5), Knows("a1", "b2"), DATA)[1] == "b2"
    with pytest.raises(BadInput, match="holds no interrupted final run of noise with sgd"):
        to_resume(_resuming("last", epochs=9), Knows("a1", "b2", "c3"), DATA)


def test_last_is_one_with_an_epoch_where_there_is_one() -> None:
    begun = resume.state_of(Progress(), CONFIG, DATA)
    checkpoint.save(checkpoint.path_of("b2"), begun)
    assert to_resume(_resuming("last"), Knows("a1", "b2"), DATA) == (begun, "b2")
    interrupted("a1")
    checkpoint.save(checkpoint.path_of("c3"), begun)
    assert checkpoint.newest()[0] == "c3"
    assert to_resume(_resuming("last"), Knows("a1", "b2", "c3"), DATA)[1] == "a1"
    assert to_resume(_resuming("c3"), Knows("a1", "b2", "c3"), DATA)[1] == "c3"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": 0.5}, r"that run has --lr=0\.01, not 0\.5"),
        ({"deterministic": True}, "that run has --deterministic=False, not True"),
    ],
)
def test_a_named_one_that_was_started_otherwise_is_refused(
    changes: dict[str, object], told: str
) -> None:
    interrupted("a1")
    with pytest.raises(BadInput, match=told):
        to_resume(_resuming("a1", **changes), Knows("a1"), DATA)
    with pytest.raises(BadInput, match="the tracking store has no such run"):
        to_resume(_resuming("a1"), Knows(), DATA)


def test_one_that_is_still_being_trained_is_left_alone() -> None:
    """Two would write the same epochs twice, and the same checkpoint at once."""
    interrupted("a1")
    code = "from alexnet_mlflow import alive; print(alive.myself(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdin
        process = other.stdout.readline().strip()
        with pytest.raises(BadInput, match="the process that trains that run is still there"):
            to_resume(_resuming("a1"), Knows("a1", process=process), DATA)
        with pytest.raises(BadInput, match="holds no interrupted final run"):
            to_resume(_resuming("last"), Knows("a1", process=process), DATA)
        other.stdin.write("\n")
        other.stdin.close()
        other.wait()
    assert to_resume(_resuming("last"), Knows("a1", process=process), DATA)[1] == "a1"
    mine = Knows("a1", process=alive.myself())
    assert to_resume(_resuming("last"), mine, DATA)[1] == "a1"


@pytest.mark.parametrize("state", [{"config": 5}, {"config": {}}, {"config": {}, "history": []}])
def test_a_checkpoint_of_something_else_is_refused(state: dict[str, object]) -> None:
    checkpoint.save(checkpoint.path_of("a1"), state)
    with pytest.raises(BadInput, match="another stage"):
        to_resume(_resuming("a1"), Knows("a1"), DATA)


def test_one_that_several_processes_have_trained_is_theirs(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = interrupted("a1")
    with monkeypatch.context() as patch:
        patch.setattr(resume.distributed, "place", lambda: Place(0, 2))
        state = resume.state_of(progress, CONFIG, DATA)
    checkpoint.save(checkpoint.path_of("a1"), state)
    with pytest.raises(BadInput, match="that run has been trained by 2 processes, not 1"):
        to_resume(_resuming("a1"), Knows("a1"), DATA)


def test_it_goes_on_with_its_own_settings_on_todays_machine() -> None:
    interrupted("a1")
    today = _resuming("a1", lr=None, weight_decay=None, data_dir="elsewhere", device="cpu")
    state, _ = to_resume(today, Knows("a1"), DATA)
    assert state is not None
    found = as_interrupted(today, state)
    assert (found.lr, found.weight_decay, found.epochs) == (0.01, 1e-4, 3)
    assert (found.data_dir, found.device, found.resume) == ("elsewhere", "cpu", "a1")
