"""What tests ask the system of processes."""

from __future__ import annotations

from pathlib import Path

from alexnet_mlflow import process


def children(of: int | None) -> list[int]:
    """The processes that this one has started and that are still there."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [number for number in numbers if process.parent(number) == of]
