"""A final run on the sealed test split: the only stage that opens it, and each look is counted.

The pictures are divided as the final run divided them, whatever the command says, and the data
digest must be the final run's. What is scored is the logged model, as others will load it. A final
of several seeds is evaluated seed by seed, in runs below one that has their mean and spread; the
seed that was best on validation is the one that stands for them.

On another data set of the same classes a model is scored on all its pictures, since it has learnt
from none; those with a copy among its training pictures are counted apart. That is no candidate for
promotion (tag `trained_on`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet_mlflow import evaluation
from alexnet_mlflow.compare import counted, over_seeds
from alexnet_mlflow.config import DataConfig, EvaluateConfig
from alexnet_mlflow.data import (
    DataError,
    Split,
    Splits,
    load,
    load_test,
    load_whole,
    seen_rows,
    slug,
)
from alexnet_mlflow.data.copies import exact_copies, rows_in
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.evaluation import Evaluated
from alexnet_mlflow.models import load_model, model_classes
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import FoundRun, LoggedModel, Tracker
from alexnet_mlflow.score import BothWays, Scores, score_probabilities
from alexnet_mlflow.stages import StageResult, beside, close, git_commit
from alexnet_mlflow.train import resident

# How a parameter's text becomes a value again, by the field's type.
READ: dict[str, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: text.lower() == "true",
}
# What decides the division: taken from the final run, never from the command.
DIVISION = ("limit", "val_fraction", "test_fraction", "split_seed", "skip_corrupt")
LOOKED = {"looked": "true"}  # tag of a run that has opened the model's own sealed test split
KEPT_TAGS = ("dataset", "optimizer", "recipe", "seed", "data_digest")


@dataclass(frozen=True, eq=False)
class Opened:
    """The pictures of one evaluation, the test split among them."""

    division: DataConfig
    data: Splits
    test: Split
    seen: np.ndarray  # rows of test with an exact or near copy in train or val
    compared: int  # rows of test that were compared for that
    device: torch.device
    flip: bool


def run(config: EvaluateConfig, tracker: Tracker) -> StageResult:
    """Score the final run's model, or those of all its seeds, on the test split."""
    device = pick_device(config.device)
    final = _final(config, tracker)
    finals = _seeds_of(final, tracker)
    if final.tags["dataset"] != slug(config.dataset):
        chosen = final.tags.get("chosen_final", finals[0].run_id)
        [one] = [each for each in finals if each.run_id == chosen]
        return _elsewhere(config, one, tracker, device)
    opened = _opened(config, finals[0], device)
    if final.run_id == finals[0].run_id:
        return _one(final, opened, tracker)
    return _several(final, finals, opened, tracker)


def _final(config: EvaluateConfig, tracker: Tracker) -> FoundRun:
    """The final run that is asked for; BadInput where there is none that can be evaluated."""
    if config.run == "latest":
        final = tracker.latest(
            stage="final", dataset=slug(config.dataset), optimizer=config.optimizer,
            recipe=config.recipe, verdict="pass",
        )
        if final is None:
            raise BadInput(
                f"there is no finished final run of {config.dataset} with {config.optimizer} in "
                f"this experiment: run `alexnet-mlflow final --dataset={config.dataset} "
                f"--optimizer={config.optimizer}` first, or name a model of the same classes by "
                "--run"
            )
        above = tracker.found(final.tags["seeds_run"]) if "seeds_run" in final.tags else None
        return above if above and "final_runs" in above.tags else final
    found = tracker.found(config.run)
    able = found and {"model_uri", "final_runs"} & found.tags.keys()
    if found is None or not able or found.tags.get("stage") != "final":
        raise BadInput(f"--run={config.run} is not a finished final run: give the id of one")
    return found


