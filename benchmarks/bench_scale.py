"""How preparing, training and searching grow: with the pictures, and with the trials.

    python benchmarks/bench_scale.py --pictures 10000 --pictures 100000 --pictures 1000000
    python benchmarks/bench_scale.py --trials 20 --trials 100 --trials 500

A table and one JSON line; each number in a process of its own, which this one watches: its largest
resident memory, the largest of its children together, and its open files.
Pictures: a zip of generated JPEGs of 32x32 in ten classes (made first, not timed) is loaded
(decoded, kept in the cache, divided), loaded again (from the cache), and trained on: `--steps`
steps of AlexNet with Adam, so that its memory counts, then one whole epoch of `fit` and its
validation with a net of one layer, so that every picture is used. Part of the memory is mapped from
files (told): the kernel takes that back when others need it. --folder says where the files go.
Trials: `search` on 24 faces, one epoch a trial, exhaustive: what is timed is what surrounds
training. A tenth of the trials, the first and the last, by the times at which their runs began.
All numbers in turn, --rounds times. Ratios, within a round: what the smallest number costs a
picture or trial, over what this one costs: 1 is linear.
"""

from __future__ import annotations

import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.record import shown, spread, told

ROOT = Path(__file__).resolve().parent.parent

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


def memory_mib(key: str, pid: int | str = "self") -> float:
    """A line of the kernel's account of a process: VmRSS, VmHWM (its peak), RssFile; 0 if gone."""
    with suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def below(pid: int) -> set[int]:
    """The processes that this one has started, and theirs."""
    found = set[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child} | below(child)
    return found


def watched(words: list[str], folder: str, environment: dict[str, str]) -> dict[str, object]:
    """Run a process; its last line, wall seconds, and the most that it held at any time."""
    most = {"peak_mib": 0.0, "children_peak_mib": 0.0, "open_files": 0.0}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        running = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=out, stderr=said
        )
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.1):
                children = sum(memory_mib("VmRSS", one) for one in below(running.pid))
                now = {"peak_mib": memory_mib("VmHWM", running.pid), "children_peak_mib": children}
                with suppress(OSError):
                    now["open_files"] = float(len(os.listdir(f"/proc/{running.pid}/fd")))
                for name, value in now.items():
                    most[name] = max(most[name], round(value, 1))

        looking = threading.Thread(target=look)
        looking.start()
        code = running.wait()
        ended.set()
        looking.join()
        seconds = time.perf_counter() - started
        out.seek(0)
        lines = out.read().strip().splitlines()
        if code not in (0, 1) or not lines:
            said.seek(0)
            raise click.ClickException(f"{' '.join(words)} failed: {said.read().strip()[-500:]}")
    return {**json.loads(lines[-1]), "wall_seconds": round(seconds, 2), **most}


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
    found: dict[str, float] = {"imports_peak_mib": memory_mib("VmHWM")}
    for name in ("prepare", "again"):
        started = time.perf_counter()
        data = load(config)
        found[f"{name}_seconds"] = time.perf_counter() - started
        found[f"{name}_peak_mib"] = memory_mib("VmHWM")
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
    found["alexnet_peak_mib"] = memory_mib("VmHWM")
    small = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, CLASSES))
    [whole] = fit(small, data, settings, device)
    found |= {"epoch_seconds": whole.epoch_seconds, "epoch_peak_mib": memory_mib("VmHWM")}
    found |= {"trained_on": count, "mapped_mib": memory_mib("RssFile") + memory_mib("RssShmem")}
    return {name: round(value, 3) for name, value in found.items()}


def of_pictures(count: int, steps: int, folder: str) -> dict[str, object]:
    """Load and train on so many pictures."""
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        archive = Path(place) / "generated.zip"
        generate(archive, count)
        words = [__file__, f"--measure={archive}", f"--steps={steps}"]
        found = watched(words, place, {**os.environ, "ALEXNET_CACHE": f"{place}/cache"})
    return {"of": "pictures", "count": count, **found}


