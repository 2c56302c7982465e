"""The long training: its rates, its model, how it diverges, and a kill -9 in the middle."""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from alexnet_mlflow import checkpoint
from alexnet_mlflow.commands import SyncConfig
from alexnet_mlflow.compare import mean_interval
from alexnet_mlflow.config import EvaluateConfig, FinalConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.models import load_model, model_classes
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.score import score_probabilities
from alexnet_mlflow.stages import evaluate, final, sync
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, resident
from tests.conftest import Babysat
from tests.narrow import PROGRAM, environment
from tests.stores import made

pytestmark = pytest.mark.usefixtures("narrow")

CPU = torch.device("cpu")


def settings(pictures: Path, **changes: object) -> FinalConfig:
    values = {
        "dataset": str(pictures), "optimizer": "adam", "lr": 1e-4, "weight_decay": 1e-4,
        "epochs": 3, "batch_size": 8, "device": "cpu", **changes,
    }
    return FinalConfig(**values)  # type: ignore[arg-type]


def test_the_rates_are_the_searchs(babysat: Babysat) -> None:
    searches = {run.data.tags["optimizer"]: run for run in babysat.runs["search"]}
    for run in babysat.runs["final"]:
        search = searches[run.data.tags["optimizer"]]
        assert run.data.params["lr"] == search.data.params["best_lr"]
        assert run.data.params["weight_decay"] == search.data.params["best_weight_decay"]


def test_auto_takes_the_latest_search_of_this_optimizer(store: Path, pictures: Path) -> None:
    root = connect()
    for optimizer, lr in (("adam", 0.5), ("adam", 0.0002), ("sgd", 0.7)):
        tags = {"stage": "search", "dataset": "colours", "optimizer": optimizer, "data_digest": "x"}
        with root.child("search", {**tags, "recipe": "report", "verdict": "pass"}) as run:
            run.params({"best_lr": lr, "best_weight_decay": 1e-5})
    result = final.run(settings(pictures, lr=None, weight_decay=None, epochs=1), root)
    assert result.figures["lr"] == 0.0002 and result.figures["weight_decay"] == 1e-5
    assert model_classes(str(result.model_uri)) == ("blue", "red"), "the model lost their names"


def test_without_a_search_strong_brings_its_own_rates(store: Path, pictures: Path) -> None:
    wanted = settings(pictures, lr=None, weight_decay=0.0, epochs=1)
    with pytest.raises(BadInput, match="no finished search of colours with adam"):
        final.run(wanted, connect())
    result = final.run(dataclasses.replace(wanted, recipe="strong"), connect())
    lr, _ = RECIPES["strong"].rates["adam"]
    assert (result.figures["lr"], result.figures["weight_decay"]) == (lr / 2, 0.0)  # batch 8