def _seeds_of(final: FoundRun, tracker: Tracker) -> list[FoundRun]:
    """The final itself, or the finals of its seeds."""
    if "final_runs" not in final.tags:
        return [final]
    found = [tracker.found(run_id) for run_id in final.tags["final_runs"].split(",")]
    if gone := [one for one in found if one is None]:
        raise BadInput(f"{len(gone)} finals of run {final.run_id} are deleted: give --run of one")
    return [one for one in found if one]


def _opened(config: EvaluateConfig, final: FoundRun, device: torch.device) -> Opened:
    """The pictures as the final run divided them; BadInput where they are others today."""
    division = _division(config, final, config.dataset)
    data = load(division)
    if data.digest != final.tags["data_digest"]:
        raise BadInput(
            f"the pictures of {data.title} are not those that run {final.run_id} was trained on: "
            "give the --data-dir it used, or train again with `alexnet-mlflow final`; to evaluate "
            "it on another folder of this name, rename that"
        )
    test = load_test(division)
    return Opened(division, data, test, *seen_rows(data.train, data.val, test), device, config.flip)


def _division(config: EvaluateConfig, final: FoundRun, dataset: str) -> DataConfig:
    """The data options of the final run, on this machine's data folder."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(DataConfig):
        if item.name in DIVISION:
            text = final.params.get(f"resolved_{item.name}", final.params[item.name])
            values[item.name] = READ[str(item.type)](text)
    return DataConfig(
        dataset=dataset, data_dir=config.data_dir, offline=config.offline, **values
    )


def _tags(final: FoundRun, opened: Opened) -> dict[str, object]:
    return {
        "stage": "evaluate", "git_commit": git_commit(), "trained_on": final.tags["dataset"],
        "final_run": final.run_id, "test_digest": opened.test.digest, **LOOKED,
        **{key: final.tags[key] for key in KEPT_TAGS if key in final.tags},
    }


def _one(
    final: FoundRun, opened: Opened, tracker: Tracker, seeds_run: str | None = None
) -> StageResult:
    """Evaluate one model in a run of its own."""
    data, test, device = opened.data, opened.test, opened.device
    uri = final.tags["model_uri"]
    model = load_model(uri).to(device)
    tags = {**_tags(final, opened), "model_uri": uri}
    if seeds_run:
        tags["seeds_run"] = seeds_run
    with tracker.child(f"evaluate {data.name} {final.tags['optimizer']}", tags) as here:
        division = {name: getattr(opened.division, name) for name in DIVISION}
        here.params({"run": final.run_id, **division})
        here.dataset(data, "testing")
        looks = _look(final, here)
        validation = score_probabilities(model, *resident(data.val, device))
        seen = Evaluated(
            f"{data.title}, test", data.classes, test,
            score_probabilities(model, *resident(test, device)), validation, data.digest,
        )
        best = {name: final.metrics[name] for name in ("best_val_accuracy", "best_val_loss")}
        best["val_pictures"] = float(len(data.val))
        here.metrics({**best, "test_looks": looks})
        figures, sentences = _told(here, seen, opened.seen, opened.compared, model, device, uri)
        if opened.flip:
            both, sentence = _both_ways(seen, here, model, device)
            figures, sentences = {**figures, **both}, (*sentences, sentence)
        plain, told = beside(data, test)
        here.metrics(plain)
        close(here, "pass")
        figures |= {**best, **plain, "test_looks": looks, "final_run": final.run_id}
        told_all = (*sentences, told, _looked(looks))
        return StageResult("evaluate", here.run_id, "pass", told_all, figures, uri)


def _told(
    here: Tracker, seen: Evaluated, copies: np.ndarray, compared: int, model: nn.Module,
    device: torch.device, uri: str,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Log everything about these scores; the figures and the sentences."""
    scores = seen.scores
    clean, unseen = _unseen(scores, copies, compared)
    figures: dict[str, Any] = {**evaluation.figures(scores), **clean}
    logged = LoggedModel(uri, uri.removeprefix("models:/"))
    about = (seen.title.removesuffix(", test"), seen.digest)
    here.metrics(figures, model=logged, data=about)
    fast = evaluation.speed(model, device)
    here.metrics(fast)
    points = evaluation.show(seen, here, logged, about)
    many, alone = fast["pictures_per_second"], fast["latency_ms"]
    where = "cuda" if device.type == "cuda" else f"cpu, threads: {fast['speed_threads']}"
    return {**figures, **fast}, (
        f"{seen.title}: {counted(scores.correct, scores.n)}, loss {scores.loss:.4f}, "
        f"calibration error {figures['test_calibration_error']:.2%}.",
        *unseen, *points,
        f"On this {where}: {many:.0f} pictures/s, one alone in {alone:.1f} ms.",
    )


