"""Epochs as a person watches them: a bar on a terminal, a line an epoch elsewhere.

Everything goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from alexnet_mlflow.train import EpochResult

LINE_SECONDS = 10.0


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


class Trials:
    """A search as a person watches it: one bar on a terminal, a line a trial elsewhere.

    most: how many trials there may be. A context; what was finished before does not count as done
    in this time.
    """

    def __init__(self, most: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=most, unit="trial", leave=False, disable=not self._terminal)
        self._told = ""
        self._begun = False

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def at(self, done: int, pruned: int, diverged: int, best: float | None) -> None:
        """So many trials have ended, by whomever."""
        found = "none has learnt yet" if best is None else f"best {best:.2%}"
        self._told = f"{found}, {pruned} cut, {diverged} diverged"
        if self._begun:
            self._bar.update(done - self._bar.n)
        else:
            self._bar.initial = self._bar.n = done
            self._begun = True
        self._bar.set_postfix_str(self._told)

    def epoch(self, name: str, result: EpochResult, epochs: int) -> None:
        """One more epoch of the trial that this process trains."""
        self._bar.set_description_str(f"{name} {result.epoch}/{epochs}")
        self._bar.set_postfix_str(self._told)

    def ended(self, name: str, outcome: str, last: EpochResult) -> None:
        """A trial of this process has ended."""
        if not self._terminal:
            say(f"{name}  {outcome} after epoch {last.epoch}  {_figures(last)}  ({self._told})")


class Copying:
    """Things that are copied as a person watches them: a bar on a terminal, elsewhere a line at
    most every ten seconds. A context; total: how many there are, 0 where that is not known.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._terminal = sys.stderr.isatty()
        self._total, self._unit, self._done = total, unit, 0
        self._told_at = time.monotonic()
        self._bar = tqdm(total=total or None, unit=unit, leave=False, disable=not self._terminal)

    def __enter__(self) -> Copying:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def one(self, name: str) -> None:
        """The next one, of this name, begins."""
        if time.monotonic() - self._told_at >= LINE_SECONDS and not self._terminal:
            self._told_at = time.monotonic()
            of = f" of {self._total}" if self._total else ""
            say(f"{self._done}{of} {self._unit}s; now {name}")
        self._done += 1
        self._bar.update()
        self._bar.set_postfix_str(name)


def _figures(result: EpochResult) -> str:
    if result.diverged:
        return f"diverged at step {result.diverged_at_step}  lr {result.learning_rate:.3g}"
    return (
        f"{result.epoch_seconds:.1f} s  "
        f"train {result.train_loss:.4f} {result.train_accuracy:.2%}  "
        f"val {result.val_loss:.4f} {result.val_accuracy:.2%}  "
        f"lr {result.learning_rate:.3g}"
    )
