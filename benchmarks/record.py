"""What every record of a benchmark says of the machine, the versions and the command."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from alexnet_mlflow.stages import git_commit


def told(**figures: Any) -> None:
    """Print one line of JSON: these figures, after where and how they were taken."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    script = Path(sys.argv[0])
    click.echo(json.dumps({
        "benchmark": script.stem,
        "command": " ".join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "commit": git_commit(),
        "device": gpu or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **figures,
    }))


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, least, most and every run."""
    return {
        "median": round(statistics.median(values), digits), "low": round(min(values), digits),
        "high": round(max(values), digits), "runs": [round(value, digits) for value in values],
    }
