"""A challenger against the champion on the same test pictures: who wins, by which policy, and why.

Pure functions of predictions. `better` asks for a gain, however small; `proven` for one that
chance does not explain (p < 0.05). Both ask for the minimum gain. Left out: the choice of the
challenger, which is made on validation before the test pictures speak.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from alexnet_mlflow.compare import Paired, paired
from alexnet_mlflow.options import BadInput

LEVEL = 0.05  # of the two-sided test; half of it is on the side of the challenger
CHANCE = "p_"  # a column of predictions for each class begins so


@dataclass(frozen=True)
class Decision:
    """Does the challenger win, and why, in half a sentence."""

    wins: bool
    why: str


def measured(challenger: pd.DataFrame, champion: pd.DataFrame, name: str) -> Paired:
    """Compare two tables of predictions (id, label, prediction, group, p_<class>...) of one split.

    name: what the champion is called, to be told. Where neither table has groups, each picture
    stands alone. BadInput where classes or pictures differ.
    """
    first, second = _classes(challenger), _classes(champion)
    if first != second:
        raise BadInput(
            f"{name} tells {_listed(second)} apart, the candidate {_listed(first)}: they cannot be "
            "compared; promote under the name of another data set, or take the alias champion from "
            "it in the registry and promote again"
        )
    ids = challenger["id"]
    other = champion.set_index("id")
    if set(ids) != set(other.index) or not (
        challenger["label"].to_numpy() == other.loc[ids, "label"].to_numpy()
    ).all():
        raise different(name)
    right = (challenger["prediction"] == challenger["label"]).to_numpy()
    other_right = (other["prediction"] == other["label"]).loc[ids].to_numpy()
    groups = None
    if "group" in challenger:
        groups = challenger["group"].astype(str).tolist()
    elif "group" in other:
        groups = other.loc[ids, "group"].astype(str).tolist()
    return paired(right, other_right, groups)


def different(name: str) -> BadInput:
    """The refusal to compare results on different pictures."""
    return BadInput(
        f"{name} was tested on other pictures than the candidate, so they cannot be compared: "
        "evaluate both on the same ones, or take the alias champion from it in the registry and "
        "promote again"
    )


def decided(result: Paired, policy: str, min_gain: float) -> Decision:
    """Does the challenger take the crown?

    policy: better or proven. min_gain: the least gain that counts, as a fraction of the pictures.
    """
    figures, proven = told(result), result.p_value < LEVEL
    if result.gain <= 0:
        return Decision(False, f"no gain: {figures}")
    if policy == "proven" and not proven:
        asked = f"--policy=proven asks for p < {LEVEL}"
        return Decision(False, f"no proven difference: {figures}; {asked}")
    if result.gain < min_gain:
        return Decision(False, f"the gain is below --min-gain={min_gain:g}: {figures}")
    return Decision(True, f"{figures}; " + ("proven" if proven else "not proven, but better"))


def told(result: Paired) -> str:
    """The figures in half a sentence; the gain in points, hundredths of the pictures."""
    gain, low, high = (100 * each for each in (result.gain, result.low, result.high))
    clusters = "" if result.clusters == result.pictures else f" of {result.clusters} photos"
    return (
        f"{gain:+.2f} points (95 % {low:+.2f} to {high:+.2f}) on {result.pictures} pictures"
        f"{clusters}, {result.challenger_only} won and {result.champion_only} lost, "
        f"p = {result.p_value:.2g}, {result.method}"
    )


def table(result: Paired) -> str:
    """The contingency table in Markdown: pictures that each gets right or wrong."""
    return (
        "| pictures | champion right | champion wrong |\n"
        "|---|---|---|\n"
        f"| challenger right | {result.both} | {result.challenger_only} |\n"
        f"| challenger wrong | {result.champion_only} | {result.neither} |\n"
    )


def _classes(predictions: pd.DataFrame) -> list[str]:
    return [name.removeprefix(CHANCE) for name in predictions if name.startswith(CHANCE)]


def _listed(classes: list[str]) -> str:
    """Two classes by name, many by their number."""
    return " and ".join(classes) if len(classes) < 4 else f"{len(classes)} classes"
