"""A final run on the sealed test split: the only stage that opens it, and each look is counted.

The pictures are divided as the final run divided them, whatever the command says, and the data
digest must be the final run's. What is scored is the logged model, as others will load it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from alexnet_mlflow import plots
from alexnet_mlflow.compare import wilson
from alexnet_mlflow.config import DataConfig, EvaluateConfig
from alexnet_mlflow.data import Split, Splits, load, load_test, slug
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import FoundRun, LoggedModel, Tracker
from alexnet_mlflow.score import Scores, score_probabilities
from alexnet_mlflow.stages import StageResult, beside, close, git_commit
from alexnet_mlflow.track import load_model
from alexnet_mlflow.train import pick_device, resident

# How a parameter's text becomes a value again, by the field's type.
READ: dict[str, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: text.lower() == "true",
}
WORST = 24  # pictures in the grid of the worst mistakes
# What decides the division: taken from the final run, never from the command.
DIVISION = ("limit", "val_fraction", "test_fraction", "split_seed", "skip_corrupt")


def run(config: EvaluateConfig, tracker: Tracker) -> StageResult:
    """Score the final run's model on the test split and log everything about it."""
    device = pick_device(config.device)
    final = _final(config, tracker)
    division = _division(config, final)
    data = load(division)
    if data.digest != final.tags["data_digest"]:
        raise BadInput(
            f"the pictures of {data.title} are not those that run {final.run_id} was trained on: "
            "give the --data-dir it used, or train again with `alexnet-mlflow final`"
        )
    model = load_model(final.tags["model_uri"])
    test = load_test(division)
    looks = int(final.tags.get("test_looks", "0")) + 1
    with tracker.child(f"evaluate {data.name} {final.tags['optimizer']}", _tags(final)) as here:
        here.params({"run": final.run_id, **{name: getattr(division, name) for name in DIVISION}})
        here.dataset(data, "testing")
        here.mark(final.run_id, {"test_looks": looks})
        scores = score_probabilities(model.to(device), *resident(test, device))
        figures = {**_figures(scores), "test_looks": looks}
        here.tags({"final_run": final.run_id, "test_digest": test.digest})
        here.tags({"model_uri": final.tags["model_uri"], "test_looks": looks})
        uri = final.tags["model_uri"]
        logged = LoggedModel(uri, uri.removeprefix("models:/"))
        here.metrics(figures, model=logged, data=(data.title, data.digest))
        best = {name: final.metrics[name] for name in ("best_val_accuracy", "best_val_loss")}
        here.metrics(best)
        plain, told = beside(data, test)
        here.metrics(plain)
        _show(here, data, test, scores, logged)
        close(here, "pass")
        return StageResult(
            "evaluate", here.run_id, "pass",
            (*_sentences(data, scores, looks), told),
            {**figures, **best, **plain, "final_run": final.run_id}, uri,
        )


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
                f"--optimizer={config.optimizer}` first"
            )
        return final
    final = tracker.found(config.run)
    if final is None or final.tags.get("stage") != "final" or "model_uri" not in final.tags:
        raise BadInput(f"--run={config.run} is not a finished final run: give the id of one")
    if final.tags["dataset"] != slug(config.dataset):
        raise BadInput(
            f"--run={config.run} was trained on {final.tags['dataset']}, not {config.dataset}: "
            f"give --dataset={final.tags['dataset']}"
        )
    return final


def _division(config: EvaluateConfig, final: FoundRun) -> DataConfig:
    """The data options of the final run, on this machine's data folder."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(DataConfig):
        if item.name in DIVISION:
            text = final.params.get(f"resolved_{item.name}", final.params[item.name])
            values[item.name] = READ[str(item.type)](text)
    return DataConfig(dataset=config.dataset, data_dir=config.data_dir, **values)


def _tags(final: FoundRun) -> dict[str, object]:
    kept = ("dataset", "optimizer", "recipe", "seed", "data_digest")
    return {
        "stage": "evaluate", "git_commit": git_commit(), "trained_on": final.tags["dataset"],
        **{key: final.tags[key] for key in kept},
    }


def _figures(scores: Scores) -> dict[str, float]:
    """The test figures: accuracies are fractions of pictures."""
    low, high = wilson(scores.correct, scores.n)
    return {
        "test_accuracy": scores.accuracy,
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "test_loss": scores.loss,
        "test_correct": scores.correct,
        "test_pictures": scores.n,
    }


def _sentences(data: Splits, scores: Scores, looks: int) -> tuple[str, ...]:
    low, high = wilson(scores.correct, scores.n)
    return (
        f"{data.title}, test: {scores.correct} of {scores.n} = {scores.accuracy:.2%} "
        f"(Wilson 95 % {low:.2%} to {high:.2%}), loss {scores.loss:.4f}.",
        f"The sealed test split has now been looked at {looks} time{'s'[: looks != 1]} by this "
        "model.",
    )


def _show(
    here: Tracker, data: Splits, test: Split, scores: Scores, logged: LoggedModel
) -> None:
    """Per-class table, confusion matrix, ROC and PR for two classes, predictions, worst mistakes.
    """
    classes, title = data.classes, f"{data.title}, test"
    predicted, places = scores.predictions, list(range(len(data.classes)))
    rows = sk.precision_recall_fscore_support(
        test.labels, predicted, labels=places, zero_division=0.0
    )
    names = ("precision", "recall", "f1", "pictures")
    table = pd.DataFrame(dict(zip(names, rows, strict=True)), index=pd.Index(classes, name="class"))
    here.text(table.to_csv(), "per_class.csv")
    macro = {f"test_{name}_macro": float(table[name].mean()) for name in names[:3]}
    here.metrics(macro, model=logged, data=(data.title, data.digest))
    matrix = sk.confusion_matrix(test.labels, predicted, labels=places)
    here.figure(plots.confusion(matrix, classes, title), "plots/confusion.png")
    if len(classes) == 2:
        positive = test.labels == 0
        chances = scores.probabilities[:, 0]
        area = {"test_roc_auc": float(sk.roc_auc_score(positive, chances))}
        here.metrics(area, model=logged, data=(data.title, data.digest))
        here.figure(plots.roc_and_pr(positive, chances, classes[0], title), "plots/roc_pr.png")
    _show_mistakes(here, data, test, scores)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.parquet"
        _predictions(data, test, scores).to_parquet(file, index=False)
        here.file(file)


def _show_mistakes(here: Tracker, data: Splits, test: Split, scores: Scores) -> None:
    """The wrong pictures with the largest loss, and what the model took them for."""
    wrong = np.flatnonzero(scores.predictions != test.labels)
    worst = wrong[np.argsort(-scores.losses[wrong], kind="stable")][:WORST]
    captions = [
        f"{data.classes[test.labels[row]]} taken for\n{data.classes[scores.predictions[row]]} "
        f"({scores.probabilities[row].max():.0%})"
        for row in worst
    ]
    title = f"{data.title}, test: the worst {len(worst)} of {len(wrong)} mistakes"
    here.figure(plots.mistakes(test.images[worst], captions, title), "plots/mistakes.png")


def _predictions(data: Splits, test: Split, scores: Scores) -> pd.DataFrame:
    """A row a picture: id, photo, label, prediction, loss, and the probability of each class."""
    frame = pd.DataFrame({
        "id": test.ids,
        "group": test.groups,
        "label": test.labels,
        "prediction": scores.predictions,
        "loss": scores.losses,
    })
    for place, name in enumerate(data.classes):
        frame[f"p_{name}"] = scores.probabilities[:, place]
    return frame


