"""What a checkpoint holds of a final training, and which one `--resume` means."""

from __future__ import annotations

import functools
import shutil
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
from alexnet_mlflow.train import EPOCH_METRICS, EpochResult, State, fit
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
            writer.wait()  # every epoch is on disk: one that ends while another is written waits
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
    assert [one.figures for one in found.history] == [one.figures for one in left.history]
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


@functools.cache
def left() -> State:
    """A whole checkpoint, trained once."""
    interrupted("a1")
    return checkpoint.load(checkpoint.path_of("a1"))


ROW: dict[str, object] = {"epoch": 1, **dict.fromkeys(EPOCH_METRICS, 0.5)}


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("config", {"colour": "red"}, "a str as 'colour'"),
        ("config", {5: "red"}, "a str as '5'"),
        ("config", {"lr": "fast"}, "a str as 'lr'"),
        ("config", {"epochs": 3.5}, "a float as 'epochs'"),
        ("config", {"seed": True}, "a bool as 'seed'"),
        ("config", {"seed": torch.ones(2)}, "a Tensor as 'seed'"),
        ("config", {"dataset": None}, "a NoneType as 'dataset'"),
        ("config", {"lr": -1.0}, "its config: --lr must be above 0 and finite, got -1.0"),
        ("history", 5, "its history is no list"),
        ("history", [ROW, ROW], "epoch 2 of its history is another"),
        ("history", [], "not at the end"),
        ("history", [ROW], "not at the end"),
        ("training", None, "not at the end"),
        ("training", 5, "no state"),
        ("training", {"epoch": 2}, "lacks a part"),
        ("training", {**dict.fromkeys(resume.TRAINING), "epoch": torch.ones(2)}, "not at the end"),
        ("best_epoch", 3, "its best epoch"),
        ("best_epoch", 0, "its best epoch"),
        ("best_epoch", None, "its best epoch"),
        ("best_weights", 5, "its best weights"),
        ("processes", "one", "its processes"),
        ("processes", torch.ones(2), "its processes"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(
    part: str, value: object, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Sealed and whole; `last` looks further."""
    state = left()
    checkpoint.save(checkpoint.path_of("a1"), state)
    changed = {**state[part], **value} if part == "config" and isinstance(value, dict) else value
    checkpoint.save(checkpoint.path_of("b2"), {**state, part: changed})
    asked = _resuming("b2", lr=None, weight_decay=None)
    with pytest.raises(BadInput, match="was written by another version") as refusal:
        to_resume(asked, Knows("a1", "b2"), DATA)
    assert told in str(refusal.value) and "give --resume another id" in str(refusal.value)
    assert checkpoint.newest()[0] == "b2" and not caplog.text
    assert to_resume(_resuming("last"), Knows("a1", "b2"), DATA)[1] == "a1"
    assert told in caplog.text and "it is passed over" in caplog.text


def test_last_passes_over_what_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """And over a copy that somebody has set aside, of which there is nothing to say."""
    interrupted("a1")
    shutil.copytree("checkpoints/a1", "checkpoints/a1.bak")
    assert to_resume(_resuming("last"), Knows("a1"), DATA)[1] == "a1" and not caplog.text
    interrupted("b2")
    for file in Path("checkpoints/b2").iterdir():
        file.write_bytes(b"damaged")
    assert to_resume(_resuming("last"), Knows("a1", "b2"), DATA)[1] == "a1"
    assert "checkpoints/b2/previous.pt cannot be read" in caplog.text
    assert "it is passed over" in caplog.text and "start anew" not in caplog.text
    shutil.rmtree("checkpoints/a1")
    with pytest.raises(BadInput, match=r"no interrupted .* \(1 of its checkpoints cannot be read"):
        to_resume(_resuming("last"), Knows("a1", "b2"), DATA)


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
