"""What a rule of pruning saves and what it loses, replayed on recorded exhaustive searches.

    python benchmarks/replay_pruning.py
    python benchmarks/replay_pruning.py --export sqlite:///mlflow.db RUN 0.5 FILE

The second form makes a record: STORE, the search's RUN, the CHANCE of the validation split (share
of its most frequent class), FILE. A record holds every trial's validation curve; the first form
replays the rules on all of them. A trial that is cut keeps its curve so far; the next ones are
judged by it. Coarse and fine trials stay apart, in many random orders each; the fine trials are the
recorded ones. What pruning does to narrowing is seen in the last figure alone.

spent: epochs / epochs of the exhaustive search, each diverged trial's included (they end in their
first epoch, whatever the rule). regret: exhaustive best - best found, cut trials' epochs included,
in points of validation accuracy. inside: the share of the orders in which the fine range narrowed
from the coarse trials, cut ones among them, holds the learning rate of the exhaustive best.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.prune import (
    RULES,
    Curve,
    Standing,
    highest_accuracy,
    hopeless,
    lowest_loss,
    outranked,
    rungs,
)
from alexnet_mlflow.space import Outcome, Point, Range, Space, narrow

RECORDS = Path(__file__).resolve().parent / "records"
Rule = Callable[[Curve, Sequence[Curve], int, float], bool]


@dataclass(frozen=True)
class Trial:
    """A recorded trial: its curve is whole, and empty where it diverged in its first epoch."""

    phase: str
    outcome: str
    point: Point
    epochs: int
    curve: tuple[tuple[float, float], ...]

    def after(self, epochs: int) -> Outcome:
        """What narrowing would see of it after so many epochs."""
        if self.outcome == "diverged":
            return Outcome(self.point, None)
        best = max(accuracy for accuracy, _ in self.curve[:epochs])
        return Outcome(self.point, best, cut=epochs < self.epochs)


@dataclass(frozen=True)
class Search:
    """An exhaustive search: `epochs` is what a full trial takes."""

    name: str
    status: str  # RUNNING: the record was made before the search was done
    epochs: int
    chance: float
    space: Space
    trials: tuple[Trial, ...]

    @property
    def spent(self) -> int:
        return sum(trial.epochs for trial in self.trials)

    @property
    def winner(self) -> Trial:
        return max(sound(self.trials), key=lambda trial: max(trial.curve))

    @property
    def best(self) -> float:
        return max(self.winner.curve)[0]


def sound(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.outcome != "diverged"]


def read(path: Path) -> Search:
    record = json.loads(path.read_text())
    trials = tuple(
        Trial(row["phase"], row["outcome"], Point(row["lr"], row["weight_decay"]), row["epochs"],
              tuple((accuracy, loss) for accuracy, loss in row["curve"]))
        for row in record["trials"]
    )
    name = f"{record['dataset']} {record['optimizer']}"
    space = Space(Range(*record["lr"]), Range(*record["weight_decay"]))
    return Search(name, record["status"], record["epochs"], record["chance"], space, trials)


@dataclass(frozen=True)
class Replay:
    """What came of one order of the trials."""

    spent: float  # of the exhaustive epochs
    regret: float  # points of validation accuracy
    inside: bool  # the fine range would hold the exhaustive best


def replay(search: Search, rule: Rule, seed: int) -> Replay:
    """The search in a random order, each trial judged after each epoch."""
    rng = np.random.default_rng(seed)
    seen: list[Curve] = []
    outcomes: dict[str, list[Outcome]] = {"coarse": [], "fine": []}
    spent = 0
    for phase, tried in outcomes.items():
        trials = [trial for trial in search.trials if trial.phase == phase]
        for place in rng.permutation(len(trials)):
            trial = trials[place]
            done = trial.epochs
            if trial.outcome != "diverged":
                done = next((end for end in range(1, done) if rule(
                    trial.curve[:end], seen, search.epochs, search.chance)), done)
                seen.append(trial.curve[:done])
            spent += done
            tried.append(trial.after(done))
    best = max(item.val_accuracy or 0.0 for tried in outcomes.values() for item in tried)
    narrowed = narrow(search.space, outcomes["coarse"], search.chance)
    lr = narrowed.space.lr if narrowed else search.space.lr
    inside = lr.low <= search.winner.point.lr <= lr.high
    return Replay(spent / search.spent, 100 * (search.best - best), inside)


def halving(
    eta: int, first: int, standing: Standing,
    curve: Curve, others: Sequence[Curve], epochs: int, chance: float,
) -> bool:
    """Successive halving with its settings free."""
    del chance
    return len(curve) in rungs(epochs, eta, first) and outranked(curve, others, eta, standing)


def rules() -> Iterator[tuple[str, Rule]]:
    """The house's rules, then what was tried beside them."""
    for name in RULES:
        yield name, partial(hopeless, name)
    for standing in (lowest_loss, highest_accuracy):
        by = standing.__name__.replace("_", " ")
        for eta in (2, 3, 4):
            for first in (1, 2, 3):
                yield f"eta {eta}, from epoch {first}, {by}", partial(halving, eta, first, standing)


