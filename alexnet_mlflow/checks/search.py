"""Can a search's winner be believed?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from alexnet_mlflow.checks.check import Check, judge
from alexnet_mlflow.checks.thresholds import DIVERGED_SHARE, EDGE_DECADES


def optimum_inside(best: float, low: float, high: float, name: str) -> Check:
    """The best value lies inside its range, by decades; at an edge a better one may lie beyond."""
    below, above = math.log10(best / low), math.log10(high / best)
    nearest = min(below, above)
    edge, way = (low, "lower") if below < above else (high, "higher")
    return judge(
        f"optimum_inside_{name}", nearest >= EDGE_DECADES, EDGE_DECADES, nearest, 0.0,
        (f"The best {name} {best:.3g} lies inside {low:.3g} to {high:.3g}.",
         f"The best {name} {best:.3g} lies at the edge {edge:.3g} of its range: search {way} "
         "values too."),
        otherwise="warn",
    )


def diverged_share(diverged: int, trials: int) -> Check:
    """Not nearly all trials diverge: those that do tell little. All of them is a failure."""
    measured = diverged / max(1, trials)
    found = f"{diverged} of {trials} trials diverged"
    return judge(
        "diverged_share", measured <= DIVERGED_SHARE, 0.0, measured, DIVERGED_SHARE,
        (f"{found}.", f"{found}: lower the upper end of the learning rate's range."),
        otherwise="fail" if diverged >= trials else "warn",
    )


def lead_above_noise(best: float, second: float | None, repeats: Sequence[float]) -> Check:
    """The winner leads the second by more than its own repetitions differ.

    best, second: validation accuracies of the two best trials; repeats: the winner's with other
    seeds. Noise: the standard deviation of a difference of two runs, from the winner's runs. Three
    runs tell it within a factor of two, hence no test, and a warning at most.
    """
    runs = [best, *repeats]
    noise = math.sqrt(2) * statistics.stdev(runs) if repeats else 0.0
    lead = 0.0 if second is None else best - second
    good = second is None or (bool(repeats) and lead > noise)
    told = f"The best trial leads the second by {lead:.2%}"
    bad = f"{told}, no more than other seeds change it ({noise:.2%}): take either."
    if not repeats:
        bad = f"{told}; how much other seeds change it is not known: give --repeats of 2 or more."
    told = f"{told}; other seeds change it by {noise:.2%}."
    if second is None:
        told = "There is no second trial to lead."
    return judge("lead_above_noise", good, noise, lead, 0.0, (told, bad), otherwise="warn")
