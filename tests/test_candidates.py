"""Which evaluations compete, and which is the better, on a real store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.candidates import best, candidates, choice, evaluation_of
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import FoundRun, Tracker
from alexnet_mlflow.track import connect
from tests.evaluations import evaluated, predictions

TABLE = predictions(np.arange(10) < 8)


@pytest.fixture
def root(store: Path) -> Tracker:
    return connect()


def latest(root: Tracker, dataset: str = "x") -> list[FoundRun]:
    return candidates("latest", dataset, "x.zip", root)


def ids(found: list[FoundRun]) -> list[str]:
    return [one.run_id for one in found]


def test_the_latest_of_each_optimizer(root: Tracker) -> None:
    evaluated(root, TABLE)
    _, sgd = evaluated(root, TABLE, 0.8)
    _, adam = evaluated(root, TABLE, 0.9, optimizer="adam")
    found = latest(root)
    assert ids(found) == [sgd, adam] and best(found).run_id == adam
    assert choice(found) == (
        "Candidates on validation: sgd 80.00% of 100 pictures (loss 0.2000), adam 90.00% of 100 "
        "pictures (loss 0.1000). The better: adam."
    )


def test_none_at_all(root: Tracker) -> None:
    with pytest.raises(BadInput, match="run `alexnet-mlflow evaluate --dataset=x.zip` first"):
        latest(root)


def test_candidates_share_the_pictures_of_the_latest(root: Tracker) -> None:
    """An older evaluation on another division is not ranked with a newer one."""
    evaluated(root, TABLE, data_digest="old")
    evaluated(root, TABLE, optimizer="adam", data_digest="old")
    _, new = evaluated(root, TABLE, optimizer="adam", data_digest="new")
    assert ids(latest(root)) == [new]


def test_an_evaluation_on_another_data_set_is_none(root: Tracker) -> None:
    _, own = evaluated(root, TABLE)
    evaluated(root, TABLE, trained_on="y")
    assert ids(latest(root)) == [own]
    _, foreign = evaluated(root, TABLE, dataset="z", trained_on="y")
    assert evaluation_of({}, "z", root) is None
    with pytest.raises(BadInput, match=f"--run={foreign} is of a model of y, not of z"):
        candidates(foreign, "z", "z", root)


def test_an_older_version_s_evaluation_counts(root: Tracker) -> None:
    """It told nothing of what the model was trained on, which was what it was evaluated on."""
    with root.child("evaluate", {
        "stage": "evaluate", "dataset": "x", "optimizer": "sgd", "verdict": "pass",
        "data_digest": "all", "test_digest": "test", "final_run": "f", "model_uri": "models:/m",
    }) as run:
        run.metrics({"best_val_accuracy": 0.5, "best_val_loss": 0.5, "test_accuracy": 0.5})
    assert ids(latest(root)) == [run.run_id]


def test_of_several_seeds_the_one_chosen_on_validation(root: Tracker) -> None:
    with root.child("evaluate", {
        "stage": "evaluate", "dataset": "x", "trained_on": "x", "optimizer": "sgd",
        "data_digest": "all",
    }) as parent:
        tags = {"seeds_run": str(parent.run_id)}
        first_final, first = evaluated(parent, TABLE, 0.9, **tags)
        second_final, second = evaluated(parent, TABLE, 0.8, **tags)
        assert ids(latest(root)) == [second], "as long as the parent has chosen none"
        parent.tags({"chosen_evaluate": first, "verdict": "pass"})
    assert ids(latest(root)) == [first]
    for named in (str(parent.run_id), first, first_final):
        assert ids(candidates(named, "x", "x", root)) == [first]
    for named in (second, second_final):
        assert ids(candidates(named, "x", "x", root)) == [second], "a named seed is that seed"
    assert ids(candidates(f"{second}, {first}", "x", "x", root)) == [second, first]
    asked = {"final_run": second_final, "test_digest": "test"}
    champions = evaluation_of(asked, "x", root)
    assert champions and champions.run_id == second, "no other seed defends a champion"


def test_named_runs(root: Tracker) -> None:
    final, one = evaluated(root, TABLE, 0.8)
    _, again = evaluated(root, TABLE, 0.8, final=final)
    _, other = evaluated(root, TABLE, 0.9)
    assert ids(candidates(one, "x", "x", root)) == [one]
    assert ids(candidates(final, "x", "x", root)) == [again], "the latest of this final"
    assert best(candidates(f"{one}, {other},", "x", "x", root)).run_id == other


def test_named_runs_that_are_none(root: Tracker) -> None:
    _, one = evaluated(root, TABLE)
    _, other = evaluated(root, TABLE, data_digest="another")
    _, unfinished = evaluated(root, TABLE, verdict="fail")
    with root.child("final", {"stage": "final", "dataset": "x", "verdict": "pass"}) as final:
        pass
    with root.child("sanity", {"stage": "sanity", "dataset": "x"}) as sanity:
        pass
    with root.child("evaluate", {"stage": "evaluate", "dataset": "x", "verdict": "pass"}) as bare:
        pass
    for named, told in (
        ("nonsense", "neither an evaluate nor a final run"),
        ("../x' or", "neither an evaluate nor a final run"),
        (str(sanity.run_id), "neither an evaluate nor a final run"),
        (str(final.run_id), f"run `alexnet-mlflow evaluate --run={final.run_id}` first"),
        (str(bare.run_id), "lacks optimizer, data_digest"),
        (unfinished, "no finished evaluation"),
        (" , ", "names no run"),
        (f"{one},{other}", "were trained or tested on different pictures"),
    ):
        with pytest.raises(BadInput, match=told):
            candidates(named, "x", "x", root)
    with pytest.raises(BadInput, match="is of a model of x, not of y"):
        candidates(one, "y", "y", root)
