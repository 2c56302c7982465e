"""How long a person waits: for `--help`, and for the first epoch of a stage.

    python benchmarks/bench_start.py --rounds 5

A table and one JSON line. Each round starts `python -c pass` (what Python alone takes), `--help`,
`--help` of a stage, and `final` on the bundled faces in an empty folder, in turn. First epoch: from
the start of the process to the line of the first epoch, the training of it left out; it includes
the imports, MLflow's new sqlite store with its tables, and the reading of the pictures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.record import spread, told

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "alexnet_mlflow")
FINAL = ("final", "--optimizer=adam", "--lr=3e-4", "--weight-decay=0", "--epochs=1")


def seconds_of(command: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def first_epoch() -> float:
    """Seconds until the first epoch has ended, less those that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        (*PROGRAM, *FINAL), cwd=folder, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as running:
        started = time.perf_counter()
        assert running.stderr is not None
        for line in running.stderr:
            if found := re.search(r"epoch 1/1\s+([\d.]+) s", line):
                waited = time.perf_counter() - started
                running.stderr.read()
                return waited - float(found[1])
    raise SystemExit("the stage ended without an epoch")


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Measure and print a table and one JSON line."""
    runs: dict[str, list[float]] = {}
    for _ in range(rounds):
        runs.setdefault("python", []).append(seconds_of((sys.executable, "-c", "pass")))
        runs.setdefault("help", []).append(seconds_of((*PROGRAM, "--help")))
        runs.setdefault("stage_help", []).append(seconds_of((*PROGRAM, "search", "--help")))
        runs.setdefault("first_epoch", []).append(first_epoch())
    figures = {name: spread(values) for name, values in runs.items()}
    for name, one in figures.items():
        click.echo(f"{name:12} {one['median']:6.2f} s  ({one['low']:.2f} to {one['high']:.2f})")
    told(unit="seconds", rounds=rounds, **figures)


if __name__ == "__main__":
    main()
