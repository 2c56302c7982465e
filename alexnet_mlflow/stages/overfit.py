"""Can the network learn a small part by heart? If not, nothing later means anything.

10 % of the training pictures (128 for FDDB), no augmentation, no dropout, no weight decay, until
an epoch gets every picture right. Validation is the ordinary one; with the training pictures left
out it shows what learning by heart is worth. Shuffled labels are learnt as well, and worth nothing.
"""

from __future__ import annotations

import dataclasses

from alexnet_mlflow import checks, plots, probes
from alexnet_mlflow.config import OverfitConfig, resolve
from alexnet_mlflow.data import load, stratified_part
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.model import build
from alexnet_mlflow.progress import shown
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.stages import StageResult, judged, opened, train_config
from alexnet_mlflow.track import logged
from alexnet_mlflow.train import EpochResult, fit

SHARE = 10  # a tenth of the training pictures, where the preset names no number


def run(config: OverfitConfig, tracker: Tracker) -> StageResult:
    """Train on the part until 100 % or out of epochs; the verdict says which."""
    config, device = resolve(config), pick_device(config.device, config.deterministic)
    data = load(config)
    wanted = config.pictures or max(len(data.train) // SHARE, config.batch_size or 1)
    part = stratified_part(data.train, wanted, config.split_seed)
    config = dataclasses.replace(config, pictures=len(part))
    with opened(config, tracker, data) as here:
        here.params({"weight_decay": 0.0, "dropout": 0.0, "augmentation": "none"})
        net = build(len(data.classes), config.seed, dropout=0.0)
        settings = train_config(config, weight_decay=0.0, recipe="plain")
        results = fit(net, dataclasses.replace(data, train=part), settings, device)
        history: list[EpochResult] = []
        for result in logged(here, shown(results, settings.epochs, f"overfit {len(part)}")):
            history.append(result)
            if result.train_accuracy >= checks.OVERFIT_ACCURACY:
                break
        last = history[-1]
        found = [
            checks.overfits(last.train_accuracy, last.epoch, len(part), last.diverged),
            probes.held_out(net, data, part, device, config.split_seed),
        ]
        verdict = judged(here, found, last)
        title = f"overfit {len(part)} pictures of {data.title}, {config.optimizer}"
        here.figure(plots.curves(history, title, len(data.classes)), "plots/curves.png")
        figures = {
            "epochs": last.epoch, "pictures": len(part), "train_accuracy": last.train_accuracy,
        }
        sentences = tuple(check.sentence for check in found)
        return StageResult("overfit", here.run_id, verdict, sentences, figures)