def _both_ways(
    seen: Evaluated, here: Tracker, model: nn.Module, device: torch.device
) -> tuple[dict[str, float], str]:
    """The accuracy of the mean of a picture's and its mirror image's probabilities.

    Logged beside `test_accuracy`, which stays what the model alone reaches.
    """
    scores = score_probabilities(BothWays(model), *resident(seen.pictures, device))
    found = evaluation.share("test_accuracy_flip", scores.correct, scores.n)
    here.metrics(found)
    return found, f"With the mirror images too: {counted(scores.correct, scores.n)}."


def _elsewhere(
    config: EvaluateConfig, final: FoundRun, tracker: Tracker, device: torch.device
) -> StageResult:
    """A model on another data set than its own."""
    uri, wanted = final.tags["model_uri"], DataConfig(
        dataset=config.dataset, data_dir=config.data_dir, offline=config.offline,
        skip_corrupt=config.skip_corrupt,
    )
    classes, data = model_classes(uri), load_whole(wanted)
    if classes != data.classes:
        raise BadInput(
            f"the model of run {final.run_id} tells {', '.join(classes)} apart, {data.title} has "
            f"{', '.join(data.classes)}: give a data set of the same classes"
        )
    pictures = data.pictures
    copies, compared, sealed, doubt = _trained_on(config, final, pictures)
    model = load_model(uri).to(device)
    tags = {
        "stage": "evaluate", "git_commit": git_commit(), "trained_on": final.tags["dataset"],
        "final_run": final.run_id, "test_digest": pictures.digest, "model_uri": uri,
        **{key: final.tags[key] for key in KEPT_TAGS if key in final.tags}, "dataset": data.name,
        "data_digest": data.digest, **(LOOKED if sealed else {}),
    }
    name = f"evaluate {final.tags['dataset']} {final.tags['optimizer']} on {data.name}"
    with tracker.child(name, tags) as here:
        here.params({"run": final.run_id})
        here.dataset(data, "testing")
        if sealed:
            doubt = (f"{sealed} of these pictures are of its own sealed test split. "
                     + _looked(_look(final, here)),)
        scores = score_probabilities(model, *resident(pictures, device))
        seen = Evaluated(data.title, classes, pictures, scores, None, data.digest)
        figures, sentences = _told(here, seen, copies, compared, model, device, uri)
        if config.flip:
            both, sentence = _both_ways(seen, here, model, device)
            figures, sentences = {**figures, **both}, (*sentences, sentence)
        close(here, "pass")
        figures |= {"final_run": final.run_id, "trained_on": final.tags["dataset"]}
        return StageResult("evaluate", here.run_id, "pass", (*sentences, *doubt), figures, uri)


def _trained_on(
    config: EvaluateConfig, final: FoundRun, pictures: Split
) -> tuple[np.ndarray, int, int, tuple[str, ...]]:
    """Rows that the model has seen in training, how many were compared for that, how many pictures
    are of its own test split, and what stays unknown."""
    division = _division(config, final, final.params["dataset"])
    division = dataclasses.replace(division, offline=True)  # nothing is fetched for this alone
    try:
        own = load(division)
    except DataError:
        own = None
    if own is None or own.digest != final.tags["data_digest"]:
        doubt = "The model's training pictures are not at hand: copies of them were not looked for."
        return np.array([], np.int64), 0, 0, (doubt,)
    sealed = rows_in(pictures, exact_copies((load_test(division), pictures))[0])
    return *seen_rows(own.train, own.val, pictures), len(sealed), ()


