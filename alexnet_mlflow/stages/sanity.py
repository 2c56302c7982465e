"""Is all as it must be before anything is tuned: the pictures, the network, the step, the rates?

The report's steps 1, 3 and 4, and what it looked at with no number: the loss before training and
after one epoch against ln C; a rate too low leaves the loss where it is; one too high makes it
explode; and the probes of network, gradient and input. The data set itself is looked at, as by
`data check`. Probes use samples; of a large set the one epoch sees a stratified part.
"""

from __future__ import annotations

import dataclasses
import math

from alexnet_mlflow import checks, probes
from alexnet_mlflow.config import SanityConfig, resolve
from alexnet_mlflow.data import Splits, inspect, load, stratified_part
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.model import build
from alexnet_mlflow.progress import say, shown
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.stages import (
    DataReport,
    StageResult,
    data_report,
    judged,
    layer_lines,
    opened,
    train_config,
)
from alexnet_mlflow.track import logged
from alexnet_mlflow.train import fit

# Of CIFAR-10's 45,000 pictures these take half a minute on two cores, all of them four (computed).
EPOCH_PICTURES, VAL_PICTURES = 5000, 1000


def run(config: SanityConfig, tracker: Tracker) -> StageResult:
    """Measure, judge, log. The verdict is `fail` if any check fails."""
    config, device = resolve(config), pick_device(config.device, config.deterministic)
    data = load(config)
    classes = len(data.classes)
    with opened(config, tracker, data) as here:
        report = _data_checked(config, here)
        say("Network, step, input and rates are looked at.")
        found = [*report.checks, *probes.network(config, data, device)]
        net = build(classes, config.seed)
        here.text(layer_lines(net), "layers.txt")
        part = _part(config, data)
        here.params({"epochs": 1, "weight_decay": 0.0, "pictures": len(part.train)})
        one = train_config(config, epochs=1, weight_decay=0.0)
        [epoch] = logged(here, shown(fit(net, part, one, device), 1, f"sanity lr {config.lr:g}"))
        found.append(checks.first_epoch_loss(epoch.train_loss, classes))
        verdict = judged(here, found, epoch)
        first = next(check.measured for check in found if check.name == "first_loss")
        first = math.nan if first is None else first
        expected = math.log(classes)
        here.metrics({"first_loss": first, "expected_loss": expected})
        figures = {
            "first_loss": first,
            "expected_loss": expected,
            "train_loss": epoch.train_loss,
            "val_accuracy": epoch.val_accuracy,
            **report.figures,
        }
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        return StageResult(
            "sanity", here.run_id, verdict, tuple(check.sentence for check in found), figures
        )


def _part(config: SanityConfig, data: Splits) -> Splits:
    """What the one epoch sees."""
    return dataclasses.replace(
        data,
        train=stratified_part(data.train, EPOCH_PICTURES, config.split_seed),
        val=stratified_part(data.val, VAL_PICTURES, config.split_seed),
    )


def _data_checked(config: SanityConfig, here: Tracker) -> DataReport:
    """What `alexnet-mlflow data check` says, logged with the run."""
    report = data_report(inspect(config))
    here.json(report.report, "data_check.json")
    here.metrics(report.figures)
    for name, figure in report.plots.items():
        here.figure(figure, f"plots/{name}")
    return report
