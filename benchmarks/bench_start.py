"""How long a person waits: for `--help`, and for the first epoch of a stage, and what imports cost.

    python benchmarks/bench_start.py --rounds 5

A table and one JSON line. Each round starts, in turn: `python -c pass` (what Python alone takes),
`--help`, `--help` of a stage, imports of torch, of mlflow, of both, of all that `final` imports,
and `final` on the bundled faces, in an empty folder and once more in the same one. First epoch:
from the start of the process to the line of the first epoch, the training of it left out; it
includes the imports, the reading of the pictures, and, in the empty folder, MLflow's store with
its tables.
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

from benchmarks.record import shown, spread, told

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "alexnet_mlflow")
FINAL = ("final", "--optimizer=adam", "--lr=3e-4", "--weight-decay=0", "--epochs=1",
         "--device=cpu")
GOAL_HELP_SECONDS = 0.4
BARE = {
    "python": ("-c", "pass"),
    "help": ("-m", "alexnet_mlflow", "--help"),
    "stage_help": ("-m", "alexnet_mlflow", "search", "--help"),
    "import_torch": ("-c", "import torch"),
    "import_mlflow": ("-c", "import mlflow"),
    "import_both": ("-c", "import torch, mlflow"),
    "import_final": ("-c", "from alexnet_mlflow import track; import mlflow; "
                           "from alexnet_mlflow.stages import final"),
}


def seconds_of(words: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run((sys.executable, *words), check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def first_epoch(folder: str, options: tuple[str, ...]) -> float:
    """Seconds until the first epoch has ended, less those that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.perf_counter()
    with subprocess.Popen(
        (*PROGRAM, *FINAL, *options), cwd=folder, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if found := re.search(r"epoch 1/1\s+([\d.]+) s", line):
                waited = time.perf_counter() - started
                running.stderr.read()
                return waited - float(found[1])
    raise SystemExit("the stage ended without an epoch")


def round_of(options: tuple[str, ...]) -> dict[str, float]:
    seconds = {name: seconds_of(words) for name, words in BARE.items()}
    with tempfile.TemporaryDirectory() as folder:
        seconds["first_epoch"] = first_epoch(folder, options)
        seconds["first_epoch_again"] = first_epoch(folder, options)
    return {name: round(value, 3) for name, value in seconds.items()}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--limit", default=0, show_default=True, help="Pictures to train on; 0 = all.")
def main(rounds: int, limit: int) -> None:
    """Measure and print a table and one JSON line."""
    options = (f"--limit={limit}", "--batch-size=2") if limit else ()
    runs = [round_of(options) for _ in range(rounds)]
    figures = {name: spread([run[name] for run in runs]) for name in runs[0]}
    for name, one in figures.items():
        click.echo(shown(name, one, "s"))
    over = {"python_over_help": ("python", "help"),
            "imports_over_import_final": ("import_both", "import_final"),
            "imports_over_first_epoch": ("import_both", "first_epoch"),
            "imports_over_first_epoch_again": ("import_both", "first_epoch_again")}
    ratios = {name: [run[one] / run[other] for run in runs] for name, (one, other) in over.items()}
    for name, values in ratios.items():
        click.echo(shown(f"  {name}", spread(values)))
    met = figures["help"]["median"] <= GOAL_HELP_SECONDS
    click.echo(f"--help in {GOAL_HELP_SECONDS} s: {'yes' if met else 'no'}")
    told(ratios=ratios, seconds=figures, goals={"help_seconds": GOAL_HELP_SECONDS, "met": met},
         runs=runs)


if __name__ == "__main__":
    main()
