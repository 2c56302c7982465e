"""What recipe `strong` gains over `report`: the same network, pictures, epochs, batches and seeds.

    python benchmarks/bench_recipe.py                        # 10,000 pictures of CIFAR-10, 8 epochs
    python benchmarks/bench_recipe.py --dataset=fddb --limit=0 --epochs=15 --report-lr=0.022
    python benchmarks/bench_recipe.py --without=averaging --without=smoothing

Trains the two, and `strong` without each part that is named, in turn, a seed at a time, on a
stratified part; prints a table and one JSON line. Scored on validation pictures alone: the test
split stays sealed. Told are the best epoch (what a final training would keep) and the last one.
Each recipe has its own rates: `report` the report's, `strong` those that were chosen by hand with
other seeds (docs/experiments.md), and keeps them without one of its parts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from alexnet_mlflow.config import OPTIMIZERS, DataConfig, TrainConfig
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.model import build
from alexnet_mlflow.recipe import RECIPES, constant
from alexnet_mlflow.train import better, fit
from benchmarks.record import spread, told

PARTS: dict[str, dict[str, Any]] = {  # of `strong`, and what stands instead of them
    "averaging": {"average": 0.0},
    "decoupling": {"decoupled": False},  # of Adam's decay: the same number, as L2
    "nesterov": {"nesterov": False},
    "one-cycle": {"lr_at": constant},
    "smoothing": {"smoothing": 0.0},
}
OF_ONE = {"decoupling": "adam", "nesterov": "sgd"}


def trained(data: Splits, config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """One training: its best and last epoch and its seconds."""
    net, best, seconds, diverged = build(len(data.classes), config.seed), None, 0.0, None
    for result in fit(net, data, config, device):
        best = result.bare() if better(result, best) else best
        seconds += result.epoch_seconds
        diverged = result.diverged_at_step
        click.echo(
            f"  {config.recipe:<25} seed {config.seed} epoch {result.epoch:>2}  "
            f"train {result.train_loss:.3f} {result.train_accuracy:.2%}  "
            f"val {result.val_loss:.3f} {result.val_accuracy:.2%}  "
            f"lr {result.learning_rate:.3g}", err=True,
        )
    return {
        "best_val_accuracy": best.val_accuracy if best else None,
        "best_val_loss": best.val_loss if best else None,
        "best_epoch": best.epoch if best else None,
        "last_val_accuracy": result.val_accuracy, "seconds": round(seconds, 1),
        "diverged_at_step": diverged,
    }


@click.command()
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", default="", help="Else ALEXNET_DATA, else ./data.")
@click.option("--limit", default=12_500, show_default=True, help="A stratified part; 0 = all.")
@click.option("--val-fraction", default=0.2, show_default=True, help="Of these, for validation.")
@click.option("--epochs", default=8, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--first-seed", default=1, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True)
@click.option("--report-lr", default=0.01, show_default=True)
@click.option("--report-weight-decay", default=1.1e-4, show_default=True)
@click.option("--strong-lr", default=0.05, show_default=True)
@click.option("--strong-weight-decay", default=5e-4, show_default=True)
@click.option("--only", type=click.Choice(("report", "strong")), multiple=True)
@click.option("--without", type=click.Choice(tuple(PARTS)), multiple=True, help="Of strong.")
@click.option("--device", default="cpu", show_default=True)
def main(
    dataset: str, data_dir: str, limit: int, val_fraction: float, epochs: int, seeds: int,
    first_seed: int, batch_size: int, optimizer: str, device: str, only: tuple[str, ...],
    without: tuple[str, ...], **given: float,
) -> None:
    """Measure and print a table and one JSON line."""
    data = load(DataConfig(
        dataset=dataset, data_dir=data_dir, limit=limit, val_fraction=val_fraction
    ))
    place, runs = pick_device(device), list[dict[str, Any]]()
    recipes = only or ("report", "strong")
    rates = {name: (given[f"{name}_lr"], given[f"{name}_weight_decay"]) for name in recipes}
    for part in without:
        if OF_ONE.get(part, optimizer) != optimizer:
            raise click.UsageError(f"{optimizer} has no {part}: leave --without={part} out")
        name = f"strong without {part}"
        RECIPES[name] = replace(RECIPES["strong"], **PARTS[part])
        rates[name] = given["strong_lr"], given["strong_weight_decay"]
    for seed in range(first_seed, first_seed + seeds):
        for recipe, (lr, decay) in rates.items():
            config = TrainConfig(
                optimizer=optimizer, lr=lr, weight_decay=decay, momentum=0.9,
                batch_size=batch_size, epochs=epochs, recipe=recipe, seed=seed,
            )
            runs.append({"recipe": recipe, "seed": seed, **trained(data, config, place)})
    figures = {}
    for recipe, (lr, decay) in rates.items():
        mine = [one for one in runs if one["recipe"] == recipe]
        sound = [one for one in mine if one["best_val_accuracy"] is not None]
        if not sound:
            click.echo(f"{recipe:<25} diverged")
            continue
        figures[recipe] = {
            "lr": lr, "weight_decay": decay,
            "best_val_accuracy": spread([one["best_val_accuracy"] for one in sound], 4),
            "last_val_accuracy": spread([one["last_val_accuracy"] for one in sound], 4),
            "seconds": spread([one["seconds"] for one in mine], 1),
        }
        accuracies = figures[recipe]["best_val_accuracy"]
        click.echo(
            f"{recipe:<25} lr {lr:<7g} wd {decay:<7g} best on validation "
            f"{accuracies['median']:.2%} ({accuracies['low']:.2%} to {accuracies['high']:.2%}), "
            f"{figures[recipe]['seconds']['median']:.0f} s"
        )
    best = {recipe: [one["best_val_accuracy"] or 0.0 for one in runs if one["recipe"] == recipe]
            for recipe in rates}
    ratios = {}
    for other in (name for name in figures if name != "strong" and all(best[name])):
        if "strong" in figures:
            name = f"strong over {other}, best accuracy, {data.name} {optimizer} {epochs} epochs"
            ratios[name] = [b / a for a, b in zip(best[other], best["strong"], strict=True)]
    told(
        ratios=ratios, device=device, dataset=data.title, digest=data.digest,
        train=len(data.train), val=len(data.val), epochs=epochs, batch_size=batch_size,
        optimizer=optimizer, **figures, runs=runs,
    )


if __name__ == "__main__":
    main()
