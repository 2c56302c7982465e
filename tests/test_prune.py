"""Rules of pruning: what they read, what they never do, and what they save on recorded searches."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import PRUNERS, SearchConfig
from alexnet_mlflow.prune import GROWTH, epochs_at_most, rounds, rungs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from replay_pruning import RECORDS, Rule, Search, drawn, read, replay, summary

EPOCHS = 10
Curve = list[tuple[float, float]]


def curve(*losses: float, accuracy: float = 0.1) -> Curve:
    return [(accuracy, loss) for loss in losses]


@pytest.mark.parametrize(
    ("rule", "epochs", "expected"),
    [("halving", 10, (1, 2, 4, 8)), ("halving", 8, (1, 2, 4)), ("halving", 1, ()),
     ("halving", 2, (1,)), ("epoch", 10, (1,)), ("epoch", 1, ()), ("off", 10, ())],
)
def test_rungs(rule: str, epochs: int, expected: tuple[int, ...]) -> None:
    assert rungs(rule, epochs) == expected


@pytest.mark.parametrize("rule", PRUNERS)
@pytest.mark.parametrize("trials", [1, 2, 3, 10, 20])
def test_a_phase_ends_with_one_trial_at_least_that_took_all_epochs(rule: str, trials: int) -> None:
    """Random losses, random trials that diverge, random ones that are first at a rung."""
    rng = np.random.default_rng(trials)
    waits = rungs(rule, EPOCHS)
    for _ in range(50):
        whole = {str(n): curve(*rng.uniform(0, 2, EPOCHS)) for n in range(trials)}
        bad = {name: int(rng.integers(0, EPOCHS)) for name in whole if rng.random() < 0.3}
        had = dict.fromkeys(whole, 0)
        diverged, decided = set[str](), dict[str, int]()
        while True:
            goals = rounds(
                {name: whole[name][: had[name]] for name in whole}, diverged, waits, EPOCHS
            ).goals
            assert all(goals[name] >= goal for name, goal in decided.items()), "took a goal back"
            decided = goals
            behind = [n for n in whole if n not in diverged and had[n] < goals[n]]
            if not behind:
                break
            name = behind[rng.integers(len(behind))]  # whoever's worker is faster
            had[name] += 1
            if had[name] > bad.get(name, EPOCHS):
                had[name] = bad[name]
                diverged.add(name)
        alive = [name for name in whole if name not in diverged]
        assert not alive or waits == () or max(had[n] for n in alive) >= waits[0]
        assert sum(had.values()) <= epochs_at_most(trials, waits, EPOCHS)
        if not bad:
            assert sum(had.values()) == epochs_at_most(trials, waits, EPOCHS)
            assert max(had.values()) == EPOCHS


def test_who_is_first_does_not_matter() -> None:
    """Some are at the second rung while others are still on their way: the goals stay."""
    rng = np.random.default_rng(0)
    waits = rungs("halving", EPOCHS)
    whole = {str(n): curve(*rng.uniform(0, 2, EPOCHS)) for n in range(12)}
    goals = rounds({name: one[:1] for name, one in whole.items()}, (), waits, EPOCHS).goals
    chosen = [name for name, goal in goals.items() if goal == GROWTH]
    assert len(chosen) == 4
    for name in chosen:
        begun = {other: one[: 2 if other == name else 1] for other, one in whole.items()}
        assert rounds(begun, (), waits, EPOCHS).goals == goals


def test_nobody_goes_on_before_all_are_there() -> None:
    seen = {"a": curve(0.1), "b": curve(0.2), "c": []}
    found = rounds(seen, (), (1, 3), EPOCHS)
    assert found.goals == {"a": 1, "b": 1, "c": 1}
    assert found.hopeful == ["a"], "b is outranked whatever c does"
    assert rounds(seen, {"c"}, (1, 3), EPOCHS).goals == {"a": 3, "b": 1, "c": 1}
    seen["c"] = curve(0.05)
    found = rounds(seen, (), (1, 3), EPOCHS)
    assert found.goals == {"a": 1, "b": 1, "c": 3} and found.hopeful == ["c"]


def test_who_may_still_go_on_is_hopeful() -> None:
    """Of nine three may: none of the first three is hopeless, the fourth is outranked or one is."""
    seen: dict[str, Curve] = {str(n): [] for n in range(9)}
    for place, loss in enumerate((0.5, 0.4, 0.3, 0.2)):
        seen[str(place)] = curve(loss)
        hopeful = rounds(seen, (), (1, 3), EPOCHS).hopeful
        assert hopeful == [str(n) for n in range(place, -1, -1)][:3]


def test_the_lowest_loss_so_far_decides_not_the_accuracy() -> None:
    """SGD on FDDB after one epoch: 50 % everywhere, and only a loss of .689 is about to learn.

    Adam at lr 11.7: 76.5 % after one epoch, and a loss of 2e25.
    """
    seen = {
        "exploded": curve(2e25, accuracy=0.765), "still": curve(0.69314, accuracy=0.5),
        "moves": curve(0.6890, accuracy=0.5),
    }
    assert rounds(seen, (), (1,), EPOCHS).hopeful == ["moves"]


def test_of_equals_the_first_goes_on() -> None:
    seen = {"b": curve(0.5), "a": curve(0.5), "c": curve(0.5)}
    assert rounds(seen, (), (1,), EPOCHS).hopeful == ["b"]


def test_what_diverged_after_a_rung_still_counts_at_it() -> None:
    """Else another would take its place when it is gone."""
    seen = {"a": curve(0.1, 0.1), "b": curve(0.2), "c": curve(0.3)}
    found = rounds(seen, {"a"}, (1, 3), EPOCHS)
    assert found.goals == {"a": 3, "b": 1, "c": 1}


# Recorded exhaustive searches

SEARCHES = [read(path) for path in sorted(RECORDS.glob("*curves*.json"))]
DEFAULT = Rule(rungs(SearchConfig().prune, 10))
each_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)


def test_searches_are_on_record() -> None:
    assert len(SEARCHES) >= 3


@each_search
def test_a_record_is_exhaustive(search: Search) -> None:
    for trial in search.trials:
        assert trial.outcome in ("completed", "diverged")
        assert len(trial.curve) == search.epochs or trial.outcome == "diverged"
    whole = replay(search, Rule(rungs("off", search.epochs)))
    assert (whole.spent, whole.regret) == (1.0, 0.0)


@each_search
def test_the_default_rule_saves_half_and_narrows_as_well(search: Search) -> None:
    """Figures of 200 drawn searches: docs/experiments.md."""
    found = summary(search, DEFAULT, 50)
    assert max(found["spent"], found["mean_spent"]) <= 0.5
    assert found["inside"] >= 0.95


def test_the_default_rule_spends_three_tenths_of_the_epochs_and_loses_half_a_point() -> None:
    """In the mean over the searches of 18 trials and more: those that were made for this."""
    large = [search for search in SEARCHES if len(search.trials) >= 18]
    assert len(large) >= 3
    for found in ([replay(search, DEFAULT) for search in large],
                  [replay(drawn(search, seed), DEFAULT) for search in large for seed in range(50)]):
        assert statistics.mean(one.spent for one in found) <= 0.3
        assert statistics.mean(one.regret for one in found) <= 0.5


@each_search
def test_halving_spends_no_more_than_one_look(search: Search) -> None:
    spent = {rule: replay(search, Rule(rungs(rule, search.epochs))).spent for rule in PRUNERS}
    assert spent["halving"] <= spent["epoch"] < spent["off"] == 1.0
