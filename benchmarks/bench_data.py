"""How fast pictures are decoded, kept and augmented, each alone, against what one would write.

    python benchmarks/bench_data.py --rounds 5
    python benchmarks/bench_data.py --photos originalPics.tar.gz --parquet test.parquet

A table, then one JSON line: pictures/s, the rivals alternated in one process.
Decoding, of PNGs of 32x32, photos of 450x350 and JPEGs of 32x32:
(a) plain: Image.open, convert to RGB, resize to 32x32 with BILINEAR, np.asarray,
(b) one core: `decode_picture`, picture after picture,
(c) all cores: `decode_all`, with the start and the end of its workers.
Files lie in memory: how fast a disk is does not count. Without --photos and --parquet the pictures
are generated: smooth noise, which packs about as well as photos do.
The cache: a zip of such JPEGs through `load`, first decoded and kept, then read back and verified.
Augmentation, from uint8 pictures to normalised batches of 64 in a shuffled order:
(a) ours: gather, draw, apply, normalise, as `fit` does,
(b) v2_batch: torchvision's v2 on the batch; one draw for all its pictures, so that it does less,
(c) v2_each: the same picture by picture, each with its own draw,
(d) report_N_workers: the report's way, PIL pictures and transforms in a DataLoader.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.augment import IMAGENET_MEAN, IMAGENET_STD, normalise, report
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import archive, load
from alexnet_mlflow.data.decoding import Job, decode_all
from alexnet_mlflow.data.picture import MAX_BYTES, decode_picture, is_picture
from benchmarks.bench_step import Pictures, pictures
from benchmarks.record import shown, spread, told

BATCH = 64
QUICK = ("ours", "v2_batch")  # hundredths of a second for thousands of pictures
V2 = v2.Compose([
    v2.RandomHorizontalFlip(),
    v2.RandomVerticalFlip(),
    v2.ColorJitter(brightness=2),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
])
Round = dict[str, float]  # pictures/s of each rival


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


def rates_of(rivals: dict[str, Callable[[], object]], count: int, quick: int = 1) -> Round:
    """Pictures/s of each rival, one after the other; those in QUICK so many times over."""
    rates = {}
    for name, rival in rivals.items():
        times = quick if name in QUICK else 1
        started = time.perf_counter()
        for _ in range(times):
            rival()
        rates[name] = round(times * count / (time.perf_counter() - started), 1)
    return rates


def decoding(raws: list[bytes]) -> Round:
    return rates_of({name: partial(rival, raws) for name, rival in RIVALS.items()}, len(raws))


def caching(file: Path) -> Round:
    """Load a data set that is not in the cache, then again; the cache is made for it and goes."""
    before = os.environ.get("ALEXNET_CACHE")
    config = DataConfig(dataset=str(file))
    with zipfile.ZipFile(file) as zipped:
        count = len(zipped.namelist())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ALEXNET_CACHE"] = folder
        try:
            return rates_of(dict.fromkeys(("decoded", "cached"), lambda: load(config)), count)
        finally:
            del os.environ["ALEXNET_CACHE"]
            if before is not None:
                os.environ["ALEXNET_CACHE"] = before


def zipped(file: Path, raws: list[bytes]) -> None:
    """A picture folder of ten classes, as a zip."""
    with zipfile.ZipFile(file, "w") as made:
        for row, raw in enumerate(raws):
            made.writestr(f"{row % 10}/{row:07d}.jpg", raw)


def ours(images: Tensor, generator: torch.Generator) -> None:
    for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
        normalise(report(images[chosen], generator))


def v2_batch(images: Tensor) -> None:
    for chosen in torch.randperm(len(images)).split(BATCH):
        V2(images[chosen])


def v2_each(images: Tensor) -> None:
    for chosen in torch.randperm(len(images)).split(BATCH):
        torch.stack([V2(picture) for picture in images[chosen]])


def augmenting(count: int, workers: tuple[int, ...]) -> Callable[[], Round]:
    """A round of all the ways. The loaders' workers are started here, and stay."""
    images, labels = pictures(count)
    on_device, generator = torch.from_numpy(images), torch.Generator().manual_seed(0)
    rivals: dict[str, Callable[[], object]] = {
        "ours": partial(ours, on_device, generator),
        "v2_batch": partial(v2_batch, on_device),
        "v2_each": partial(v2_each, on_device),
    }
    few = Pictures(images, labels)
    for number in workers:
        loader = torch.utils.data.DataLoader(
            few, BATCH, shuffle=True, num_workers=number, persistent_workers=number > 0
        )
        rivals[f"report_{number}_workers"] = lambda loader=loader: [None for _ in loader]
    rates_of(rivals, count)  # warms up
    return lambda: rates_of(rivals, count, quick=10)


def ratios_of(part: str, runs: list[Round]) -> dict[str, list[float]]:
    """What each round says of ours."""
    if part == "cache":
        return {"cached_over_decoded": [run["cached"] / run["decoded"] for run in runs]}
    if part == "augmentation":
        reports = [name for name in runs[0] if name.startswith("report_")]
        over = {"v2_batch": ["v2_batch"], "v2_each": ["v2_each"], "report_best_workers": reports}
        return {
            f"augmentation_over_{name}": [run["ours"] / max(map(run.get, ways)) for run in runs]
            for name, ways in over.items()
        }
    return {
        f"{name}_over_plain, {part}": [run[name] / run["plain"] for run in runs]
        for name in ("one_core", "all_cores")
    }


@click.command()
@click.option("--pictures", "count", default=20_000, show_default=True, help="Small ones a run.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--workers", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--photos", default="", help="Archive or folder of photos [else generated].")
@click.option("--parquet", default="", help="CIFAR-10 as parquet [else generated].")
def main(count: int, rounds: int, workers: tuple[int, ...], photos: str, parquet: str) -> None:
    """Measure and print a table and one JSON line."""
    kinds = {
        "PNG 32x32": (generated("PNG", (32, 32), 1), count),
        "photos": (photos_in(photos), max(1, count // 10)),
        "JPEG 32x32": (cells_in(parquet), count),
    }
    raws = {name: list(islice(cycle(found), size)) for name, (found, size) in kinds.items()}
    ratios, runs = dict[str, list[float]](), list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.zip"
        zipped(file, raws["JPEG 32x32"])
        parts: dict[str, Callable[[], Round]] = {
            **{name: partial(decoding, found) for name, found in raws.items()},
            "cache": partial(caching, file),
            "augmentation": augmenting(max(BATCH, count // 10), workers),
        }
        for part, measured in parts.items():
            found = [measured() for _ in range(rounds)]
            for name in found[0]:
                rates = spread([run[name] for run in found], 0)
                click.echo(shown(f"{part}: {name}", rates, "/s"))
            for name, values in ratios_of(part, found).items():
                ratios[name] = values
                click.echo(shown(f"  {name}", spread(values)))
            runs.extend({"part": part, **run} for run in found)
    sizes = {name: sum(map(len, found)) // len(found) for name, found in raws.items()}
    told(ratios=ratios, pictures=count, mean_bytes=sizes, runs=runs)


if __name__ == "__main__":
    main()
