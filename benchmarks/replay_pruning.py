"""What a rule of pruning saves and what it loses, replayed on recorded exhaustive searches.

    python benchmarks/replay_pruning.py
    python benchmarks/replay_pruning.py --export sqlite:///mlflow.db RUN 0.5 FILE

The second form makes a record: STORE, the search's RUN, the CHANCE of the validation split (share
of its most frequent class), FILE. A record holds every trial's validation curve; the first form
replays the rules on all of them, coarse and fine trials apart, as the search does. A rule sees the
set of a phase's trials, not their order: the first figure of a cell is the recorded search's own.
For a mean, searches are drawn from it: each has SHARE of the recorded coarse and fine trials, and
is held against its own exhaustive self. The fine trials are the recorded ones; what pruning does to
narrowing is seen in the last figure alone.

spent: epochs / epochs of the exhaustive search, those of diverged trials included (most end in
their first epoch, whatever the rule). regret: exhaustive best - best found, cut trials' epochs
included, in points of validation accuracy. inside: the share of the drawn searches in which the
fine range narrowed from the coarse trials, cut ones among them, holds the learning rate of the
exhaustive best of all recorded trials.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.config import PRUNERS
from alexnet_mlflow.prune import ETA, Curve, Standing, lowest_loss, rounds, rungs
from alexnet_mlflow.space import Outcome, Point, Range, Space, narrow

RECORDS = Path(__file__).resolve().parent / "records"
SHARE = 0.75
PHASES = ("coarse", "fine")


@dataclass(frozen=True)
class Rule:
    """Where trials wait for one another, how many go on, and who."""

    waits: tuple[int, ...]
    eta: int = ETA
    standing: Standing = lowest_loss


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
        if self.outcome == "diverged" and epochs > len(self.curve):
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
    name = path.stem.partition("curves-")[2]
    space = Space(Range(*record["lr"]), Range(*record["weight_decay"]))
    return Search(name, record["status"], record["epochs"], record["chance"], space, trials)


def of_phase(search: Search, phase: str) -> list[Trial]:
    return [trial for trial in search.trials if trial.phase == phase]


@dataclass(frozen=True)
class Replay:
    """What came of a search with a rule."""

    spent: float  # of the exhaustive epochs
    regret: float  # points of validation accuracy
    space: Space  # the fine range; the coarse one where no trial learnt


def epochs_of(trials: Sequence[Trial], rule: Rule, epochs: int) -> list[int]:
    """The epochs that each trial of a phase gets: round after round, until none goes on."""
    names = [str(place) for place in range(len(trials))]
    had = dict.fromkeys(names, 0)
    while True:
        lost = {name for name, trial in zip(names, trials, strict=True)
                if trial.outcome == "diverged" and had[name] > len(trial.curve)}
        seen: dict[str, Curve] = {
            name: trial.curve[: had[name]] for name, trial in zip(names, trials, strict=True)
        }
        goals = rounds(seen, lost, rule.waits, epochs, rule.eta, rule.standing).goals
        if goals == had:
            break
        had = goals
    return [min(trial.epochs, had[name]) for name, trial in zip(names, trials, strict=True)]


def replay(search: Search, rule: Rule) -> Replay:
    """The search as it would have gone with this rule."""
    spent, outcomes = 0, dict[str, list[Outcome]]()
    for phase in PHASES:
        trials = of_phase(search, phase)
        done = epochs_of(trials, rule, search.epochs)
        spent += sum(done)
        outcomes[phase] = [
            trial.after(epochs) for trial, epochs in zip(trials, done, strict=True)
        ]
    best = max(item.val_accuracy or 0.0 for tried in outcomes.values() for item in tried)
    narrowed = narrow(search.space, outcomes["coarse"], search.chance)
    space = narrowed.space if narrowed else search.space
    return Replay(spent / search.spent, 100 * (search.best - best), space)


def drawn(search: Search, seed: int) -> Search:
    """A search with SHARE of the trials of each phase, one sound one at least."""
    rng = np.random.default_rng(seed)
    while True:
        kept = [
            trials[place]
            for trials in (of_phase(search, phase) for phase in PHASES)
            for place in rng.permutation(len(trials))[: round(SHARE * len(trials))]
        ]
        if sound(kept):
            return dataclasses.replace(search, trials=tuple(kept))


def rules() -> Iterator[tuple[str, Rule]]:
    """The house's rules, then what was tried beside them; all for searches of ten epochs."""
    for name in PRUNERS:
        yield name, Rule(rungs(name, 10))
    for standing in (lowest_loss, highest_accuracy):
        by = standing.__name__.replace("_", " ")
        for waits in (rungs("halving", 10), (1, 3, 9), (1, 4), (2, 6)):
            for eta in (2, 3, 4, 5):
                at = ", ".join(map(str, waits))
                yield f"best 1/{eta} at {at}, {by}", Rule(waits, eta, standing)


def highest_accuracy(curve: Curve) -> tuple[float, ...]:
    """The accuracy of the best epoch; among equals the loss decides."""
    return max((accuracy, -loss) for accuracy, loss in curve)


def summary(search: Search, rule: Rule, searches: int) -> dict[str, float]:
    """The recorded search's own figures, and means over searches drawn from it."""
    own = replay(search, rule)
    every = [replay(drawn(search, seed), rule) for seed in range(searches)]
    best = search.winner.point.lr
    return {
        "spent": own.spent,
        "regret": own.regret,
        "mean_spent": statistics.mean(one.spent for one in every),
        "mean_regret": statistics.mean(one.regret for one in every),
        "inside": statistics.mean(one.space.lr.low <= best <= one.space.lr.high for one in every),
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
        if child.data.tags["phase"] not in PHASES:
            continue  # the winner once more
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
@click.option("--searches", default=200, help="How many to draw from each record.")
@click.option("--export", "exported", type=(str, str, float, Path), default=None,
              help="STORE RUN CHANCE FILE: make a record instead.")
def main(searches: int, exported: tuple[str, str, float, Path] | None) -> None:
    """Replay every rule on every record; a table."""
    if exported is not None:
        export(*exported)
        return
    records = [read(path) for path in sorted(RECORDS.glob("*curves*.json"))]
    for search in records:
        lost = len(search.trials) - len(sound(search.trials))
        click.echo(f"{search.name}: {len(search.trials)} trials, {lost} diverged, {search.spent} "
                   f"epochs, best {search.best:.1%}, {search.status}")
    click.echo("| rule | " + " | ".join(search.name for search in records) + " |")
    click.echo("|---|" + "---|" * len(records))
    for name, rule in rules():
        cells = [summary(search, rule, searches) for search in records]
        texts = [
            f"{cell['spent']:.0%}, {cell['regret']:.2f}; {cell['mean_spent']:.0%}, "
            f"{cell['mean_regret']:.2f}, {cell['inside']:.0%}" for cell in cells
        ]
        click.echo(f"| {name} | " + " | ".join(texts) + " |")


if __name__ == "__main__":
    main()
