"""What a model's scores come to: figures, tables and pictures of one evaluation.

Every accuracy is k of n with Wilson's interval. Operating points are chosen on validation and
counted on the pictures that are evaluated, so that these choose nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from sklearn import metrics as sk
from torch import nn

from alexnet_mlflow import plots
from alexnet_mlflow.compare import wilson
from alexnet_mlflow.data import Split
from alexnet_mlflow.model import PICTURE
from alexnet_mlflow.runs import LoggedModel, Tracker
from alexnet_mlflow.score import SCORE_BATCH, Scores, calibration_error, reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISTAKES = 24  # pictures in the grid of the surest mistakes
FALSE_ALARMS = (0.01, 0.05)  # shares on validation that operating points are chosen for
# A speed is the median of as many, after some that warm up; of slow ones of fewer.
WARM_UP, FEWEST, ROUNDS, ENOUGH_SECONDS = 2, 3, 20, 1.0


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A model's scores on some pictures, and what they are called."""

    title: str  # "FDDB, test"
    classes: tuple[str, ...]
    pictures: Split
    scores: Scores
    validation: Scores | None  # None where the model has no validation pictures of this kind
    digest: str  # of the data set, as runs carry it


def share(name: str, correct: int, n: int) -> dict[str, float]:
    """The metrics of a share: itself and its interval, fractions."""
    low, high = wilson(correct, n)
    return {name: correct / n, f"{name}_low": low, f"{name}_high": high}


def figures(scores: Scores) -> dict[str, float]:
    """The test figures: accuracies are fractions of pictures, the loss is in nats."""
    return {
        **share("test_accuracy", scores.correct, scores.n),
        "test_loss": scores.loss,
        "test_correct": scores.correct,
        "test_pictures": scores.n,
        "test_calibration_error": calibration_error(reliability(scores)),
    }


def per_class(scores: Scores, classes: tuple[str, ...]) -> pd.DataFrame:
    """A row a class: recall and precision as k of n with their intervals, and F1.

    The precision of a class that was never predicted is empty.
    """
    rows = []
    for place, name in enumerate(classes):
        real, said = scores.labels == place, scores.predictions == place
        hits = int((real & said).sum())
        row: dict[str, object] = {"class": name, "pictures": int(real.sum()), "correct": hits}
        row |= share("recall", hits, int(real.sum())) if real.any() else {}
        row |= {"predicted": int(said.sum())}
        row |= share("precision", hits, int(said.sum())) if said.any() else {}
        rows.append({**row, "f1": 2 * hits / max(1, int(real.sum()) + int(said.sum()))})
    return pd.DataFrame(rows)


def operating_points(validation: Scores, scores: Scores) -> pd.DataFrame:
    """Thresholds on the first of two classes' probability, and what they catch.

    A row a rule: 0.5, and the lowest threshold with no more than a share of FALSE_ALARMS on the
    validation pictures. Hits and false alarms are those of `scores`, k of n with Wilson's interval.
    """
    others = np.sort(validation.probabilities[validation.labels != 0, 0])[::-1]
    found = [("0.5", 0.5)]
    for most in FALSE_ALARMS:
        allowed = int(most * len(others))  # so many may lie above
        found.append((f"false alarms <= {most:.0%} on validation", float(others[allowed])))
    rows = []
    for rule, threshold in found:
        above, real = scores.probabilities[:, 0] > threshold, scores.labels == 0
        hits, alarms = int((above & real).sum()), int((above & ~real).sum())
        rows.append({
            "rule": rule, "threshold": threshold,
            "hits": hits, "of": int(real.sum()), **share("hit_rate", hits, int(real.sum())),
            "false_alarms": alarms, "of_others": int((~real).sum()),
            **share("false_alarm_rate", alarms, int((~real).sum())),
        })
    return pd.DataFrame(rows)


