"""Who wins by which policy, on predictions like those that evaluate leaves."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from alexnet_mlflow import contest
from alexnet_mlflow.compare import paired
from alexnet_mlflow.options import BadInput
from tests.evaluations import predictions

PHOTOS, EACH = 100, 4  # pictures of one photo share its difficulty


def rights(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Challenger and champion with these cells: both, challenger only, champion only, neither."""
    cells = np.repeat(np.arange(4), counts)
    return np.isin(cells, (0, 1)), np.isin(cells, (0, 2))


@pytest.mark.parametrize(
    ("cells", "policy", "min_gain", "wins", "why"),
    [
        ((80, 6, 5, 9), "better", 0.0, True, r"\+1.00 points .* not proven, but better"),
        ((80, 6, 5, 9), "proven", 0.0, False, "no proven difference: .* p = 1, McNemar's exact"),
        ((80, 6, 5, 9), "better", 0.02, False, "the gain is below --min-gain=0.02"),
        ((80, 10, 0, 10), "proven", 0.0, True, "p = 0.002, McNemar's exact test; proven"),
        ((80, 10, 0, 10), "proven", 0.1, True, "proven"),
        ((80, 10, 0, 10), "proven", 0.11, False, "below --min-gain"),
        ((80, 5, 5, 10), "better", 0.0, False, "no gain"),
        ((80, 0, 10, 10), "proven", 0.0, False, "no gain: -10.00 points"),
        ((80, 0, 10, 10), "better", 0.0, False, "no gain: -10.00 points"),
    ],
)
def test_policies(
    cells: tuple[int, ...], policy: str, min_gain: float, wins: bool, why: str
) -> None:
    decision = contest.decided(paired(*rights(*cells)), policy, min_gain)
    assert decision.wins is wins
    assert re.search(why, decision.why), decision.why


def test_pictures_are_matched_by_name() -> None:
    right, other = rights(5, 3, 1, 2)
    champion = predictions(other).iloc[::-1]
    found = contest.measured(predictions(right), champion, "version 1")
    assert (found.both, found.challenger_only, found.champion_only, found.neither) == (5, 3, 1, 2)


@pytest.mark.parametrize("where", ["both", "challenger", "champion", "neither"])
def test_groups_come_from_whoever_has_them(where: str) -> None:
    """An older evaluation has no such column; the pictures are the same."""
    right, other = rights(5, 3, 1, 3)
    photos = [f"photo {number // 3}" for number in range(12)]
    found = contest.measured(
        predictions(right, photos if where in ("both", "challenger") else None),
        predictions(other, photos if where in ("both", "champion") else None).iloc[::-1], "v",
    )
    assert found == paired(right, other, photos if where != "neither" else None)


def test_other_classes_or_pictures_are_not_compared() -> None:
    right = np.ones(6, bool)
    with pytest.raises(BadInput, match="^version 1 tells a and b apart, the candidate cat and dog"):
        contest.measured(predictions(right), predictions(right, None, "ab"), "version 1")
    for other in (predictions(right[:5]), predictions(right).assign(label=1)):
        with pytest.raises(BadInput, match="version 1 was tested on other pictures"):
            contest.measured(predictions(right), other, "version 1")


def test_the_contingency_table() -> None:
    lines = contest.table(paired(*rights(5, 3, 1, 2))).splitlines()
    assert lines[2:] == ["| challenger right | 5 | 3 |", "| challenger wrong | 1 | 2 |"]


def seeds_alone(noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two trainings of one recipe: the same hard photos, each its own luck with photo and picture.

    Errors of about 7 %, half of them shared: like the finals of the README's table.
    """
    hard = np.repeat(noise.normal(0, 1.5, PHOTOS), EACH) + noise.normal(0, 1, PHOTOS * EACH)
    models = [
        hard + np.repeat(noise.normal(0, 0.7, PHOTOS), EACH) + noise.normal(0, 0.7, PHOTOS * EACH)
        < 3.0
        for _ in range(2)
    ]
    return models[0], models[1], [f"photo {row // EACH}" for row in range(PHOTOS * EACH)]


def test_a_seed_alone_is_seldom_promoted() -> None:
    """200 comparisons of equally good models: the proven policy promotes fewer than 5 %."""
    noise = np.random.default_rng(0)
    promoted = {"proven": 0, "better": 0}
    for _ in range(200):
        one, other, photos = seeds_alone(noise)
        result = contest.measured(predictions(one, photos), predictions(other, photos), "v")
        assert result.clusters == PHOTOS
        for policy in promoted:
            promoted[policy] += contest.decided(result, policy, 0.0).wins
    assert promoted["proven"] < 10, promoted
    assert promoted["better"] > 60, f"the simulated seeds make no difference at all: {promoted}"


def test_a_seed_alone_is_seldom_promoted_of_real_networks_too() -> None:
    """Perceptrons on digits, trained to convergence with five seeds; pairs on 400 test pictures."""
    digits = load_digits()
    noise = np.random.default_rng(0)
    train, test = np.split(noise.permutation(len(digits.target)), [597])
    right = []
    for seed in range(5):
        network = MLPClassifier((32,), max_iter=300, tol=1e-3, random_state=seed)
        network.fit(digits.data[train] / 16, digits.target[train])
        right.append(network.predict(digits.data[test] / 16) == digits.target[test])
    promoted = better = 0
    for _ in range(200):
        one, other = noise.choice(5, 2, replace=False)
        rows = noise.choice(len(test), 400, replace=False)
        assert (right[one] != right[other]).any()
        result = paired(right[one][rows], right[other][rows])
        promoted += contest.decided(result, "proven", 0).wins
        better += contest.decided(result, "better", 0).wins
    assert promoted < 10 and better > 40


def test_photos_taken_for_independent_pictures_would_promote_more() -> None:
    """What the clusters are for: without them chance is promoted more often."""
    noise = np.random.default_rng(1)
    wins = {True: 0, False: 0}
    for _ in range(400):
        shift = np.repeat(noise.normal(0, 1, (2, PHOTOS)) > 1.2, EACH, axis=1)  # whole photos fail
        photos = [f"photo {row // EACH}" for row in range(PHOTOS * EACH)]
        for clustered in wins:
            result = paired(~shift[0], ~shift[1], photos if clustered else None)
            wins[clustered] += contest.decided(result, "proven", 0.0).wins
    assert wins[True] < 20 < wins[False], wins
