"""Run the benchmarks and keep their records, or hold the quick ones against the records.

    python benchmarks/run.py                            all of them; `make bench`
    python benchmarks/run.py bench_step --device cuda   one of them, on a GPU
    python benchmarks/run.py --check                    the quick ones; `make bench-check`

Each is a process of its own, which prints its table. A record goes to
records/DATE-NAME-MACHINE.json. --check keeps nothing and compares ratios (compare.py); where one
fell, the benchmark is run once more, and what fell both times has fallen. Exit codes: 0; 1 where a
ratio fell, a benchmark failed or nothing could be compared, after all of them were run; 2 where a
name is none.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compare import MARGIN, compared
from benchmarks.record import RECORDS, kept, read

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """Its options for a record, and for a quick check; `quick` None: it is no quick one."""

    full: str
    quick: str | None = None
    devices: tuple[str, ...] = ("cpu",)  # with others than the CPU it takes --device
    on_cuda: str | None = None  # instead of `full` there

    def options(self, device: str, check: bool) -> str | None:
        """None: it is not run so."""
        if check or device not in self.devices:
            return self.quick if device in self.devices else None
        return self.on_cuda if device == "cuda" and self.on_cuda else self.full


BENCHMARKS = {
    "bench_step": Benchmark("--rounds 5", "--rounds 3 --batch 32", ("cpu", "cuda")),
    "bench_layers": Benchmark("--rounds 5", "--rounds 3 --batch 32", ("cpu", "cuda")),
    "bench_data": Benchmark("--rounds 5", "--rounds 3"),
    "bench_tracking": Benchmark("--epochs 20 --trials 10", "--epochs 10 --trials 3 --pictures 64"),
    "bench_start": Benchmark("--rounds 5", "--rounds 3"),
    "bench_demo": Benchmark("--rounds 3"),
    "bench_search": Benchmark(
        "--rounds 3 --trials 6 --fine-trials 3 --epochs 5", None, ("cpu", "cuda"),
        "--rounds 1 --dataset cifar10 --optimizer sgd --trials 20 --fine-trials 10 --epochs 5 "
        "--rival default --rival exhaustive",
    ),
    "bench_recipe": Benchmark(
        "--optimizer adam --batch-size 64 --epochs 3 --report-weight-decay 1.1e-4 "
        "--report-lr 0.001 --strong-lr 0.001 --without averaging --without decoupling "
        "--without smoothing", None, ("cpu", "cuda"),
    ),
    "bench_scale": Benchmark(
        "--rounds 3 --pictures 10000 --pictures 100000 --pictures 1000000 "
        "--trials 20 --trials 100 --trials 500"
    ),
}


def measured(name: str, options: str, device: str) -> dict[str, Any] | None:
    """Run a benchmark; its record, or None where it failed. Its table passes through."""
    benchmark = BENCHMARKS[name]
    words = [sys.executable, str(HERE / f"{name}.py"), *options.split()]
    if len(benchmark.devices) > 1:
        words.append(f"--device={device}")
    click.echo(f"{name} {options}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        last = ""
        for line in running.stdout:
            if last:
                click.echo(last, nl=False)
            last = line
    if running.returncode:
        click.echo(f"{last}{name} failed: exit code {running.returncode}")
        return None
    return read(last)


def _fell(record: dict[str, Any], records: Path, margin: float) -> set[str]:
    """The names of this record's ratios that have fallen."""
    return {one.name for one in compared(record, records, margin) if one.fell}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="The quick ones, against the records.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--margin", type=float, default=MARGIN, show_default=True)
@click.option("--records", type=click.Path(file_okay=False, path_type=Path), default=RECORDS)
def main(
    names: tuple[str, ...], check: bool, device: str, margin: float, records: Path
) -> None:
    """Run the benchmarks with these NAMES, or all."""
    for name in names:
        if name not in BENCHMARKS:
            raise click.UsageError(f"there is no {name}: give {', '.join(BENCHMARKS)}")
        if check and BENCHMARKS[name].quick is None:
            raise click.UsageError(f"{name} is no quick one: run it without --check")
    code, held, fallen = 0, 0, 0
    for name, benchmark in BENCHMARKS.items():
        options = benchmark.options(device, check)
        if (names and name not in names) or options is None:
            continue
        record = measured(name, options, device)
        if record is None:
            code = 1
        elif check:
            try:
                found = compared(record, records, margin)
                fell = {one.name for one in found if one.fell}
                if fell:
                    click.echo(f"{name}: once more, for what others do here makes ratios fall too")
                    again = measured(name, options, device)
                    fell &= _fell(again, records, margin) if again else fell
                held, fallen = held + len(found), fallen + len(fell)
            except ValueError as error:
                click.echo(f"{name}: {error}")
                code = 1
        else:
            click.echo(f"-> {kept(record, records).name}")
    if check:
        nothing = "" if held or code else ": keep records of this machine first, by `make bench`"
        click.echo(f"{held} ratios compared, {fallen} fell, twice{nothing}")
        code |= int(bool(fallen) or not held)
    sys.exit(code)


if __name__ == "__main__":
    main()