def predictions(seen: Evaluated) -> pd.DataFrame:
    """A row a picture: id, group, label, prediction, loss, probabilities, the data's digest."""
    frame = pd.DataFrame({
        "id": seen.pictures.ids,
        "group": seen.pictures.groups,
        "label": seen.pictures.labels,
        "prediction": seen.scores.predictions,
        "loss": seen.scores.losses,
    })
    for place, name in enumerate(seen.classes):
        frame[f"p_{name}"] = seen.scores.probabilities[:, place]
    frame["data_digest"] = pd.Categorical([seen.digest] * len(frame))
    return frame


def speed(model: nn.Module, device: torch.device) -> dict[str, float]:
    """How fast the model answers on this device, from pixels that lie there.

    pictures_per_second in batches of SCORE_BATCH, latency_ms of one picture alone: medians.
    speed_threads: of torch, in which a CPU has done it.
    """
    def seconds(count: int) -> float:
        pixels = torch.rand(count, *PICTURE, device=device)
        took = list[float]()
        while len(took) < WARM_UP + FEWEST or (
            len(took) < WARM_UP + ROUNDS and sum(took[WARM_UP:]) < ENOUGH_SECONDS
        ):
            started = time.perf_counter()
            answer = model(pixels)
            answer.sum().item()  # waits for the device
            took.append(time.perf_counter() - started)
        return statistics.median(took[WARM_UP:])

    with torch.inference_mode():
        return {
            "pictures_per_second": SCORE_BATCH / seconds(SCORE_BATCH),
            "latency_ms": 1000 * seconds(1),
            "speed_threads": torch.get_num_threads(),
        }


def show(
    seen: Evaluated, here: Tracker, model: LoggedModel | None, data: tuple[str, str]
) -> list[str]:
    """Log tables, plots and predictions; returns sentences on the operating points.

    model and data (name, digest) are what the figures belong to.
    """
    scores, classes, labels = seen.scores, seen.classes, seen.scores.labels
    table = per_class(scores, classes)
    here.text(table.to_csv(index=False), "per_class.csv")
    macro = {f"test_{name}_macro": float(table[name].fillna(0.0).mean())
             for name in ("precision", "recall", "f1") if name in table}
    here.metrics(macro, model=model, data=data)
    matrix = sk.confusion_matrix(labels, scores.predictions, labels=list(range(len(classes))))
    here.figure(plots.confusion(matrix, classes, seen.title), "plots/confusion.png")
    here.figure(plots.calibration(reliability(scores), seen.title), "plots/calibration.png")
    here.figure(_mistakes(seen), "plots/mistakes.png")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.parquet"
        predictions(seen).to_parquet(file, index=False)
        here.file(file)
    if len(classes) != 2 or len(np.unique(labels)) != 2:
        return []
    first = scores.probabilities[:, 0]
    area = {"test_roc_auc": float(sk.roc_auc_score(labels == 0, first))}
    here.metrics(area, model=model, data=data)
    here.figure(plots.roc_and_pr(labels == 0, first, classes[0], seen.title), "plots/roc_pr.png")
    if seen.validation is None:
        return []
    points = operating_points(seen.validation, scores)
    here.text(points.to_csv(index=False), "operating_points.csv")
    return [
        f"Threshold {row.threshold:.3f} ({row.rule}): {row.hits} of {row.of} {classes[0]} found, "
        f"{row.false_alarms} of {row.of_others} false alarms."
        for row in points.itertuples()
    ]


def _mistakes(seen: Evaluated) -> Figure:
    """The wrong pictures the model was surest of, and what it took them for."""
    scores, classes = seen.scores, seen.classes
    wrong = np.flatnonzero(scores.predictions != scores.labels)
    sure = scores.probabilities[wrong].max(axis=1)
    surest = wrong[np.argsort(-sure, kind="stable")][:MISTAKES]
    captions = [
        f"{classes[scores.labels[row]]} taken for\n{classes[scores.predictions[row]]} "
        f"({scores.probabilities[row].max():.0%})"
        for row in surest
    ]
    some = "" if len(surest) == len(wrong) else f"the surest {len(surest)} of "
    title = f"{seen.title}: {some}{len(wrong)} mistake{'s' * (len(wrong) != 1)}"
    return plots.mistakes(seen.pictures.images[surest], captions, title)
