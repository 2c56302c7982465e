"""What stands before a search: passing checks, and what it will cost.

Where a passing sanity and overfit of the same pictures, optimizer and recipe are on record, they
count; else the quick checks are run here, so that a search works on an empty store.
"""

from __future__ import annotations

import dataclasses

import torch

from alexnet_mlflow import checks, probes
from alexnet_mlflow.checks import Check
from alexnet_mlflow.config import SearchConfig, TrainConfig
from alexnet_mlflow.data import Splits, stratified_part
from alexnet_mlflow.model import build
from alexnet_mlflow.progress import say
from alexnet_mlflow.prune import epochs_at_most, rungs
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.train import fit

STEPS = 6  # of each of two epochs that are timed: more than CUDA's warm-up
WAY_OUT = "The search was not started: mend that, or give --force to go on all the same."


def passed(
    config: SearchConfig, data: Splits, device: torch.device, here: Tracker
) -> list[Check]:
    """The checks that were run for this search; empty where sanity and overfit are on record."""
    same = {
        "dataset": data.name, "optimizer": config.optimizer, "recipe": config.recipe,
        "data_digest": data.digest,
    }
    known = {stage: here.newest(stage=stage, **same) for stage in ("sanity", "overfit")}
    good = {stage: run for stage, run in known.items()
            if run and run.tags.get("verdict") in ("pass", "warn")}
    if len(good) == len(known):
        runs = {f"gate_{stage}": run.run_id for stage, run in good.items()}
        here.tags({"gate": "recorded", **runs})
        return []
    missing = " and ".join(stage for stage in known if stage not in good)
    say(f"No passing {missing} of these pictures is on record: the quick checks come first.")
    found = probes.quick(config, data, device)
    here.tags({"gate": "quick"})
    if checks.overall(found) == "fail":
        if config.force:
            here.tags({"forced": "true"})
        for check in found:
            if check.verdict == "fail":
                say(check.sentence)
    return found


def forecast(config: SearchConfig, data: Splits, device: torch.device, here: Tracker) -> str:
    """How long the search may take, from some steps that are timed, and how to make it shorter."""
    assert config.epochs is not None and config.batch_size is not None
    seconds = step_seconds(config, data, device) * (
        len(data.train) / config.batch_size + len(data.val) / config.batch_size / 3
    )
    trials = config.trials + config.fine_trials + config.repeats
    waits = rungs(config.prune, config.epochs)
    phases = (epochs_at_most(size, waits, config.epochs)
              for size in (config.trials, config.fine_trials))
    epochs = sum(phases) + config.repeats * config.epochs
    most = epochs * seconds
    shared = config.workers if device.type == "cuda" else 1  # a CPU's cores are shared anyway
    here.metrics({"forecast_seconds_at_most": most / shared})
    return (
        f"{trials} trials of up to {config.epochs} epochs, {epochs} in all at most, about "
        f"{shortly(seconds)} an epoch: at most {shortly(most / shared)}, less where trials "
        "diverge. Shorter with --limit, fewer --trials, or a GPU."
    )


def step_seconds(config: SearchConfig, data: Splits, device: torch.device) -> float:
    """Seconds of one training step of this size on this device, as `fit` trains."""
    size = config.batch_size or 1
    settings = TrainConfig(
        optimizer=config.optimizer, lr=1e-4, weight_decay=0.0, momentum=config.momentum,
        batch_size=size, epochs=2, recipe=config.recipe, seed=config.seed,
        precision=config.precision, deterministic=config.deterministic,
    )
    part = stratified_part(data.train, size * STEPS, config.split_seed)
    few = dataclasses.replace(data, train=part, val=stratified_part(data.val, size, 0))
    *_, last = fit(build(len(data.classes), config.seed), few, settings, device)
    return size / last.images_per_second  # of the second epoch: the first one warms up


def shortly(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
