"""Is the first loss reasonable, and does the learning rate do what a learning rate must?

The report's steps 1, 3 and 4: the loss before training and after one epoch against ln C; a rate
too low leaves the loss where it is; one too high makes it explode. The probes use a stratified
sample of the training pictures, so that the stage costs little more than its one epoch. Before
them, the data set itself is looked at, as by `data check`.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from alexnet_mlflow import checks
from alexnet_mlflow.config import SanityConfig, resolve
from alexnet_mlflow.data import Splits, inspect, load, stratified_part
from alexnet_mlflow.model import build
from alexnet_mlflow.progress import shown
from alexnet_mlflow.score import score
from alexnet_mlflow.stages import (
    DataReport,
    StageResult,
    data_report,
    judged,
    layer_lines,
    opened,
    train_config,
)
from alexnet_mlflow.track import Tracker, logged
from alexnet_mlflow.train import fit, pick_device, resident

PROBE_PICTURES = 2000
HIGH_PROBE_EPOCHS = 2


def run(config: SanityConfig, tracker: Tracker) -> StageResult:
    """Measure, judge, log. The verdict is `fail` if any check fails."""
    config, device = resolve(config), pick_device(config.device)
    data = load(config)
    classes = len(data.classes)
    with opened(config, tracker, data) as here:
        net = build(classes, config.seed)
        here.text(layer_lines(net), "layers.txt")
        sample = dataclasses.replace(
            data, train=stratified_part(data.train, PROBE_PICTURES, config.split_seed)
        )
        first = score(net.to(device), *resident(sample.train, device)).loss
        one = train_config(config, epochs=1, weight_decay=0.0)
        [epoch] = logged(here, shown(fit(net, data, one, device), 1, f"sanity lr {config.lr:g}"))
        still = _loss_after(config, sample, config.low_lr, device, epochs=1)
        exploded = _loss_after(config, sample, config.high_lr, device, HIGH_PROBE_EPOCHS)
        here.params({"epochs": 1, "weight_decay": 0.0})
        report = _data_checked(config, here)
        found = [
            *report.checks,
            checks.first_loss(first, classes),
            checks.first_epoch_loss(epoch.train_loss, classes),
            checks.lr_too_low(first, still, config.low_lr, classes),
            checks.lr_too_high(exploded, config.high_lr, classes),
        ]
        verdict = judged(here, found, epoch)
        figures = {
            "first_loss": first,
            "expected_loss": math.log(classes),
            "train_loss": epoch.train_loss,
            "val_accuracy": epoch.val_accuracy,
        }
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        here.metrics({"first_loss": first, "expected_loss": math.log(classes)})
        figures |= report.figures
        return StageResult(
            "sanity", here.run_id, verdict, tuple(check.sentence for check in found), figures
        )


def _data_checked(config: SanityConfig, here: Tracker) -> DataReport:
    """What `alexnet-mlflow data check` says, logged with the run."""
    report = data_report(inspect(config))
    here.json(report.report, "data_check.json")
    here.metrics(report.figures)
    for name, figure in report.plots.items():
        here.figure(figure, f"plots/{name}")
    return report


def _loss_after(
    config: SanityConfig, data: Splits, lr: float, device: torch.device, epochs: int
) -> float:
    """The loss on the sample, in evaluation mode, after training on it at this rate."""
    net = build(len(data.classes), config.seed)
    settings = train_config(config, lr=lr, weight_decay=0.0, epochs=epochs, recipe="plain")
    for result in shown(fit(net, data, settings, device), epochs, f"probe lr {lr:g}"):
        if result.diverged:
            return math.nan
    return score(net, *resident(data.train, device)).loss