def _unseen(
    scores: Scores, copies: np.ndarray, compared: int
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The accuracy without the rows that have a copy in train or validation."""
    left_out = len(copies)
    if not compared:
        return {}, ()
    others = np.setdiff1d(np.arange(scores.n), copies)
    if not len(others):
        told = "Each of these pictures has an exact or near copy in train or validation."
        return {"test_pictures_seen": float(left_out)}, (told,)
    if not left_out:
        return {"test_pictures_seen": 0.0}, ()
    correct = int((scores.predictions == scores.labels)[others].sum())
    partly = ""
    if compared < scores.n:
        partly = f", of {compared} that were compared"
    which = "1 picture that has" if left_out == 1 else f"{left_out} pictures that have"
    return (
        {
            "test_pictures_seen": float(left_out),
            **evaluation.share("test_accuracy_unseen", correct, len(others)),
        },
        (f"Without the {which} an exact or near copy in train or "
         f"validation{partly}: {counted(correct, len(others))}.",),
    )


def _look(final: FoundRun, here: Tracker) -> int:
    """Count this look at the test split, on this run and on the final run.

    A look is an evaluation's run, so that none is lost where two look at once: who writes last has
    counted after all others began.
    """
    mine = {"stage": "evaluate", "final_run": final.run_id, **LOOKED}
    before, looks = int(final.tags.get("test_looks", "0")), 0
    while looks < (found := max(before + 1, here.count(**mine))):
        looks = found
        for run_id in (final.run_id, here.run_id):
            if run_id:
                here.mark(run_id, {"test_looks": looks})
    return looks


def _looked(looks: int) -> str:
    times = "time" if looks == 1 else "times"
    return f"The sealed test split has now been looked at {looks} {times} by this model."


def _several(
    final: FoundRun, finals: Sequence[FoundRun], opened: Opened, tracker: Tracker
) -> StageResult:
    """Evaluate a model a seed, each in a run below one that has their mean and spread."""
    name = f"evaluate {opened.data.name} {final.tags['optimizer']}, {len(finals)} seeds"
    tags = {**_tags(final, opened), "seeds": len(finals)}
    with tracker.child(name, tags) as here:
        here.params({"run": final.run_id, "seeds": len(finals)})
        results = [_one(one, opened, here, here.run_id) for one in finals]
        best = final.tags["chosen_final"]
        [chosen] = [one for one in results if one.figures["final_run"] == best]
        spread, sentence = over_seeds(
            "test_accuracy", [one.figures["test_accuracy"] for one in results]
        )
        figures, told = {**chosen.figures, **spread}, []
        if opened.flip:
            name = "test_accuracy_flip"
            both, mirrored = over_seeds(name, [one.figures[name] for one in results])
            figures |= both
            told = ["With the mirror images too. " + mirrored]
        here.metrics({name: value for name, value in figures.items() if name != "final_run"})
        here.tags({"chosen_evaluate": chosen.run_id, "model_uri": chosen.model_uri})
        close(here, "pass")
        return StageResult(
            "evaluate", here.run_id, "pass",
            (*_by_seed(finals, results), sentence, *told, "The seed that is best on validation:",
             *chosen.sentences),
            {**figures, "seeds": len(finals)},
            chosen.model_uri,
        )


def _by_seed(finals: Sequence[FoundRun], results: Sequence[StageResult]) -> list[str]:
    return [
        f"Seed {final.tags['seed']}: "
        + counted(int(one.figures["test_correct"]), int(one.figures["test_pictures"]))
        + f", {one.figures['best_val_accuracy']:.2%} on {one.figures['val_pictures']:.0f} "
        "validation pictures."
        for final, one in zip(finals, results, strict=True)
    ]
