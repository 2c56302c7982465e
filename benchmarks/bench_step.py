"""How fast `fit` trains, against what the machine can do and against the report's way.

    python benchmarks/bench_step.py --device cpu --rounds 5

One JSON line: images/s of `fit` at each batch size and optimizer, alternated in one process with
(a) SGEMM: the matrix rate of this machine at this moment,
(b) the same model on one fixed batch: no gather, no augmentation, no sums,
(c) the report's way: PIL pictures through torchvision transforms in a DataLoader, an optimizer
    that is not fused, with each of the worker counts.
Ratios are taken within a round and their median is given, since machines drift. Every run is in
the line. Pictures are noise: speed does not depend on what they show.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torchvision
from PIL import Image
from torch.nn import functional
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.augment import IMAGENET_MEAN, IMAGENET_STD, normalise, to_pixels
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.malloc import keep_freed_memory
from alexnet_mlflow.model import AlexNet, build, layer_table
from alexnet_mlflow.stages import git_commit
from alexnet_mlflow.train import fit, make_optimizer, train_step

CLASSES = 10
STEPS = 12  # of each measured pass
MATRIX = 1024
RATES = {"sgd": 0.01, "adam": 0.001}


class Pictures(torch.utils.data.Dataset):
    """The report's data set: PIL pictures and its transforms, one picture at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = [Image.fromarray(picture.transpose(1, 2, 0)) for picture in images]
        self.labels = labels
        self.transform = transforms.Compose([
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ColorJitter(brightness=2),
            transforms.Resize((32, 32)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[row]), int(self.labels[row])


def config_of(optimizer: str, batch: int) -> TrainConfig:
    return TrainConfig(
        optimizer=optimizer, lr=RATES[optimizer], weight_decay=1e-4, momentum=0.9,
        batch_size=batch, epochs=1, recipe="report", seed=0,
    )


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return images, noise.integers(0, CLASSES, count)


def noise(count: int) -> Splits:
    """Such pictures to train on, and one of each class to validate on."""
    images, labels = pictures(count)
    ids = np.arange(count).astype(str)
    train = Split("train", images, labels, ids, ids)
    few = slice(CLASSES)
    val = Split("val", images[few], labels[few], ids[few], ids[few])
    return Splits("noise", "noise", tuple("0123456789"), train, val, "", "", {}, 0)


def finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    finished(device)
    started = time.perf_counter()
    work()
    finished(device)
    return time.perf_counter() - started


def sgemm_gflops(device: torch.device) -> float:
    one = torch.randn(MATRIX, MATRIX, device=device)
    times = 20 if device.type == "cpu" else 2000
    work = lambda: [one @ one for _ in range(times)]  # noqa: E731
    work()
    return times * 2 * MATRIX**3 / seconds_of(work, device) / 1e9


def ours(optimizer: str, batch: int, device: torch.device) -> float:
    """images/s of one epoch of `fit`, after one that warms up."""
    config = config_of(optimizer, batch)
    longer = TrainConfig(**{**vars(config), "epochs": 2})
    results = fit(build(CLASSES, 0), noise(batch * STEPS), longer, device)
    return [result.images_per_second for result in results][1]


def fixed(optimizer: str, batch: int, device: torch.device) -> float:
    """images/s of the same step on one batch that lies ready."""
    images, labels = pictures(batch)
    model = build(CLASSES, 0).to(device).to(memory_format=torch.channels_last).train()
    step = make_optimizer(model, config_of(optimizer, batch))
    ready = normalise(to_pixels(torch.from_numpy(images).to(device)))
    truth = torch.from_numpy(labels).to(device)
    work = lambda: [train_step(model, step, ready, truth) for _ in range(STEPS)]  # noqa: E731
    work()
    return batch * STEPS / seconds_of(work, device)


def reports(optimizer: str, batch: int, device: torch.device, workers: int) -> float:
    """images/s of the report's loop over one epoch, after a pass that starts the workers."""
    data = Pictures(*pictures(batch * STEPS))
    loader = torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = build(CLASSES, 0).to(device).train()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    named = {"momentum": 0.9} if optimizer == "sgd" else {}
    step = kind(model.parameters(), lr=RATES[optimizer], weight_decay=1e-4, fused=False, **named)

    def epoch() -> float:
        total = 0.0
        for batch_pictures, batch_labels in loader:
            inputs, truth = batch_pictures.to(device), batch_labels.to(device)
            step.zero_grad()
            logits = model(inputs)
            loss = functional.cross_entropy(logits, truth)
            loss.backward()
            step.step()
            total += loss.item() + (logits.argmax(1) == truth).float().mean().item()
        return total

    epoch()
    return len(data) / seconds_of(epoch, device)


def flop_per_image(model: AlexNet) -> float:
    """Forward, and backward for twice that: six operations a multiply-add."""
    return 6.0 * sum(layer.multiply_adds for layer in layer_table(model))


def row_of(
    runs: list[dict[str, float]], batch: int, optimizer: str, flop: float
) -> dict[str, object]:
    """The medians of a batch size and optimizer, with every run."""

    def ratio(of: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(of(run) for run in runs), 3)

    ways = [name for name in runs[0] if name.startswith("report_")]
    return {
        "batch": batch,
        "optimizer": optimizer,
        "fit_images_per_second": round(statistics.median(run["fit"] for run in runs), 1),
        "of_sgemm": ratio(lambda run: run["fit"] * flop / 1e9 / run["sgemm_gflops"]),
        "of_fixed_batch": ratio(lambda run: run["fit"] / run["fixed"]),
        "over_report_best_workers": ratio(lambda run: run["fit"] / max(run[way] for way in ways)),
        "over_report_no_workers": ratio(lambda run: run["fit"] / run["report_0_workers"]),
        "runs": [{name: round(value, 1) for name, value in run.items()} for run in runs],
    }


@click.command()
@click.option("--device", "device_name", default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(32, 64), show_default=True)
@click.option("--workers", multiple=True, type=int, default=(0, 1, 2), show_default=True)
def main(
    device_name: str, rounds: int, batches: tuple[int, ...], workers: tuple[int, ...]
) -> None:
    """Measure and print one JSON line."""
    device = torch.device(device_name)
    flop = flop_per_image(build(CLASSES, 0))
    rows = []
    for batch in batches:
        for optimizer in RATES:
            runs = []
            for number in range(rounds):
                keep_freed_memory()
                run = {"sgemm_gflops": sgemm_gflops(device)}
                run["fit"] = ours(optimizer, batch, device)
                run["fixed"] = fixed(optimizer, batch, device)
                keep_freed_memory(False)  # the report left the allocator alone
                for count in workers:
                    run[f"report_{count}_workers"] = reports(optimizer, batch, device, count)
                runs.append(run)
                click.echo(f"batch {batch} {optimizer} round {number + 1}: {run}", err=True)
            rows.append(row_of(runs, batch, optimizer, flop))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    click.echo(json.dumps({
        "benchmark": "bench_step",
        "command": "python benchmarks/bench_step.py " + " ".join(sys.argv[1:]),
        "commit": git_commit(),
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "mflop_per_image": round(flop / 1e6, 1),
        "rows": rows,
    }))


if __name__ == "__main__":
    main()
