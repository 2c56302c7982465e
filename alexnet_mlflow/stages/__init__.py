"""One file an entry point. What they share stands here: opening a run, and the result they give.

Stages never import one another; they meet through MLflow run ids and model URIs alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet_mlflow import checks, model, plots, registry
from alexnet_mlflow.augment import mirrors
from alexnet_mlflow.checks import Check, Verdict
from alexnet_mlflow.compare import counted
from alexnet_mlflow.config import RunConfig, TrainConfig, parameters
from alexnet_mlflow.data import Inspection, Splits, baselines, stratified_part
from alexnet_mlflow.data.split import Split
from alexnet_mlflow.models import load_model, model_classes
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.track import connect
from alexnet_mlflow.train import EpochResult, divergence

GRID_PICTURES = 12
_MEASURED: dict[tuple[str, str], Mapping[str, tuple[int, int]]] = {}  # what `beside` knows
@dataclass(frozen=True)
class StageResult:
    """What a stage found, for the caller and for the last line of standard output."""

    stage: str
    run_id: str | None
    verdict: Verdict
    sentences: tuple[str, ...]  # for people
    figures: dict[str, Any] = field(default_factory=dict)  # finite numbers and texts
    model_uri: str | None = None

    def as_json(self) -> str:
        """One line: stage, run_id, verdict, the figures, model_uri where there is one."""
        line = {"stage": self.stage, "run_id": self.run_id, "verdict": self.verdict, **self.figures}
        if self.model_uri:
            line["model_uri"] = self.model_uri
        return json.dumps(line, allow_nan=False)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A logged model as its users have it: (N, 3, 32, 32) float32, 0..1 -> (N, C) probabilities."""

    uri: str
    network: nn.Module
    classes: tuple[str, ...]


def loaded(uri: str, device: torch.device) -> Loaded:
    """The logged model, on this device. BadInput where it, its store or its server is not there,
    or where it takes or answers something else.
    """
    if uri.startswith(("models:", "runs:")):
        connect()  # a store that does not answer is told at once
    if uri.startswith("models:/") and not uri.startswith("models:/m-"):
        with registry.answering():  # and so is a registry
            pass
    network, classes = load_model(uri).to(device), model_classes(uri)
    try:
        with torch.inference_mode():
            answers = tuple(network(torch.zeros(1, *model.PICTURE, device=device)).shape)
    except Exception as error:  # whatever its author raises for pictures
        answers = (error,)
    if answers != (1, len(classes)):
        raise BadInput(
            f"the model {uri!r} must take pictures (N, 3, 32, 32) and answer a probability for "
            "each of its classes: give one that `alexnet-mlflow final` has logged"
        )
    return Loaded(uri, network, classes)


@contextmanager
def opened(
    config: RunConfig, tracker: Tracker, data: Splits, run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
) -> Iterator[Tracker]:
    """A run with all that every training stage logs: tags (and these), parameters, pictures."""
    check_batch(config, data)
    name = f"{config.stage} {data.name} {config.optimizer}"
    grid = _grid(config, data)  # first: it takes seconds, in which a run would have no checkpoint
    with tracker.child(name, {**tags_of(config, data), **(tags or {})}, run_id) as run:
        run.params(parameters(config))
        run.dataset(data, "training")
        if data.skipped:
            run.metrics({"pictures_skipped": data.skipped})
            say(f"{data.skipped} pictures of {data.title} cannot be read and are left out.")
        run.figure(grid, "plots/augmentation.png")
        yield run


def check_batch(config: RunConfig, data: Splits) -> None:
    """BadInput where there are fewer training pictures than a batch has."""
    if config.batch_size is not None and len(data.train) < config.batch_size:
        raise BadInput(
            f"{data.title} has {len(data.train)} training pictures, fewer than the batch of "
            f"{config.batch_size}: give --batch-size={len(data.train)} or less, or more pictures"
        )


def tags_of(config: RunConfig, data: Splits) -> dict[str, object]:
    """The tags by which runs find one another."""
    return {
        "stage": config.stage,
        "dataset": data.name,
        "optimizer": config.optimizer,
        "recipe": config.recipe,
        "seed": config.seed,
        "data_digest": data.digest,
        "git_commit": git_commit(),
    }


def train_config(config: RunConfig, **changes: Any) -> TrainConfig:
    """The part of a stage's config that the training loop knows, with these values changed."""
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    values = {name: getattr(config, name) for name in known if hasattr(config, name)}
    return TrainConfig(**{**values, **changes})


