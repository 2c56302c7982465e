"""Rules of pruning: what they read, what they never do, and what they save on recorded searches."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.prune import PATIENCE, RULES, hopeless, rungs, stuck

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from replay_pruning import RECORDS, Search, read, replay, summary

CHANCE, EPOCHS = 0.1, 10
Curve = list[tuple[float, float]]


def curve(*losses: float, accuracy: float = CHANCE) -> Curve:
    return [(accuracy, loss) for loss in losses]


def random_curve(rng: np.random.Generator, epochs: int) -> Curve:
    length = int(rng.integers(1, epochs + 1))
    losses = 2.3 * np.cumprod(rng.uniform(0.6, 1.1, length))
    return [(float(rng.random()), float(loss)) for loss in losses]


@pytest.mark.parametrize(
    ("epochs", "eta", "first", "expected"),
    [(10, 3, 1, (1, 3, 9)), (9, 3, 1, (1, 3)), (5, 2, 1, (1, 2, 4)), (1, 3, 1, ()),
     (10, 2, 2, (2, 4, 8)), (3, 3, 3, ())],
)
def test_rungs(epochs: int, eta: int, first: int, expected: tuple[int, ...]) -> None:
    assert rungs(epochs, eta, first) == expected


def random_case(rng: np.random.Generator) -> tuple[Curve, list[Curve], int]:
    epochs = int(rng.integers(1, 13))
    others = [random_curve(rng, epochs) for _ in range(rng.integers(0, 12))]
    return random_curve(rng, epochs), others, epochs


def test_off_cuts_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        assert not hopeless("off", *random_case(rng), CHANCE)


@pytest.mark.parametrize("rule", RULES)
def test_a_trial_that_took_all_its_epochs_is_never_cut(rule: str) -> None:
    worst = curve(*[9.0] * EPOCHS)
    assert not hopeless(rule, worst, [curve(*[0.1] * EPOCHS)] * 20, EPOCHS, CHANCE)


@pytest.mark.parametrize("rule", RULES)
def test_the_best_so_far_is_never_cut(rule: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        mine, others, epochs = random_case(rng)
        lowest = min((loss for other in others for _, loss in other), default=9.0)
        mine[0] = (mine[0][0], lowest / 2)
        assert not hopeless(rule, mine, others, epochs, CHANCE)


@pytest.mark.parametrize("rule", ["epoch", "halving"])
def test_a_trial_far_behind_is_cut_after_its_first_epoch(rule: str) -> None:
    others = [curve(1.0, 0.8), curve(1.1), curve(0.9, 0.7, 0.6)]
    assert hopeless(rule, curve(2.3), others, EPOCHS, CHANCE)
    assert hopeless(rule, curve(3e30), others, EPOCHS, CHANCE)


def test_epoch_never_looks_again() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        mine, others, epochs = random_case(rng)
        if len(mine) > 1:
            assert not hopeless("epoch", mine, others, epochs, CHANCE)


@pytest.mark.parametrize("rule", RULES)
def test_only_what_the_others_did_by_then_counts(rule: str) -> None:
    """So that a resumed search decides the same: not how far others came since, nor their order."""
    rng = np.random.default_rng(3)
    cuts = 0
    for _ in range(2000):
        mine, others, epochs = random_case(rng)
        decision = hopeless(rule, mine, others, epochs, CHANCE)
        by_then = [other[: len(mine)] for other in others if len(other) >= len(mine)]
        shuffled: Sequence[Curve] = [by_then[place] for place in rng.permutation(len(by_then))]
        assert hopeless(rule, mine, shuffled, epochs, CHANCE) == decision
        assert hopeless(rule, mine, [[], *others, []], epochs, CHANCE) == decision
        cuts += decision
    assert (cuts > 100) == (rule != "off")


@pytest.mark.parametrize("rule", ["epoch", "halving"])
def test_an_exploded_loss_is_cut_even_alone(rule: str) -> None:
    """Adam at lr 11.7 on FDDB: 76.5 % after one epoch, and a loss of 2e25."""
    assert hopeless(rule, curve(2e25, accuracy=0.765), [], EPOCHS, 0.5)
    assert not hopeless(rule, curve(99.0, accuracy=0.765), [], EPOCHS, 0.5)


def test_a_loss_that_does_not_move_is_cut_even_alone() -> None:
    """SGD on FDDB, lr 2.2e-4: it stays at 50 %; 4.4e-3 comes to 91.5 %. Faces, .01: to 87.5 %."""
    assert hopeless("halving", curve(0.693143, 0.693072, accuracy=0.5), [], EPOCHS, 0.5)
    assert not hopeless("halving", curve(0.691948, 0.687668, accuracy=0.5), [], EPOCHS, 0.5)
    assert not hopeless("halving", curve(0.693173, 0.692601, accuracy=0.5), [], EPOCHS, 0.5)
    assert not hopeless("halving", curve(0.693143, 0.693072, accuracy=0.6), [], EPOCHS, 0.5)
    assert not hopeless("epoch", curve(0.693143, 0.693072, accuracy=0.5), [], EPOCHS, 0.5)


def test_where_nobody_leaves_the_plateau_a_trial_gets_its_time() -> None:
    still = curve(0.693143, 0.693072, accuracy=0.5)
    others = [still] * PATIENCE
    assert stuck(still, others[1:], EPOCHS, 0.5)
    assert not stuck(still, others, EPOCHS, 0.5)
    assert stuck(still, [*others, curve(0.69, 0.6, accuracy=0.7)], EPOCHS, 0.5)


def test_on_the_plateau_the_loss_decides() -> None:
    """SGD on FDDB after one epoch: 50 % everywhere, and only a loss of .689 is about to learn."""
    stuck = [curve(0.69320, accuracy=0.5), curve(0.69314, accuracy=0.5)]
    assert not hopeless("halving", curve(0.6890, accuracy=0.5), stuck, EPOCHS, 0.5)
    later = [*stuck, curve(0.6890, accuracy=0.5)]
    assert hopeless("halving", curve(0.6932, accuracy=0.5), later, EPOCHS, 0.5)


# Recorded exhaustive searches

SEARCHES = [read(path) for path in sorted(RECORDS.glob("*curves*.json"))]
each_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)


def test_searches_are_on_record() -> None:
    assert len(SEARCHES) >= 3


@each_search
def test_a_record_is_exhaustive(search: Search) -> None:
    for trial in search.trials:
        assert trial.outcome in ("completed", "diverged")
        assert len(trial.curve) == search.epochs or trial.outcome == "diverged"
    whole = replay(search, partial(hopeless, "off"), 0)
    assert (whole.spent, whole.regret) == (1.0, 0.0)


@each_search
def test_the_default_rule_saves_half_and_loses_next_to_nothing(search: Search) -> None:
    """Figures of 200 orders: docs/experiments.md. The goal of 30 % is not reached by all."""
    found = summary(search, partial(hopeless, SearchConfig().prune), 50)
    assert found["spent"] <= 0.6
    assert found["regret"] <= 0.5
    assert found["inside"] >= 0.95


@each_search
def test_halving_spends_less_than_a_cut_after_one_epoch(search: Search) -> None:
    spent = {rule: summary(search, partial(hopeless, rule), 50)["spent"] for rule in RULES}
    assert spent["halving"] < spent["epoch"] < spent["off"] == 1.0