def of_trials(count: int) -> dict[str, object]:
    """Search with so many trials of one short epoch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("MLFLOW_TRACKING_URI", "ALEXNET_STORAGE"):
        environment.pop(name, None)
    words = ["-m", "alexnet_mlflow", "search", "--device=cpu", "--limit=24", "--batch-size=8",
             f"--trials={count}", "--fine-trials=0", "--repeats=0", "--epochs=1", "--exhaustive",
             "--force"]
    with tempfile.TemporaryDirectory() as folder:
        found = watched(words, folder, environment)
        began = began_of(f"sqlite:///{folder}/mlflow.db", str(found["run_id"]))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    gaps = [after - before for before, after in zip(began, began[1:], strict=False)]
    few = max(1, len(gaps) // 10)
    kept = ("peak_mib", "children_peak_mib", "open_files", "wall_seconds", "training_seconds")
    return {
        "of": "trials", "count": count, **{name: found[name] for name in kept},
        "trial_seconds": round(statistics.median(gaps), 3),
        "first_tenth_seconds": round(statistics.median(gaps[:few]), 3),
        "last_tenth_seconds": round(statistics.median(gaps[-few:]), 3),
        "stores_mib": round(size / 2**20, 2),
    }


def began_of(store: str, parent: str) -> list[float]:
    """When a search's trials began, seconds, in order."""
    import mlflow

    client, token, found = mlflow.MlflowClient(store), "", list[float]()
    [experiment] = [client.get_run(parent).info.experiment_id]
    while token is not None:
        page = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token or None,
            max_results=1000,
        )
        found += [run.info.start_time / 1000 for run in page]
        token = page.token or None
    return sorted(found)


COSTS = {  # of one picture or trial, or of the process; more is worse
    "pictures": ("prepare_seconds", "again_seconds", "epoch_seconds", "epoch_peak_mib"),
    "trials": ("trial_seconds", "last_tenth_seconds", "peak_mib", "open_files"),
}
WHOLE = ("prepare_seconds", "again_seconds", "epoch_seconds")  # for all pictures together


def ratios_of(rows: list[dict[str, object]]) -> dict[str, float]:
    """Of one round: each number against the smallest one."""
    ratios = {}
    for kind, costs in COSTS.items():
        same = [row for row in rows if row["of"] == kind]
        for row in same[1:]:
            for cost in costs:
                each = [float(one[cost]) / (one["count"] if cost in WHOLE else 1)  # type: ignore
                        for one in (same[0], row)]
                name = f"{cost}, {same[0]['count']} over {row['count']} {kind}"
                ratios[name] = each[0] / each[1]
    return ratios


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--pictures", multiple=True, type=int, help="How many; may be given again.")
@click.option("--trials", multiple=True, type=int, help="How many; may be given again.")
@click.option("--steps", default=20, show_default=True, help="Steps of AlexNet with Adam.")
@click.option("--folder", default="", help="Where archives and cache go, for the time being.")
@click.option("--measure", "measured", default="", hidden=True)
def main(
    rounds: int, pictures: tuple[int, ...], trials: tuple[int, ...], steps: int, folder: str,
    measured: str,
) -> None:
    """Measure and print a table and one JSON line."""
    if measured:
        print(json.dumps(measure(measured, steps)))
        return
    if not (pictures or trials):
        raise click.UsageError("give --pictures or --trials, as often as there are numbers")
    works = [lambda count=count: of_pictures(count, steps, folder) for count in sorted(pictures)]
    works += [lambda count=count: of_trials(count) for count in sorted(trials)]
    runs, found = list[dict[str, object]](), list[dict[str, float]]()
    for number in range(rounds):
        rows = []
        for work in works:
            rows.append(work())
            told_of = "  ".join(f"{name} {value}" for name, value in rows[-1].items())
            click.echo(f"round {number + 1}  {told_of}")
        runs += rows
        found.append(ratios_of(rows))
    ratios = {name: [one[name] for one in found] for name in found[0]}
    for name, values in ratios.items():
        click.echo(shown(f"  {name}", spread(values)))
    told(ratios=ratios, archive="zip of JPEG, 32x32", runs=runs)


if __name__ == "__main__":
    main()
