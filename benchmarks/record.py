"""What every record of a benchmark holds, how one is written, and how one is read back.

A benchmark ends with one line of JSON: its figures, every run of them, and `ratios`: what a later
record is held against (compare.py). A ratio is taken within a round, for machines drift; it is
named with its settings, and more of it is better. Seconds are no ratio: another day has others.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

RECORDS = Path(__file__).resolve().parent / "records"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "mlflow", "optuna")
FIELDS = {
    "benchmark": str, "taken_at": str, "command": str, "commit": str, "versions": dict,
    "hardware": dict, "ratios": dict, "runs": list,
}
# Of `hardware`, what makes two machines the same.
MACHINE = ("device", "instructions", "cores")


def told(
    *, ratios: Mapping[str, Sequence[float]], runs: Sequence[Any], device: str = "cpu",
    **figures: Any,
) -> None:
    """Print one line of JSON: where and how it was taken, the figures, and every run."""
    from alexnet_mlflow.stages import git_commit

    script = Path(sys.argv[0])
    words = [Path(word).name if os.path.exists(word) else word for word in sys.argv[1:]]
    click.echo(json.dumps({
        "benchmark": script.stem,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{script.name}", *words]),
        "commit": git_commit(),
        "versions": {
            "python": platform.python_version(), **{name: version(name) for name in PACKAGES},
        },
        "hardware": hardware(device),
        "ratios": {name: spread(values) for name, values in ratios.items()},
        **figures,
        "runs": list(runs),
    }, allow_nan=False))


def hardware(device: str) -> dict[str, Any]:
    """The device that computes, the cores that this process may use, and how busy they were.

    instructions: what torch computes with, for virtual machines of two kinds call themselves alike.
    """
    import torch

    cuda = device.startswith("cuda")
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device)) if cuda else None
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "instructions": capability or torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_end": [round(value, 2) for value in os.getloadavg()],  # 1, 5 and 15 minutes
    }


def processor() -> str:
    """The CPU by its maker's name, where the kernel tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, least, most and every run."""
    return {
        "median": round(statistics.median(values), digits), "low": round(min(values), digits),
        "high": round(max(values), digits), "runs": [round(value, digits) for value in values],
    }


def shown(name: str, figures: Mapping[str, Any], unit: str = "") -> str:
    """A line of a table: a `spread` with its name."""
    low, high = figures["low"], figures["high"]
    return f"{name:42} {figures['median']:10.3f} {unit:3} ({low:.3f} to {high:.3f})"


def read(text: str) -> dict[str, Any]:
    """A record from its text. ValueError says what is wrong with it."""
    try:
        found = json.loads(text.strip().splitlines()[-1] if text.strip()[:1] != "{" else text)
    except (json.JSONDecodeError, IndexError) as error:
        raise ValueError(f"it ends with no JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    for name, kind in FIELDS.items():
        if not isinstance(found.get(name), kind):
            raise ValueError(f"`{name}` is missing or no {kind.__name__}")
    if any(not found["hardware"].get(name) for name in ("device", "cores")):
        raise ValueError("`hardware` lacks device or cores")
    for name, ratio in found["ratios"].items():
        runs = ratio.get("runs") if isinstance(ratio, dict) else None
        if not isinstance(runs, list) or not runs or not all(map(_is_number, runs)):
            raise ValueError(f"the ratio {name!r} has no runs, or some that are no numbers")
    return found


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def name_of(record: Mapping[str, Any]) -> str:
    """DATE-NAME-DEVICE-INSTRUCTIONS-CORES, as the files in records/ are called."""
    machine = record["hardware"]
    told = " ".join(str(machine[key]) for key in MACHINE if machine.get(key))
    device = re.sub(r"[^a-z0-9]+", "-", told.lower())
    return f"{record['taken_at'][:10]}-{record['benchmark']}-{device}-cores"


def kept(record: Mapping[str, Any], folder: Path = RECORDS) -> Path:
    """Write a record beside the others; a second one of the same day does not replace the first."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = name_of(record), 1
    while (place := folder / f"{stem}{f'-{number}' if number > 1 else ''}.json").exists():
        number += 1
    place.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return place
