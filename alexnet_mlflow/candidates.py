"""Which evaluated models may challenge the champion, and which of them is the better.

By default the latest evaluated final of each optimizer; else the runs that are named. The better
is chosen on validation, so that the test split chooses nothing. A model that was trained on one
data set and evaluated on another is no candidate of either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet_mlflow.config import OPTIMIZERS
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import FoundRun, Tracker

# What an evaluation must tell: those that an older version wrote, or an unfinished one, may not.
NEEDED = ("optimizer", "data_digest", "test_digest", "final_run", "model_uri")
NEEDED_FIGURES = ("best_val_accuracy", "best_val_loss", "test_accuracy")


def candidates(named: str, dataset: str, asked: str, tracker: Tracker) -> list[FoundRun]:
    """The evaluations that compete.

    named: ids of evaluate or final runs, comma-separated, or latest. asked: the data set as it was
    given, for the way out. BadInput where there is none, or they cannot be ranked.
    """
    if named == "latest":
        found = _latest(dataset, tracker)
        if not found:
            raise BadInput(
                f"there is no evaluated final run of {dataset} in this experiment: run "
                f"`alexnet-mlflow evaluate --dataset={asked}` first"
            )
        return found
    ids = list(dict.fromkeys(each.strip() for each in named.split(",") if each.strip()))
    if not ids:
        raise BadInput(f"--run names no run, got {named!r}: give ids, comma-separated, or latest")
    found = [_named(each, dataset, tracker) for each in ids]
    distinct = list({one.run_id: one for one in found}.values())
    for tag in ("data_digest", "test_digest"):
        if len({one.tags[tag] for one in distinct}) > 1:
            raise BadInput(
                f"the runs {', '.join(ids)} were trained or tested on different pictures, so they "
                "cannot be ranked: give those of one division, or one run"
            )
    return distinct


def evaluation_of(tags: Mapping[str, str], dataset: str, tracker: Tracker) -> FoundRun | None:
    """The latest evaluation with these tags of a model on the data set it was trained on."""
    wanted = {"stage": "evaluate", "dataset": dataset, "verdict": "pass", **tags}
    found = tracker.latest(**wanted, trained_on=dataset)
    if found is None:  # an older version set no such tag, and evaluated on nothing else
        found = tracker.latest(**wanted)
        if found is None or "trained_on" in found.tags:
            return None
    return _chosen(found, tracker) if "final_run" in tags else _standing(found, tracker)


def best(found: Sequence[FoundRun]) -> FoundRun:
    """On validation: by accuracy, then by loss."""
    return max(found, key=_on_validation)


def choice(found: Sequence[FoundRun]) -> str:
    """What was chosen among, in a sentence."""
    told = ", ".join(
        f"{one.tags['optimizer']} {on_validation(one)} (loss {one.metrics['best_val_loss']:.4f})"
        for one in found
    )
    if len(found) == 1:
        return f"The one candidate, on validation: {told}."
    return f"Candidates on validation: {told}. The better: {best(found).tags['optimizer']}."


def on_validation(one: FoundRun) -> str:
    """Its accuracy, and of how many pictures where that is on record."""
    pictures = one.metrics.get("val_pictures")
    of = f" of {pictures:.0f} pictures" if pictures else ""
    return f"{one.metrics['best_val_accuracy']:.2%}{of}"


def row(one: FoundRun, chosen: bool) -> dict[str, object]:
    """A candidate in candidates.json; accuracies are fractions of pictures."""
    return {
        "optimizer": one.tags["optimizer"],
        "seed": one.tags.get("seed"),
        "final_run": one.tags["final_run"],
        "evaluate_run": one.run_id,
        "best_val_accuracy": one.metrics["best_val_accuracy"],
        "best_val_loss": one.metrics["best_val_loss"],
        "test_accuracy": one.metrics["test_accuracy"],
        "chosen": chosen,
    }


def _latest(dataset: str, tracker: Tracker) -> list[FoundRun]:
    """The latest evaluation of each optimizer, on the pictures of the latest of all.

    Accuracies on other validation pictures (another limit or division) cannot be ranked with them.
    """
    newest = evaluation_of({}, dataset, tracker)
    if newest is None:
        return []
    digest = {"data_digest": _whole(newest).tags["data_digest"]}
    each = (evaluation_of({**digest, "optimizer": one}, dataset, tracker) for one in OPTIMIZERS)
    return [_whole(one) for one in each if one is not None]


def _named(run_id: str, dataset: str, tracker: Tracker) -> FoundRun:
    """The evaluation that an id stands for: its own, or the latest of a final run."""
    run = tracker.found(run_id)
    stage = run.tags.get("stage") if run else None
    if run is None or stage not in ("evaluate", "final"):
        raise BadInput(f"--run={run_id} is neither an evaluate nor a final run: give ids of such")
    known = run.tags.get("trained_on", run.tags.get("dataset"))
    if known != dataset or run.tags.get("dataset") != dataset:
        raise BadInput(
            f"--run={run_id} is of a model of {known}, not of {dataset}, or was evaluated on "
            f"{run.tags.get('dataset')}: give the evaluation of a model of {dataset} on {dataset}"
        )
    if stage == "evaluate":
        if run.tags.get("verdict") != "pass":
            raise BadInput(f"--run={run_id} is no finished evaluation: give the id of one")
        return _whole(_chosen(run, tracker))
    found = evaluation_of({"final_run": run_id}, dataset, tracker)
    if found is None:
        raise BadInput(
            f"--run={run_id} was not evaluated: run `alexnet-mlflow evaluate --run={run_id}` first"
        )
    return _whole(found)


def _standing(found: FoundRun, tracker: Tracker) -> FoundRun:
    """Of several seeds' evaluations the one whose final is best on validation; else the same."""
    parent = tracker.found(found.tags["seeds_run"]) if "seeds_run" in found.tags else None
    return _chosen(parent, tracker) if parent and "chosen_evaluate" in parent.tags else found


def _chosen(found: FoundRun, tracker: Tracker) -> FoundRun:
    """What stands for a run over seeds; an evaluation of one model stands for itself."""
    chosen = found.tags.get("chosen_evaluate")
    return (tracker.found(chosen) if chosen else None) or found


def _whole(found: FoundRun) -> FoundRun:
    missing = [name for name in NEEDED if name not in found.tags]
    missing += [name for name in NEEDED_FIGURES if name not in found.metrics]
    if missing:
        raise BadInput(
            f"the evaluation {found.run_id} lacks {', '.join(missing)}: evaluate its final run "
            "again"
        )
    return found


def _on_validation(found: FoundRun) -> tuple[float, float]:
    return found.metrics["best_val_accuracy"], -found.metrics["best_val_loss"]
