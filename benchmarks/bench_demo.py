"""How long `make demo` takes after its set-up, and what training both optimizers at once gains.

    python benchmarks/bench_demo.py --rounds 3

A table and one JSON line. Each round runs the demo's command, imports and schema included, in an
empty folder with a store of its own: as it is (`side_by_side`: SGD and Adam each in a process with
half the cores), and with `--side-by-side=false`, one after the other with all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.record import shown, spread, told

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "alexnet_mlflow", "babysit")
DEMO = ("--dataset=faces", "--optimizer=both", "--trials=10", "--fine-trials=3", "--repeats=1",
        "--epochs=10")  # the Makefile's
GOAL_SECONDS = 180
WAYS = {"side_by_side": "true", "one_after_the_other": "false"}
FIGURES = ("sgd_val_accuracy_mean", "adam_val_accuracy_mean", "sgd_test_accuracy",
           "adam_test_accuracy")


def demo(side_by_side: str, options: tuple[str, ...]) -> dict[str, Any]:
    """The whole protocol; its seconds, its verdict and what it found."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("MLFLOW_TRACKING_URI", "ALEXNET_STORAGE"):
        environment.pop(name, None)
    own = ("--device=cpu", f"--side-by-side={side_by_side}", *options)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            (*PROGRAM, *DEMO, *own), cwd=folder, env=environment, text=True, capture_output=True
        )
        seconds = time.perf_counter() - started
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise click.ClickException(f"the demo failed: {done.stderr.strip()[-500:]}")
    if side_by_side == "true" and not checked(done.stderr):
        raise click.ClickException("the two were not trained side by side: give two threads")
    last = json.loads(done.stdout.strip().splitlines()[-1])
    found = {name: last[name] for name in ("verdict", *FIGURES) if name in last}
    return {"seconds": round(seconds, 1), **found}


def checked(said: str) -> bool:
    """Had each optimizer a process, to its end?"""
    return "is trained meanwhile" in said and "is trained here" not in said


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--limit", default=0, show_default=True, help="Pictures to train on; 0 = all.")
def main(rounds: int, limit: int) -> None:
    """Measure and print a table and one JSON line."""
    options = (f"--limit={limit}", "--batch-size=4") if limit else ()
    runs = [{way: demo(text, options) for way, text in WAYS.items()} for _ in range(rounds)]
    figures = {way: spread([run[way]["seconds"] for run in runs]) for way in WAYS}
    for way, one in figures.items():
        click.echo(shown(way, one, "s"))
    first, second = WAYS
    ratios = {f"{first}_over_{second}": [
        run[second]["seconds"] / run[first]["seconds"] for run in runs
    ]}
    for name, values in ratios.items():
        click.echo(shown(f"  {name}", spread(values)))
    met = figures[first]["median"] <= GOAL_SECONDS
    click.echo(f"the demo in {GOAL_SECONDS} s: {'yes' if met else 'no'}")
    told(ratios=ratios, seconds=figures, goals={"demo_seconds": GOAL_SECONDS, "met": met},
         runs=runs)


if __name__ == "__main__":
    main()
