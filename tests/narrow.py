"""The program with a narrower network, for tests of what is around it: `python -m tests.narrow`.

The same layers, but the two that hold 90 % of the weights are 256 wide: a step, a checkpoint and a
model take a small part of the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from alexnet_mlflow import cli, model

HIDDEN = 256
PROGRAM = [sys.executable, "-m", "tests.narrow"]


def environment(store: Path) -> dict[str, str]:
    """In which PROGRAM starts from anywhere and tracks to this folder's store."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]),
            "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}


if __name__ == "__main__":
    model.HIDDEN = HIDDEN
    cli.script()