def test_the_model_is_the_best_epochs(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    for run in babysat.runs["final"]:
        history = client.get_metric_history(run.info.run_id, "val_accuracy")
        best = max(point.value for point in history)
        assert run.data.metrics["best_val_accuracy"] == best
        assert history[int(run.data.metrics["best_epoch"]) - 1].value == best
        assert run.data.tags["model_uri"].startswith("models:/m-")
        names = {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
        assert names == {"plots/augmentation.png", "plots/curves.png"}
    assert checkpoint.newest(babysat.folder / "checkpoints") == []


def test_the_curves_are_judged(store: Path, pictures: Path) -> None:
    """One epoch is the best and the last: a warning, which stops neither this run nor evaluate."""
    result = final.run(settings(pictures, epochs=1), connect())
    assert result.verdict == "pass" and result.model_uri
    assert any("train longer" in sentence for sentence in result.sentences)
    client = MlflowClient()
    run = client.get_run(str(result.run_id))
    assert run.info.status == "FINISHED" and run.data.tags["verdict"] == "pass"
    kept = json.loads(Path(client.download_artifacts(run.info.run_id, "checks.json")).read_text())
    assert {check["name"]: check["verdict"] for check in kept} == {
        "loss_not_rising": "pass", "gap": "pass", "best_epoch": "warn",
    }
    names = {f"check_{check['name']}" for check in kept}
    assert names <= run.data.metrics.keys()


def test_a_loss_that_rose_fails(store: Path, pictures: Path) -> None:
    """The judgement of a real history whose epochs are turned round."""
    history: list[EpochResult] = []
    with pytest.MonkeyPatch.context() as patch:
        kept = final._judgements
        patch.setattr(
            final, "_judgements",
            lambda seen, best: history.extend(seen) or kept(seen[::-1], best),
        )
        result = final.run(settings(pictures), connect())
    assert history[0].train_loss > 1.1 * history[-1].train_loss
    assert result.verdict == "fail"
    run = MlflowClient().get_run(str(result.run_id))
    assert run.info.status == "FAILED" and run.data.tags["verdict"] == "fail"
    assert run.data.tags["outcome"] == "completed"


def test_strong_keeps_and_logs_its_averaged_weights(store: Path, pictures: Path) -> None:
    """The model scores on validation what the run says; the last weights would not."""
    config = settings(pictures, recipe="strong", lr=1e-3, epochs=4)
    result = final.run(config, connect())
    run = MlflowClient().get_run(str(result.run_id))
    assert run.data.tags["weights"] == "averaged" and run.data.tags["recipe"] == "strong"
    val = load(config).val
    served = score_probabilities(load_model(str(result.model_uri)), *resident(val, CPU))
    assert served.accuracy == result.figures["best_val_accuracy"]
    assert served.loss == pytest.approx(result.figures["best_val_loss"], abs=1e-5)
    assert any("averaged weights" in sentence for sentence in result.sentences)
    plain = final.run(settings(pictures, epochs=1), connect())
    assert MlflowClient().get_run(str(plain.run_id)).data.tags["weights"] == "last"


def test_divergence_is_an_outcome(store: Path, pictures: Path) -> None:
    result = final.run(settings(pictures, optimizer="sgd", lr=1e6), connect())
    assert result.verdict == "fail" and result.model_uri is None
    run = MlflowClient().get_run(str(result.run_id))
    assert run.data.tags["outcome"] == "diverged" and run.info.status == "FAILED"
    assert run.data.metrics["diverged_at_epoch"] == 1
    assert "val_loss" not in run.data.metrics and "model_uri" not in run.data.tags


def weights_of(uri: str) -> dict[str, torch.Tensor]:
    return load_model(uri).state_dict()


def test_killed_and_resumed_is_the_same_run_with_the_same_weights(
    store: Path, pictures: Path
) -> None:
    """Others than SGD with `report`: test_final_kills.py."""
    config = settings(pictures, optimizer="sgd", epochs=6)
    straight = final.run(config, connect())
    names = (
        "dataset", "optimizer", "recipe", "lr", "weight_decay", "epochs", "batch_size", "device",
    )
    options = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in names]
    with subprocess.Popen(
        [*PROGRAM, "final", *options], cwd=store, env=environment(store), stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 3/6" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    [killed] = checkpoint.newest()
    client = MlflowClient()
    assert client.get_run(killed).info.status == "RUNNING"
    resumed = final.run(dataclasses.replace(config, resume="last"), connect())
    assert resumed.run_id == killed and client.get_run(killed).info.status == "FINISHED"
    for name in ("train_loss", "val_accuracy"):
        one = [(p.step, p.value) for p in client.get_metric_history(killed, name)]
        other = client.get_metric_history(str(straight.run_id), name)
        assert one == [(p.step, p.value) for p in other], name
    assert straight.model_uri and resumed.model_uri
    before, after = weights_of(straight.model_uri), weights_of(resumed.model_uri)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert checkpoint.newest() == []


def test_another_setting_is_not_a_resume(store: Path, pictures: Path) -> None:
    """What was interrupted goes on with its own settings, or is refused by name."""
    with pytest.raises(KeyboardInterrupt):
        interrupted(pictures)
    [name] = checkpoint.newest()
    with pytest.raises(BadInput, match=r"that run has --lr=0\.0001, not 0\.01"):
        final.run(settings(pictures, lr=0.01, resume=name), connect())
    with pytest.raises(BadInput, match="other pictures"):
        final.run(settings(pictures, split_seed=5, resume=name), connect())
    mine = settings(pictures, lr=None, weight_decay=None, resume=name)
    with checkpoint.claimed(name), pytest.raises(BadInput, match="another process trains run"):
        final.run(mine, connect())
    assert MlflowClient().get_run(name).info.status == "KILLED"  # nothing was said of it
    result = final.run(mine, connect())
    assert result.run_id == name and result.figures["lr"] == 1e-4


def test_what_is_being_trained_is_nobody_elses(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before its first step on, when its first state is there."""
    shown, seen = final.shown, list[str]()

    def looking(*given: object) -> object:
        [name] = checkpoint.newest()
        with pytest.raises(BadInput, match="another process trains"), checkpoint.claimed(name):
            pass
        seen.append(name)
        return shown(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(final, "shown", looking)
    assert [final.run(settings(pictures, epochs=1), connect()).run_id] == seen


def test_a_copied_run_is_resumed_from_the_checkpoint_of_its_original(
    store: Path, empty_store: Path, pictures: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(pictures)
    [name], before = checkpoint.newest(), mlflow.get_tracking_uri()
    target = made(empty_store, store / "target")
    sync.run(SyncConfig(from_=before, to=target))
    mlflow.set_tracking_uri(target)
    try:
        result = final.run(settings(pictures, resume="last"), connect())
        run = MlflowClient().get_run(str(result.run_id))
        assert run.data.tags["synced_from"] == name != result.run_id
        steps = [one.step for one in MlflowClient().get_metric_history(
            str(result.run_id), "train_loss"
        )]
        assert run.info.status == "FINISHED" and steps == sorted(set(steps)) and steps[0] == 1
        assert checkpoint.newest() == []
    finally:
        mlflow.set_tracking_uri(before)


def interrupted(pictures: Path, after: int = 2, **changes: object) -> None:
    """Somebody stops before the epoch of this number, over all seeds, is logged."""
    kept, epochs = final.shown, itertools.count(1)

    def stopping(*arguments: object) -> object:
        for result in kept(*arguments):  # type: ignore[arg-type]
            if next(epochs) == after:
                raise KeyboardInterrupt
            yield result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(final, "shown", stopping)
        final.run(settings(pictures, **changes), connect())


def test_seeds_resumed_without_their_checkpoint_log_each_epoch_once(
    store: Path, pictures: Path
) -> None:
    """Another machine goes on: the seed trains anew, in its run."""
    asked = {"seeds": 2, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        interrupted(pictures, 6, **asked)
    [name] = checkpoint.newest()
    checkpoint.remove(checkpoint.path_of(name))
    client = MlflowClient()
    assert len(client.get_metric_history(name, "val_loss")) == 2
    final.run(settings(pictures, **asked, resume="last"), connect())
    told = client.get_metric_history(name, "val_loss")
    assert [point.step for point in told] == [1, 2, 3]
    assert client.get_run(name).info.status == "FINISHED"


def test_a_trial_s_checkpoint_is_no_final_to_resume(store: Path, pictures: Path) -> None:
    checkpoint.save(checkpoint.path_of("abc"), {"training": {}, "history": []})
    with pytest.raises(BadInput, match="no interrupted final run"):
        final.run(settings(pictures, resume="last"), connect())
    with pytest.raises(BadInput, match="a trial of a search"):
        final.run(settings(pictures, resume="abc"), connect())


def test_seeds_are_children_of_one_run_with_their_mean(store: Path, pictures: Path) -> None:
    result = final.run(settings(pictures, lr=3e-3, epochs=1, seeds=3, seed=7), connect())
    client = MlflowClient()
    parent = client.get_run(str(result.run_id))
    children = [client.get_run(run) for run in parent.data.tags["final_runs"].split(",")]
    assert [child.data.params["seed"] for child in children] == ["8", "9", "10"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {result.run_id}
    accuracies = [child.data.metrics["best_val_accuracy"] for child in children]
    mean, low, high = mean_interval(accuracies)
    for name, value in (("", mean), ("_low", max(0.0, low)), ("_high", min(1.0, high))):
        assert parent.data.metrics[f"best_val_accuracy_mean{name}"] == pytest.approx(value)
    assert result.figures["best_val_accuracy"] == max(accuracies)
    chosen = client.get_run(parent.data.tags["chosen_final"])
    assert chosen.data.metrics["best_val_accuracy"] == max(accuracies)
    assert result.model_uri == chosen.data.tags["model_uri"]
    assert parent.data.tags["verdict"] == "pass" and parent.info.status == "FINISHED"
    found = evaluate.run(
        EvaluateConfig(dataset=str(pictures), optimizer="adam", device="cpu"), connect()
    )
    evaluated = client.get_run(str(found.run_id))
    below = client.search_runs(
        ["0"], f"tags.`mlflow.parentRunId` = '{found.run_id}'", order_by=["start_time ASC"]
    )
    assert [run.data.tags["final_run"] for run in below] == [run.info.run_id for run in children]
    assert {run.data.tags["seeds_run"] for run in below} == {found.run_id}
    tested = [run.data.metrics["test_accuracy"] for run in below]
    assert evaluated.data.metrics["test_accuracy_mean"] == pytest.approx(sum(tested) / 3)
    stands = client.get_run(evaluated.data.tags["chosen_evaluate"])
    assert stands.data.tags["final_run"] == chosen.info.run_id
    assert found.figures["test_accuracy"] == stands.data.metrics["test_accuracy"]
    looks = {client.get_run(run.info.run_id).data.tags["test_looks"] for run in children}
    assert looks == {"1"}


@pytest.mark.parametrize("after", [1, 4])
def test_interrupted_seeds_go_on_with_the_seed_that_was_interrupted(
    after: int, store: Path, pictures: Path
) -> None:
    """Before any epoch of the first seed, and at the second of the second seed's three."""
    asked = {"seeds": 2, "epochs": 2}
    straight = final.run(settings(pictures, **asked), connect())
    with pytest.raises(KeyboardInterrupt):
        interrupted(pictures, after, **asked)
    client = MlflowClient()
    [stopped] = client.search_runs(["0"], "tags.seeds = '2' AND attributes.status = 'KILLED'")
    with checkpoint.claimed(stopped.info.run_id), pytest.raises(BadInput, match="another process"):
        final.run(settings(pictures, **asked, resume="last"), connect())
    assert client.get_run(stopped.info.run_id).info.status == "KILLED"  # as it was
    resumed = final.run(settings(pictures, **asked, resume="last"), connect())
    parents = client.search_runs(["0"], "tags.seeds = '2'")
    assert len(parents) == 2 and {run.info.status for run in parents} == {"FINISHED"}
    one, other = (
        [client.get_run(run) for run in client.get_run(str(result.run_id)).data.tags[
            "final_runs"].split(",")] for result in (straight, resumed)
    )
    for before, now in zip(one, other, strict=True):
        kept = client.get_metric_history(before.info.run_id, "val_loss")
        again = client.get_metric_history(now.info.run_id, "val_loss")
        assert [(p.step, p.value) for p in kept] == [(p.step, p.value) for p in again]
    children = client.search_runs(["0"], "tags.seeds_run LIKE '%'")
    assert len(children) == 4, "a seed was begun twice"
    with pytest.raises(BadInput, match="no interrupted final run of 2 seeds"):
        final.run(settings(pictures, **asked, resume="last"), connect())