def summary(search: Search, rule: Rule, orders: int) -> dict[str, float]:
    """Means over the orders."""
    every = [replay(search, rule, seed) for seed in range(orders)]
    return {
        "spent": statistics.mean(one.spent for one in every),
        "regret": statistics.mean(one.regret for one in every),
        "inside": statistics.mean(one.inside for one in every),
    }


def export(store: str, run: str, chance: float, out: Path) -> None:
    """A search's curves, from an MLflow store, as a compact record."""
    import mlflow

    client = mlflow.MlflowClient(store)
    parent = client.get_run(run)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run}'",
        order_by=["attributes.start_time"], max_results=1000,
    )
    trials = []
    for child in children:
        if child.data.tags.get("outcome") not in ("completed", "diverged"):
            continue  # cut off by a signal
        accuracies, losses = (
            {point.step: point.value for point in client.get_metric_history(child.info.run_id, key)}
            for key in ("val_accuracy", "val_loss")
        )
        steps = sorted(accuracies.keys() & losses.keys())
        trials.append({
            "phase": child.data.tags["phase"], "outcome": child.data.tags["outcome"],
            "lr": float(child.data.params["lr"]),
            "weight_decay": float(child.data.params["weight_decay"]),
            "epochs": int(child.data.metrics.get("diverged_at_epoch", len(steps))),
            "curve": [[round(accuracies[at], 6), float(f"{losses[at]:.6g}")] for at in steps],
        })
    tags, params = parent.data.tags, parent.data.params
    head = {
        **{name: tags[name] for name in ("dataset", "optimizer", "seed", "data_digest")},
        "status": parent.info.status, "git_commit": tags["git_commit"],
        "limit": int(params["limit"]),
        "epochs": int(params["epochs"]), "chance": chance,
        "lr": [float(params["lr_low"]), float(params["lr_high"])],
        "weight_decay": [float(params["weight_decay_low"]), float(params["weight_decay_high"])],
    }
    rows = ",\n".join(json.dumps(trial) for trial in trials)
    out.write_text(f'{json.dumps(head)[:-1]}, "trials": [\n{rows}\n]}}\n')


@click.command()
@click.option("--orders", default=200, help="Random orders of the trials.")
@click.option("--export", "exported", type=(str, str, float, Path), default=None,
              help="STORE RUN CHANCE FILE: make a record instead.")
def main(orders: int, exported: tuple[str, str, float, Path] | None) -> None:
    """Replay every rule on every record; a table."""
    if exported is not None:
        export(*exported)
        return
    searches = [read(path) for path in sorted(RECORDS.glob("*curves*.json"))]
    for search in searches:
        lost = len(search.trials) - len(sound(search.trials))
        click.echo(f"{search.name}: {len(search.trials)} trials, {lost} diverged, {search.spent} "
                   f"epochs, best {search.best:.1%}, {search.status}")
    click.echo("| rule | " + " | ".join(search.name for search in searches) + " |")
    click.echo("|---|" + "---|" * len(searches))
    for name, rule in rules():
        cells = [summary(search, rule, orders) for search in searches]
        texts = [
            f"{cell['spent']:.0%}, {cell['regret']:.2f}, {cell['inside']:.0%}" for cell in cells
        ]
        click.echo(f"| {name} | " + " | ".join(texts) + " |")


if __name__ == "__main__":
    main()
