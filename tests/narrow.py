"""The program with a narrower network, for tests of what is around it: `python -m tests.narrow`.

The same layers, but the two that hold 90 % of the weights are 256 wide: a step, a checkpoint and a
model take a small part of the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from alexnet_mlflow import abreast, cli, model

HIDDEN = 256
PROGRAM = [sys.executable, "-m", "tests.narrow"]


def environment(store: Path) -> dict[str, str]:
    """In which PROGRAM starts from anywhere and tracks to this folder's store."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]),
            "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}


def command(*given: object, **changes: object) -> list[str]:
    """The program that is started beside this one is narrow too."""
    words = real(*given, **changes)  # type: ignore[arg-type]
    return [*PROGRAM, *words[len(PROGRAM):]]


if __name__ == "__main__":
    model.HIDDEN = HIDDEN
    real, abreast.command = abreast.command, command
    cli.script()
