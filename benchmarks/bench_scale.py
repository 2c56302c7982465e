"""How preparing and training grow with the number of pictures: time and memory.

    python benchmarks/bench_scale.py --pictures 10000 --pictures 100000 --pictures 1000000

For each number, in a process of its own: a zip of generated JPEGs of 32x32 in ten classes (made
first, not timed) is loaded (decoded, kept in the cache, divided), loaded again (from the cache),
and trained on: `--steps` steps of AlexNet with Adam, so that its memory counts, then one whole
epoch of `fit` and its validation with a net of one layer, so that every picture is used. One JSON
line a number: seconds, pictures/s, and the largest resident memory so far after each step, with
what of it was mapped from files at the end (the kernel takes that back when others need it).
"""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CLASSES = 10
BATCH = 256


def generate(archive: Path, count: int) -> None:
    """Smooth noise, as JPEG: all different, about as large as a real picture of 32x32."""
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w") as made:
        for row in range(count):
            coarse = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            file = io.BytesIO()
            coarse.resize((32, 32), Image.Resampling.BILINEAR).save(file, "JPEG")
            made.writestr(f"{row % CLASSES}/{row:07d}.jpg", file.getvalue())


def peak_mib() -> dict[str, float]:
    """Largest resident memory of this process and of any child so far, MiB."""
    kinds = {"self": resource.RUSAGE_SELF, "largest_child": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(kind).ru_maxrss / 1024 for name, kind in kinds.items()}


def mapped_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem"))]
    return sum(found) / 1024


def measure(archive: str, steps: int) -> dict[str, object]:
    """In a process of its own: load twice, train, and what each took."""
    import torch
    from torch import nn

    from alexnet_mlflow.config import DataConfig, TrainConfig
    from alexnet_mlflow.data import load
    from alexnet_mlflow.data.split import part_of
    from alexnet_mlflow.model import build
    from alexnet_mlflow.train import fit

    config, device = DataConfig(dataset=archive), torch.device("cpu")
    found: dict[str, object] = {"imports_peak_mib": peak_mib()}
    for name in ("prepare", "again"):
        started = time.perf_counter()
        data = load(config)
        found[f"{name}_seconds"] = time.perf_counter() - started
        found[f"{name}_peak_mib"] = peak_mib()
    count = sum(sum(counts.values()) for counts in data.counts.values())
    settings = TrainConfig(
        optimizer="adam", lr=1e-4, weight_decay=0.0, momentum=0.9, batch_size=BATCH, epochs=1,
        recipe="report", seed=0,
    )
    few = part_of(data.train, "train", np.arange(min(len(data.train), steps * BATCH)))
    some = part_of(data.val, "val", np.arange(min(len(data.val), BATCH)))
    net = build(CLASSES, 0)
    [real] = fit(net, replace(data, train=few, val=some), settings, device)
    found["alexnet_images_per_second"] = real.images_per_second
    found["alexnet_peak_mib"] = peak_mib()
    small = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, CLASSES))
    [whole] = fit(small, data, settings, device)
    found |= {"epoch_seconds": whole.epoch_seconds, "epoch_peak_mib": peak_mib()}
    found |= {"pictures": count, "mapped_mib": mapped_mib()}
    return found


@click.command()
@click.option("--pictures", multiple=True, type=int, default=(10_000, 100_000), show_default=True)
@click.option("--steps", default=20, show_default=True, help="Steps of AlexNet with Adam.")
@click.option("--folder", default="", help="Where archives and cache go, for the time being.")
@click.option("--measure", "measured", default="", hidden=True)
def main(pictures: tuple[int, ...], steps: int, folder: str, measured: str) -> None:
    """Print one JSON line for each number of pictures."""
    if measured:
        print(json.dumps(measure(measured, steps)))
        return
    from alexnet_mlflow.stages import git_commit

    for count in pictures:
        with tempfile.TemporaryDirectory(dir=folder or None) as place:
            archive = Path(place) / "generated.zip"
            generate(archive, count)
            words = [sys.executable, __file__, f"--measure={archive}", f"--steps={steps}"]
            environment = {**os.environ, "ALEXNET_CACHE": f"{place}/cache"}
            done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
        found |= {"benchmark": "scale", "commit": git_commit(), "archive": "zip of JPEG, 32x32"}
        found |= {"cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
