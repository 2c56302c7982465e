"""Hold a new record's ratios against the newest ones for the same hardware.

    python benchmarks/bench_step.py | python benchmarks/compare.py -
    python benchmarks/compare.py record.json

Ratios are compared, not seconds. One fell where three quarters of its new runs lie below three
quarters of the old ones by more than --margin: a single slow run on either side decides nothing.
Same hardware: device, instruction set and number of cores. Exit codes: 1 where a ratio fell; 0
where none did, or where there is no record to hold it against; 2 where a record cannot be read.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.record import MACHINE, RECORDS, read

MARGIN = 0.05  # of the old median
# Records of this device until 2026-11-30 lack the instructions: the documents of their day tell.
EARLIER = {"device": "AMD EPYC", "instructions": "AVX2"}


@dataclass(frozen=True)
class Change:
    """A ratio in both records."""

    name: str
    old: float
    new: float
    lowest: float  # the new median that would still be within the tolerance

    @property
    def fell(self) -> bool:
        return self.new < self.lowest

    def __str__(self) -> str:
        word = "FELL" if self.fell else "holds"
        return f"{word:6} {self.name:48} {self.old:8.3f} -> {self.new:8.3f} (>= {self.lowest:.3f})"


def changes(old: Mapping[str, Any], new: Mapping[str, Any], margin: float) -> list[Change]:
    """What both records have measured."""
    both = [name for name in old["ratios"] if name in new["ratios"]]
    return [change(name, old["ratios"][name]["runs"], new["ratios"][name]["runs"], margin)
            for name in both]


def change(name: str, old: list[float], new: list[float], margin: float) -> Change:
    before, after = statistics.median(old), statistics.median(new)
    tolerance = before - quartiles(old)[0] + quartiles(new)[1] - after + margin * abs(before)
    return Change(name, before, after, before - tolerance)


def quartiles(runs: list[float]) -> tuple[float, float]:
    """The lower and the upper one; of a single run, itself."""
    if len(runs) == 1:
        return runs[0], runs[0]
    low, _, high = statistics.quantiles(runs, n=4, method="inclusive")
    return low, high


def machine_of(record: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes two machines the same."""
    hardware = record["hardware"]
    earlier = EARLIER if hardware["device"] == EARLIER["device"] else {}
    return tuple({**earlier, **hardware}.get(name) for name in MACHINE)


def of_this_machine(new: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The other records of this benchmark on this hardware, the newest first; those of an older
    form are passed over.

    ValueError names a file that is called a record of this benchmark and is none.
    """
    found = []
    for path in sorted(folder.glob(f"*-{new['benchmark']}-*.json")):
        text = path.read_text()
        if '"ratios"' not in text:
            continue
        try:
            record = read(text)
        except ValueError as error:
            raise ValueError(f"{path.name} is no record: {error}") from None
        if machine_of(record) == machine_of(new) and record != new:
            found.append(record)
    return sorted(found, key=lambda record: str(record["taken_at"]), reverse=True)


def compared(
    new: Mapping[str, Any], folder: Path = RECORDS, margin: float = MARGIN
) -> list[Change]:
    """Print and return each ratio's change against the newest record that has it."""
    device, instructions, cores = machine_of(new)
    title = f"{new['benchmark']} on {device}, {instructions or 'unknown'}, {cores} cores"
    records = of_this_machine(new, folder)
    if not records:
        click.echo(f"{title}: there is no record for this hardware, so nothing is compared.")
        return []
    left, found = dict(new["ratios"]), list[Change]()
    for old in records:
        held = changes(old, {"ratios": left}, margin)
        if not held:
            continue
        click.echo(f"{title}: against {old['taken_at']}, commit {old['commit'][:8]}")
        for name in ("versions", "hardware"):
            for key in old[name].keys() & new[name].keys() - {"load_at_end"}:
                if old[name][key] != new[name][key]:
                    click.echo(f"  {key} was {old[name][key]}, is {new[name][key]}")
        for one in held:
            click.echo(f"  {one}")
            del left[one.name]
        found += held
    for name in left:
        click.echo(f"  new    {name}")
    if not found:
        raise ValueError("no record has a ratio in common: run it with the same settings")
    return found


@click.command()
@click.argument("file", type=click.File())
@click.option("--records", type=click.Path(file_okay=False, path_type=Path), default=RECORDS)
@click.option("--margin", type=float, default=MARGIN, show_default=True)
def main(file: Any, records: Path, margin: float) -> None:
    """Hold the record in FILE (- is standard input) against the newest for this hardware."""
    try:
        found = compared(read(file.read()), records, margin)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{getattr(file, 'name', 'the record')}: {error}") from None
    sys.exit(int(any(one.fell for one in found)))


if __name__ == "__main__":
    main()