def judged(run: Tracker, found: list[Check], last: EpochResult) -> Verdict:
    """Log the checks (checks.json, a metric each, the tag `verdict`) and say what they come to.

    last: the last epoch trained; where it diverged, that is the run's outcome.
    """
    verdict = checks.overall(found)
    run.json([dataclasses.asdict(check) for check in found], "checks.json")
    measured = {f"check_{check.name}": check.measured for check in found}
    run.metrics({name: value for name, value in measured.items() if value is not None})
    if last.diverged:
        run.metrics(divergence(last))
    close(run, verdict, "diverged" if last.diverged else "completed")
    return verdict


@dataclass(frozen=True)
class DataReport:
    """What a data check found, in the forms in which it is kept."""

    checks: list[Check]
    figures: dict[str, float]  # metrics
    report: dict[str, Any]  # data_check.json
    plots: dict[str, Any]  # file name -> figure


def data_report(seen: Inspection) -> DataReport:
    """The checks of a data set, its baselines as metrics, and figures for people to look at."""
    found, classes = seen.found, seen.found.classes
    made = checks.of_data(found, seen.published, seen.paired)
    head = {"title": seen.title, "digest": seen.digest}
    copies = [
        f"{copy.first.split} / {copy.second.split} {copy.correlation:.2f}"
        + (" mirrored" if copy.mirrored else "")
        for copy in found.near.listed
    ]
    suspects = [
        f"{classes[one.place.label]} or\n{classes[one.likely]} {one.probability:.0%}?"
        for one in found.labels.listed
    ]
    names = f"{seen.title}: near-duplicates across splits", f"{seen.title}: labels most in doubt"
    return DataReport(
        checks=made,
        figures={
            **baseline_figures(found.baselines, "val"),
            "near_duplicates_across_splits": found.near.count,
            "leaked_pictures": len(found.seen_test_rows),
        },
        report={**head, "checks": [dataclasses.asdict(one) for one in made], **found.as_dict()},
        plots={
            "near_duplicates.png": plots.pairs(*seen.copies, copies[: plots.SHOWN], names[0]),
            "suspect_labels.png": plots.mistakes(
                seen.suspects, suspects[: plots.SHOWN], names[1]
            ),
        },
    )


def baseline_figures(correct: Mapping[str, tuple[int, int]], split: str) -> dict[str, float]:
    """Accuracies of what needs no network: `baseline_<name>_<split>_accuracy`."""
    return {f"baseline_{name}_{split}_accuracy": right / n for name, (right, n) in correct.items()}


def beside(data: Splits, other: Split) -> tuple[dict[str, float], str]:
    """What goes without a network on a split, and the sentence that stands beside every result.

    Measured once a process for the same pictures.
    """
    key = (data.digest, other.name)
    if key not in _MEASURED:
        _MEASURED[key] = baselines(data.train, other)
    told = ", ".join(f"{name} {counted(*found)}" for name, found in _MEASURED[key].items())
    return (
        baseline_figures(_MEASURED[key], other.name),
        f"Without a network, on the same pictures (logistic regression): {told}.",
    )


def close(run: Tracker, verdict: Verdict, outcome: str = "completed") -> None:
    """The last tags of a run; a failing verdict makes the run FAILED."""
    run.tags({"verdict": verdict, "outcome": outcome})
    if verdict == "fail":
        run.fail()


def layer_lines(net: model.AlexNet) -> str:
    """The layer table as text, one layer a line, the sum last."""
    rows = model.layer_table(net)
    lines = [f"{'layer':<14}{'kind':<12}{'output':<16}{'parameters':>12}{'multiply-adds':>15}"]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        head = f"{row.name:<14}{row.kind:<12}{shape:<16}"
        lines.append(f"{head}{row.parameters:>12,}{row.multiply_adds:>15,}")
    total, work = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    lines.append(f"{'all':<42}{total:>12,}{work:>15,}")
    return "\n".join(lines) + "\n"


@functools.cache
def git_commit() -> str:
    """The commit of the code that runs, `+changes` where the tree differs; `unknown` elsewhere.

    An image has no repository: there ALEXNET_COMMIT says it.
    """
    if commit := os.environ.get("ALEXNET_COMMIT"):
        return commit
    folder = Path(__file__).resolve().parent
    try:
        words = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
        command = ["git", "-C", str(folder), *words]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def _grid(config: RunConfig, data: Splits) -> Any:
    """Some training pictures of every class as the recipe changes them, seeded."""
    part = stratified_part(data.train, GRID_PICTURES, config.split_seed)
    images = torch.from_numpy(part.images)
    mirrored = mirrors(len(images), config.seed, images.device)
    generator = torch.Generator().manual_seed(config.seed)
    augmented = RECIPES[config.recipe].augment(images, generator, mirrored)
    return plots.augmentation(images, augmented, f"{data.title}: recipe {config.recipe}")
