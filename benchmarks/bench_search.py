"""What a search costs: the default one, the exhaustive one, two workers, and a loop of processes.

    python benchmarks/bench_search.py --rounds 3
    python benchmarks/bench_search.py --rounds 1 --dataset cifar10 --device cuda

A table and one JSON line: wall seconds, epochs spent, and the winner of
(a) default: `search` as it is, worse trials cut,
(b) exhaustive: `search --exhaustive`, one worker with all threads, trial after trial,
(c) workers: the same by a worker a core, side by side, with one thread each; on CUDA a worker a
    GPU,
(d) processes: what one would write: a process a point, the same points, pictures, weights and
    epochs, each epoch logged to MLflow; the fine range narrowed as the search does.
In turn, each in an empty folder with a store of its own, imports and schema included. A search
also checks the pictures first (probes.quick); the loop does not. Another round, another seed. With
the same threads the loop finds the exhaustive search's winner, number for number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.record import shown, spread, told

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("epochs_spent", "best_val_accuracy", "best_lr", "best_weight_decay")
Settings = dict[str, Any]


def run(words: list[str], folder: str) -> dict[str, Any]:
    """The last line of a process in that folder, with the seconds that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("MLFLOW_TRACKING_URI", "ALEXNET_STORAGE"):
        environment.pop(name, None)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, text=True, capture_output=True
    )
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise click.ClickException(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    last: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"wall_seconds": round(time.perf_counter() - started, 2), **last}


def search(settings: Settings, *more: str) -> dict[str, Any]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "alexnet_mlflow", "search", "--repeats=0", *options, *more]
        found = run(words, folder)
    return {name: found.get(name) for name in ("wall_seconds", "verdict", *FIGURES)}


def one(settings: Settings, lr: float, weight_decay: float) -> dict[str, Any]:
    """In a process of its own: train at one point and log it."""
    from alexnet_mlflow.config import SearchConfig, resolve
    from alexnet_mlflow.data import load
    from alexnet_mlflow.device import pick_device
    from alexnet_mlflow.model import build
    from alexnet_mlflow.stages import train_config
    from alexnet_mlflow.track import connect, logged
    from alexnet_mlflow.train import better, fit

    config = resolve(SearchConfig(**settings))
    data, best, last = load(config), None, None
    point = train_config(config, lr=lr, weight_decay=weight_decay)
    with connect().child(f"lr {lr:.3g}", {"stage": "trial"}) as here:
        here.params(vars(point))
        net = build(len(data.classes), config.seed)
        for last in logged(here, fit(net, data, point, pick_device(config.device))):
            best = last if better(last, best) else best
    assert last is not None
    return {
        "epochs": last.epoch, "diverged": last.diverged,
        "accuracy": best and best.val_accuracy, "loss": best and best.val_loss,
        "chance": max(data.counts["val"].values()) / len(data.val),
    }


def processes(settings: Settings) -> dict[str, Any]:
    """A process a point, coarse, then fine in the narrowed range; who is best, and how long."""
    from alexnet_mlflow.config import SearchConfig
    from alexnet_mlflow.space import Outcome, Range, Space, draws, narrow

    config, started = SearchConfig(**settings), time.perf_counter()
    space = Space(
        Range(config.lr_low, config.lr_high),
        Range(config.weight_decay_low, config.weight_decay_high),
    )
    tried, learnt = [], False
    with tempfile.TemporaryDirectory() as folder:
        for size, seed in ((config.trials, config.seed), (config.fine_trials, config.seed + 1)):
            outcomes, chance = [], 0.0
            for point in draws(space, size, seed):
                words = [__file__, f"--one={json.dumps([settings, *asdict(point).values()])}"]
                found = run(words, folder)
                chance = found["chance"]
                value = None if found["diverged"] else found["accuracy"]
                outcomes.append(Outcome(point, value))
                tried.append((point, found, value))
            narrowed = None if learnt else narrow(space, outcomes, chance)
            if narrowed is None:
                break  # these were the fine ones, or no coarse one has learnt: no winner
            space, learnt = narrowed.space, True
    sound = [(value, -found["loss"], point) for point, found, value in tried
             if value is not None and learnt]
    best = max(sound, key=lambda row: row[:2], default=None)
    return {
        "wall_seconds": round(time.perf_counter() - started, 2), "verdict": None,
        "epochs_spent": sum(found["epochs"] for _, found, _ in tried),
        "best_val_accuracy": best and best[0], "best_lr": best and best[2].lr,
        "best_weight_decay": best and best[2].weight_decay,
    }


def workers(settings: Settings) -> dict[str, Any]:
    """A worker a core, or a GPU."""
    many = len(os.sched_getaffinity(0))
    if settings["device"] == "cuda":
        import torch

        many = torch.cuda.device_count()
    return search(settings, "--exhaustive", f"--workers={many}")


def ratios_of(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, list[float]]:
    """What each round says of the default search and of the workers, as far as it was run."""
    ratios = {}
    for one, other, what in (
        ("default", "exhaustive", "wall_seconds"), ("default", "processes", "wall_seconds"),
        ("exhaustive", "processes", "wall_seconds"), ("workers", "exhaustive", "wall_seconds"),
        ("default", "exhaustive", "epochs_spent"),
    ):
        if one in rounds[0] and other in rounds[0]:
            name = f"{one}_over_{other}" + (", epochs" if what == "epochs_spent" else "")
            ratios[name] = [found[other][what] / found[one][what] for found in rounds]
    return ratios


RIVALS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "default": search,
    "exhaustive": lambda settings: search(settings, "--exhaustive"),
    "workers": workers,
    "processes": processes,
}


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--dataset", default="faces", show_default=True)
@click.option("--optimizer", default="adam", show_default=True)
@click.option("--limit", default=0, show_default=True, help="Pictures to train on; 0 = all.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--trials", default=20, show_default=True)
@click.option("--fine-trials", default=10, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--rival", "rivals", multiple=True, type=click.Choice(list(RIVALS)),
              default=list(RIVALS), help="Leave others out.  [default: all]")
@click.option("--one", "point", default="", hidden=True)
def main(rounds: int, rivals: tuple[str, ...], point: str, **settings: Any) -> None:
    """Measure and print a table and one JSON line."""
    if point:
        print(json.dumps(one(*json.loads(point))))
        return
    found = []
    for seed in range(rounds):
        now = {**settings, "seed": seed}
        found.append({name: RIVALS[name](now) for name in rivals})
        for name, row in found[-1].items():
            best, rate = row["best_val_accuracy"] or 0.0, row["best_lr"] or 0.0
            click.echo(f"round {seed + 1}  {name:12} {row['wall_seconds']:8.1f} s "
                       f"{row['epochs_spent']:4} epochs  best {best:.2%} at lr {rate:.4g}")
    ratios = ratios_of(found)
    for name, values in ratios.items():
        click.echo(shown(f"  {name}", spread(values)))
    told(device=settings["device"], ratios=ratios, settings=settings, runs=found)


if __name__ == "__main__":
    main()
