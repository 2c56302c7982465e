"""How fast pictures are decoded, against a plain Pillow loop.

    python benchmarks/bench_decode.py --rounds 5
    python benchmarks/bench_decode.py --photos originalPics.tar.gz --parquet test.parquet

A table, then one JSON line: pictures/s of
(a) plain: Image.open, convert to RGB, resize to 32x32 with BILINEAR, np.asarray,
(b) one core: `decode`, picture after picture,
(c) all cores: `decode_all`, with the start and the end of its workers,
alternated in one process, on PNGs of 32x32, photos of 450x350 and JPEGs of 32x32. Files lie in
memory: how fast a disk is does not count. Ratios are taken within a round and their median is
given, since machines drift. Every run is in the line. Without --photos and --parquet the pictures
are generated: smooth noise, which packs about as well as photos do.
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import click
import numpy as np
import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.data import archive
from alexnet_mlflow.data.decoding import Job, decode_all
from alexnet_mlflow.data.picture import MAX_BYTES, decode_picture, is_picture
from alexnet_mlflow.stages import git_commit


def plain(raws: list[bytes]) -> None:
    """What one would write without this package."""
    for raw in raws:
        with Image.open(io.BytesIO(raw)) as picture:
            np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))


def one_core(raws: list[bytes]) -> None:
    for raw in raws:
        decode_picture(raw)


def all_cores(raws: list[bytes]) -> None:
    jobs = (Job(row, str(row), partial(bytes, raw)) for row, raw in enumerate(raws))
    decode_all(jobs, len(raws), skip_corrupt=False)


RIVALS: dict[str, Callable[[list[bytes]], None]] = {
    "plain": plain, "one_core": one_core, "all_cores": all_cores,
}


def encoded(pixels: np.ndarray, kind: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    picture.save(file, kind, quality=75)
    return file.getvalue()


def generated(kind: str, size: tuple[int, int], grain: int) -> list[bytes]:
    noise = np.random.default_rng(0)
    shape = (200, size[1] // grain, size[0] // grain, 3)
    return [encoded(pixels, kind, size) for pixels in noise.integers(0, 256, shape, np.uint8)]


def photos_in(path: str) -> list[bytes]:
    if not path:
        return generated("JPEG", (450, 350), 10)
    wanted = lambda name: is_picture(name.rpartition("/")[2])  # noqa: E731
    return [raw for _, raw in archive.members(Path(path), wanted, MAX_BYTES)]


def cells_in(path: str) -> list[bytes]:
    if not path:
        return generated("JPEG", (32, 32), 4)
    from pyarrow import parquet

    return [cell["bytes"] for cell in parquet.read_table(path)["img"].to_pylist()]


def rates_of(raws: list[bytes]) -> dict[str, float]:
    """Pictures/s of each rival, one after the other."""
    rates = {}
    for name, rival in RIVALS.items():
        started = time.perf_counter()
        rival(raws)
        rates[name] = len(raws) / (time.perf_counter() - started)
    return rates


def row_of(name: str, raws: list[bytes], runs: list[dict[str, float]]) -> dict[str, object]:
    def middle(of: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(of, runs)), 2)

    row: dict[str, object] = {
        "input": name, "pictures": len(raws), "mean_bytes": sum(map(len, raws)) // len(raws),
    }
    for rival in RIVALS:
        rates = [run[rival] for run in runs]
        row[rival] = round(statistics.median(rates))
        row[f"{rival}_spread"] = [round(min(rates)), round(max(rates))]
    row["one_core_over_plain"] = middle(lambda run: run["one_core"] / run["plain"])
    row["all_cores_over_plain"] = middle(lambda run: run["all_cores"] / run["plain"])
    row["runs"] = [{rival: round(rate) for rival, rate in run.items()} for run in runs]
    return row


def shown(row: dict[str, object]) -> str:
    rates = "".join(f"{row[rival]:>7} {str(row[f'{rival}_spread']):>16}" for rival in RIVALS)
    ratios = f"{row['one_core_over_plain']:>6} {row['all_cores_over_plain']:>6}"
    return f"{row['input']:>12}{rates}{ratios}"


@click.command()
@click.option("--pictures", default=20_000, show_default=True, help="Small pictures a run.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--photos", default="", help="Archive or folder of photos [else generated].")
@click.option("--parquet", default="", help="CIFAR-10 as parquet [else generated].")
def main(pictures: int, rounds: int, photos: str, parquet: str) -> None:
    """Measure and print a table and one JSON line."""
    kinds = {
        "PNG 32x32": (generated("PNG", (32, 32), 1), pictures),
        "photos": (photos_in(photos), max(1, pictures // 10)),
        "JPEG 32x32": (cells_in(parquet), pictures),
    }
    rows = []
    click.echo(f"{'pictures/s':>12}" + "".join(f"{rival:>24}" for rival in RIVALS) + "  ratios")
    for name, (found, count) in kinds.items():
        raws = list(islice(cycle(found), count))
        rows.append(row_of(name, raws, [rates_of(raws) for _ in range(rounds)]))
        click.echo(shown(rows[-1]))
    click.echo(json.dumps({
        "benchmark": "bench_decode",
        "command": "python benchmarks/bench_decode.py " + " ".join(sys.argv[1:]),
        "commit": git_commit(),
        "device": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "rows": rows,
    }))


if __name__ == "__main__":
    main()
