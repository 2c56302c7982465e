"""What a training does beside the plain step: augmentation, schedule, smoothing, average.

Everything is a pure function of the step, the epoch and the seed: nothing counts in secret, so that
a resumed training, a graph that is replayed and a plain loop meet the same numbers.

`report` is the report's. `strong` is the same network as good as it gets: crops and alternating
mirrors, a one-cycle rate, Nesterov's momentum, smoothed labels and averaged weights. It
neither turns pictures upside down nor blackens them. Its weight decay is SGD's usual L2; Adam's is
decoupled and does not depend on the learning rate (arXiv 1711.05101): a step at the peak takes
`weight_decay` of every weight. `plain` is for overfitting on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Generator, Tensor

from alexnet_mlflow import augment

WARM_UP = 0.2  # share of the steps in which the one-cycle rate rises
COLD = 0.1  # it starts at this share of the peak ...
END = 0.01  # ... and ends at this one
RATES_BATCH = 32
STEPS_BETWEEN_AVERAGES = 5  # averaging 93 MB takes a tenth of a step of batch 32


def constant(step: int, steps: int, peak: float) -> float:
    """The same rate at every step."""
    return peak


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Up in a line to the peak, then down in a line (arXiv 1708.07120). step: from 0 to steps - 1.

    Counted in steps, so that a larger batch goes through the same cycle in fewer of them.
    """
    done = step / max(1, steps - 1)
    if done < WARM_UP:
        return peak * (COLD + (1 - COLD) * done / WARM_UP)
    return peak * (END + (1 - END) * (1 - done) / (1 - WARM_UP))


@dataclass(frozen=True)
class Recipe:
    """How one kind of training goes."""

    # pictures (N, 3, H, W) uint8, draws, mirrored this epoch (N,) bool -> float32, 0..1
    augment: Callable[[Tensor, Generator, Tensor], Tensor]
    lr_at: Callable[[int, int, float], float] = constant  # step from 0, steps, peak
    smoothing: float = 0.0  # share of a label that is spread over all classes
    nesterov: bool = False
    decoupled: bool = False  # Adam's weight decay stands apart from gradient and rate
    average: float = 0.0  # most that an average keeps of itself a step; 0: there is none
    # optimizer -> peak learning rate and weight decay of batch 32, where no search has found any
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)

    def rates_at(self, optimizer: str, batch_size: int) -> tuple[float, float] | None:
        """Learning rate and weight decay for this batch; None where a search must find them.

        The rate goes with the square root of the batch (arXiv 1404.5997; batches other than 32
        were not measured).
        """
        if optimizer not in self.rates:
            return None
        lr, decay = self.rates[optimizer]
        return lr * math.sqrt(batch_size / RATES_BATCH), decay

    def averages(self, step: int) -> bool:
        """Does the average take in the weights after this step? step: from 1."""
        due = step % STEPS_BETWEEN_AVERAGES == 0 or step < STEPS_BETWEEN_AVERAGES
        return self.average > 0 and due

    def kept(self, step: int, steps: int) -> float:
        """Share of itself that the average keeps at this step: little early, when it is far behind.

        (step / steps)^3 of the most, as airbench does it.
        """
        most: float = self.average**STEPS_BETWEEN_AVERAGES
        return most * (step / steps) ** 3


RECIPES: dict[str, Recipe] = {
    "report": Recipe(augment.report),
    "plain": Recipe(augment.plain),
    "strong": Recipe(
        augment.strong, one_cycle, smoothing=0.1, nesterov=True, decoupled=True, average=0.99,
        rates={"sgd": (0.05, 5e-4), "adam": (1e-3, 5e-4)},  # docs/experiments.md
    ),
}
