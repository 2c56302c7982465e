"""Epochs as a person watches them: a bar on a terminal, a line an epoch elsewhere.

Everything goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from alexnet_mlflow.train import EpochResult


def say(text: str) -> None:
    """One line for the person who watches, above the bar where there is one."""
    tqdm.write(text, file=sys.stderr)


def shown(results: Iterable[EpochResult], epochs: int, label: str) -> Iterator[EpochResult]:
    """The same results, shown as they pass. `epochs` is how many there will be at most."""
    terminal = sys.stderr.isatty()
    with tqdm(total=epochs, desc=label, unit="epoch", leave=False, disable=not terminal) as bar:
        for result in results:
            bar.update(result.epoch - bar.n)
            bar.set_postfix_str(_figures(result))
            if not terminal:
                say(f"{label}  epoch {result.epoch}/{epochs}  {_figures(result)}")
            yield result


def _figures(result: EpochResult) -> str:
    if result.diverged:
        return f"diverged at step {result.diverged_at_step}  lr {result.learning_rate:.3g}"
    return (
        f"{result.epoch_seconds:.1f} s  "
        f"train {result.train_loss:.4f} {result.train_accuracy:.2%}  "
        f"val {result.val_loss:.4f} {result.val_accuracy:.2%}  "
        f"lr {result.learning_rate:.3g}"
    )
