"""How fast `fit` trains, against what the machine can do and against the report's way.

    python benchmarks/bench_step.py --device cpu --rounds 5

A table and one JSON line: images/s of `fit` at each batch size and optimizer, alternated in one
process with
(a) SGEMM: the matrix rate of this machine at this moment; and the rate at which it copies a
    large tensor, bytes read and written, in GB/s of 1e9 bytes,
(b) the same model on one fixed batch: no gather, no augmentation, no sums; and `fit` with pictures,
    weights and maps contiguous instead of channels_last,
(c) the report's way: PIL pictures through torchvision transforms in a DataLoader, an optimizer
    that is not fused, with each of the worker counts,
(d) on a CPU: `fit` with torch's own layers (winograd.py, linear.py); a training a core, side by
    side, with one thread each, all of them together: what two trials on two cores take so, and what
    one after the other with all threads (`fit` itself); `fit` in a process of its own where freed
    memory is kept, and in one where glibc is left alone; with --compile, `fit` with torch's layers
    through torch.compile, which needs a C++ compiler, and the seconds of its first epoch,
(e) on CUDA: `fit` in fp32 and tf32, with --deterministic, with a step that is not captured, and as
    a trial of a search does, with a capture and a weight decay for all; a trial of few steps from
    its start on, with a capture of its own and with that for all.
On CUDA the matrix rate and the fixed batch have the precision of `fit`, bf16 where the GPU has it,
and the report's loop has torch's own settings: fp32, but TF32 in cuDNN's convolutions. It gets
20,000 pictures a pass there, or eight batches a worker, being slow. The share of the matrix rate
counts the products of the direct convolution, also where fewer are done.

`of_copy_bandwidth` is the least bytes of a step, over the step's time, over the rate of the copy:
near 1 where memory is what limits the step. The least are passes over all weights, 4 bytes each:
read forward, read backward; slopes written, and read by the update; weights read and written;
momentum read and written. That is 8 with SGD, and 10 with Adam, which keeps two numbers a weight.
Pictures, maps between layers and the casts to bf16 are not in it, nor caches that spare a pass.
Pictures are noise: speed does not depend on what they show.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow import train
from alexnet_mlflow.augment import IMAGENET_MEAN, IMAGENET_STD, normalise, to_pixels
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.device import compute_in, pick_device, pick_precision
from alexnet_mlflow.graph import Captured
from alexnet_mlflow.malloc import keep_freed_memory
from alexnet_mlflow.model import (
    AlexNet,
    Connected,
    Convolution,
    build,
    layer_table,
    parameter_count,
)
from alexnet_mlflow.optimizers import make_optimizer
from alexnet_mlflow.train import Shared, fit, train_step
from benchmarks.record import shown, spread, told

CLASSES = 10
# Of each measured pass, and at which batch sizes, where nothing else is asked for.
STEPS = {"cpu": 12, "cuda": 500}
BATCHES = {"cpu": (32, 64), "cuda": (32, 128, 512, 1024)}
# Worker counts of the report's loop, as far as there are cores; the CPU's stand in its records.
WORKERS = {"cpu": (0, 1, 2), "cuda": (0, 2, 4, 8, 16)}
REPORT_PICTURES = 20_000  # a pass of the report's loop at most, on CUDA
MATRIX = {"cpu": 1024, "cuda": 8192}  # rows: on CUDA many, so that it computes and not launches
COPIED_MIB = {"cpu": 256, "cuda": 1024}  # beyond any cache
FEW = 44  # steps of a trial: an epoch of 1,408 pictures in batches of 32
MEMORY = ("kept", "glibc")
RATES = {"sgd": 0.01, "adam": 0.001}
PASSES = {"sgd": 8, "adam": 10}  # the least that a step makes over the weights: see above


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


def config_of(optimizer: str, batch: int, **changes: object) -> TrainConfig:
    config = TrainConfig(
        optimizer=optimizer, lr=RATES[optimizer], weight_decay=1e-4, momentum=0.9,
        batch_size=batch, epochs=1, recipe="report", seed=0,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


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
    return Splits(
        name="noise", title="noise", classes=tuple("0123456789"), source="", digest="", counts={},
        skipped=0, train=train, val=val,
    )


def finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    finished(device)
    started = time.perf_counter()
    work()
    finished(device)
    return time.perf_counter() - started


def gemm_gflops(device: torch.device, precision: str) -> float:
    """Products of square matrices, in bf16 where `fit` multiplies in it."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, times = MATRIX[device.type], 20
    one = torch.randn(rows, rows, device=device, dtype=kind)
    other = torch.empty_like(one)
    work = lambda: [torch.mm(one, one, out=other) for _ in range(times)]  # noqa: E731
    work()
    return times * 2 * rows**3 / seconds_of(work, device) / 1e9


def copy_gbytes(device: torch.device, mib: int | None = None) -> float:
    """GB/s, read and written, of a large tensor copied into another."""
    size = (mib or COPIED_MIB[device.type]) << 20
    one = torch.ones(size, dtype=torch.uint8, device=device)
    other = torch.zeros_like(one)
    times = 5 if device.type == "cpu" else 200
    work = lambda: [other.copy_(one) for _ in range(times)]  # noqa: E731
    work()
    return times * 2 * size / seconds_of(work, device) / 1e9


def least_gbytes(optimizer: str, model: AlexNet) -> float:
    """GB that a step moves at least, whatever its batch."""
    return PASSES[optimizer] * 4 * parameter_count(model) / 1e9


def as_torch_comes() -> None:
    """The settings of a process that has changed none, as the report's."""
    compute_in("fp32", deterministic=False)
    torch.backends.cudnn.allow_tf32 = True  # torch's own default; of other products it is False


def of_torch() -> AlexNet:
    """The same network of torch's own layers."""
    net = build(CLASSES, 0)
    for layer in net.modules():
        for ours, theirs in ((Convolution, nn.Conv2d), (Connected, nn.Linear)):
            if isinstance(layer, ours):
                layer.__class__ = theirs  # the same weights
    return net


def ours(
    optimizer: str, batch: int, device: torch.device, steps: int, net: AlexNet | None = None,
    **changes: object,
) -> float:
    """images/s of one epoch of `fit`, after one that warms up."""
    config = config_of(optimizer, batch, epochs=2, **changes)
    results = fit(net or build(CLASSES, 0), noise(batch * steps), config, device)
    return [result.images_per_second for result in results][1]


def compiled(optimizer: str, batch: int, device: torch.device, steps: int) -> dict[str, float]:
    """images/s of `fit` through torch.compile, and how long its first epoch took to compile."""
    torch.compiler.reset()
    net = torch.compile(of_torch())
    data, config = noise(batch * steps), config_of(optimizer, batch, epochs=2)
    first, second = (result for result in fit(net, data, config, device))
    return {"compiled": second.images_per_second,
            "compile_seconds": first.epoch_seconds - second.epoch_seconds}


def as_trials(optimizer: str, batch: int, device: torch.device, steps: int) -> dict[str, float]:
    """images/s as a search's trials train, and trials/s of FEW steps, each with what it starts
    with, with a capture each and with one for all."""
    data, few, shared = noise(batch * steps), noise(batch * FEW), Shared()
    net, one = build(CLASSES, 0), config_of(optimizer, batch)
    short = Shared()
    ways = {"trials_alone": Shared, "trials_shared": lambda: short}
    list(fit(net, data, one, device, shared=shared))  # warms up
    [whole] = fit(net, data, one, device, shared=shared)
    found = {"as_trial": whole.images_per_second}
    for name, way in ways.items():
        trial = lambda way=way: list(fit(net, few, one, device, shared=way()))  # noqa: E731
        trial()
        found[name] = 1 / seconds_of(trial, device)
    return found


def one_of_a_pair(optimizer: str, batch: int, steps: int) -> None:
    """In a process of its own: warm up, say so, wait for the word, train an epoch, say so."""
    config = config_of(optimizer, batch, epochs=2)
    for _ in fit(build(CLASSES, 0), noise(batch * steps), config, torch.device("cpu")):
        print("done", flush=True)
        sys.stdin.readline()


def side_by_side(optimizer: str, batch: int, steps: int) -> float:
    """images/s of a training a core, with one thread each, all of them together.

    Their validation is in it, of ten pictures: about a hundredth.
    """
    cores = len(os.sched_getaffinity(0))
    command = [sys.executable, __file__, f"--trial={optimizer}", f"--batch={batch}",
               f"--steps={steps}"]
    running = [
        subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(cores)
    ]

    def every(say: str) -> None:
        """Wait until each has done its epoch, then give the word."""
        for one in running:
            assert one.stdout is not None and one.stdout.readline() == "done\n", "a trial failed"
        for one in running:
            assert one.stdin is not None
            one.stdin.write(say)
            one.stdin.flush()

    try:
        every("go\n")
        started = time.perf_counter()
        every("end\n")
        return cores * batch * steps / (time.perf_counter() - started)
    finally:
        for one in running:
            one.communicate()


def eagerly(optimizer: str, batch: int, device: torch.device, steps: int) -> float:
    """images/s of `fit` without a capture."""
    with patch.object(Captured, "__call__", lambda captured, work: work()):
        return ours(optimizer, batch, device, steps)


def contiguous(optimizer: str, batch: int, device: torch.device, steps: int) -> float:
    """images/s of `fit` in memory format contiguous: pictures, weights and maps."""
    with patch.object(torch, "channels_last", torch.contiguous_format):
        return ours(optimizer, batch, device, steps)


def in_its_own(optimizer: str, batch: int, steps: int, memory: str) -> float:
    """images/s of `fit` in a process of its own, where freed memory is kept (`kept`) or glibc's
    business (`glibc`). In one that has kept some, glibc would go on with that.
    """
    command = [sys.executable, __file__, f"--trial={optimizer}", f"--batch={batch}",
               f"--steps={steps}", f"--memory={memory}"]
    return float(subprocess.run(command, text=True, check=True, capture_output=True).stdout)


def of_its_own(optimizer: str, batch: int, steps: int, memory: str) -> float:
    """In that process."""
    keep = train.keep_freed_memory if memory == "kept" else lambda: False
    with patch.object(train, "keep_freed_memory", keep):
        return ours(optimizer, batch, torch.device("cpu"), steps)


def fixed(
    optimizer: str, batch: int, device: torch.device, steps: int, precision: str
) -> float:
    """images/s of the same step, captured too, on one batch that lies ready."""
    images, labels = pictures(batch)
    model = build(CLASSES, 0).to(device).to(memory_format=torch.channels_last).train()
    step = make_optimizer(model, config_of(optimizer, batch))
    ready = normalise(to_pixels(torch.from_numpy(images).to(device)))
    truth = torch.from_numpy(labels).to(device)
    captured = Captured(torch.Generator(device))

    def once() -> None:
        train_step(model, step, ready, truth, precision=precision)

    work = lambda: [captured(once) for _ in range(steps)]  # noqa: E731
    work()
    return batch * steps / seconds_of(work, device)


def steps_of_report(batch: int, device: torch.device, steps: int, workers: int) -> int:
    """Batches of a pass of the report's loop: on CUDA fewer, but eight a worker."""
    least = 8 * max(workers, 1)
    return min(steps, max(least, REPORT_PICTURES // batch)) if device.type == "cuda" else steps


def workers_on(device: torch.device) -> tuple[int, ...]:
    """The worker counts, where nothing else is asked for."""
    cores = len(os.sched_getaffinity(0))
    return tuple(count for count in WORKERS[device.type] if device.type == "cpu" or count <= cores)


def reports(
    optimizer: str, batch: int, device: torch.device, steps: int, workers: int
) -> float:
    """images/s of the report's loop over one epoch, after a pass that starts the workers."""
    data = Pictures(*pictures(batch * steps))
    loader = torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = of_torch().to(device).train()
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


def ratios_of(
    runs: list[dict[str, float]], flop: float, gbytes: float
) -> dict[str, list[float]]:
    """A batch size and optimizer: what each round says of `fit`. FLOP and least GB an image."""
    ways = [name for name in runs[0] if name.startswith("report_")]
    tried = "_".join(way.split("_")[1] for way in ways)
    ratios = {
        "of_sgemm": [run["fit"] * flop / 1e9 / run["sgemm_gflops"] for run in runs],
        "of_copy_bandwidth": [run["fit"] * gbytes / run["copy_gbytes"] for run in runs],
        "of_fixed_batch": [run["fit"] / run["fixed"] for run in runs],
        f"over_report_best_of_{tried}_workers": [
            run["fit"] / max(run[way] for way in ways) for run in runs
        ],
    }
    if "report_0_workers" in ways:
        ratios["over_report_no_workers"] = [run["fit"] / run["report_0_workers"] for run in runs]
    if "as_trial" in runs[0]:
        ratios["trials_shared_over_alone"] = [
            run["trials_shared"] / run["trials_alone"] for run in runs
        ]
    for other in ("fp32", "tf32", "deterministic", "eager", "as_trial"):
        if other in runs[0]:
            ratios[f"fit_over_{other}"] = [run["fit"] / run[other] for run in runs]
    if "own_glibc" in runs[0]:
        ratios["kept_memory_over_glibc"] = [run["own_kept"] / run["own_glibc"] for run in runs]
    for other in ("torchs_layers", "contiguous", "compiled"):
        if other in runs[0]:
            ratios[f"over_{other}"] = [run["fit"] / run[other] for run in runs]
    if "side_by_side" in runs[0]:
        ratios["side_by_side_over_one_after_other"] = [
            run["side_by_side"] / run["fit"] for run in runs
        ]
    return ratios


def round_of(
    optimizer: str, batch: int, device: torch.device, steps: int, workers: tuple[int, ...],
    compiles: bool,
) -> dict[str, float]:
    """images/s of every rival, one after the other; SGEMM in GFLOP/s, the copy in GB/s."""
    copied = copy_gbytes(device)  # first, so that no rival's memory is what the copy has freed
    keep_freed_memory()
    precision, what = pick_precision("auto", device), (optimizer, batch, device, steps)
    compute_in(precision, deterministic=False)
    run = {"sgemm_gflops": gemm_gflops(device, precision), "copy_gbytes": copied}
    run["fit"] = ours(*what)
    run["fixed"] = fixed(*what, precision)
    run["contiguous"] = contiguous(*what)
    if device.type == "cpu":
        run["torchs_layers"] = ours(*what, net=of_torch())
        for memory in MEMORY:
            run[f"own_{memory}"] = in_its_own(optimizer, batch, steps, memory)
    if compiles:
        run |= compiled(*what)
    if device.type == "cuda":
        run |= {name: ours(*what, precision=name) for name in ("fp32", "tf32")}
        run["eager"] = eagerly(*what)
        run |= as_trials(*what)
        run["deterministic"] = ours(*what, deterministic=True)
    as_torch_comes()
    keep_freed_memory(False)  # the report left the allocator alone
    for count in workers:
        fewer = steps_of_report(batch, device, steps, count)
        run[f"report_{count}_workers"] = reports(optimizer, batch, device, fewer, count)
    if device.type == "cpu":
        run["side_by_side"] = side_by_side(optimizer, batch, steps)
    return {name: round(value, 1) for name, value in run.items()}


@click.command()
@click.option("--device", "device_name", default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int,
              help="[default: 32 and 64; on CUDA 32, 128, 512 and 1024]")
@click.option("--workers", multiple=True, type=int,
              help="[default: 0, 1 and 2; on CUDA 0, 2, 4, 8 and 16, as far as there are cores]")
@click.option("--steps", default=0, help="Of each measured pass.  [default: 12; on CUDA 500]")
@click.option("--compile", "compiles", is_flag=True, help="torch.compile as a rival.")
@click.option("--trial", default="", hidden=True)
@click.option("--memory", type=click.Choice(MEMORY), hidden=True)
def main(
    device_name: str, rounds: int, batches: tuple[int, ...], workers: tuple[int, ...], steps: int,
    compiles: bool, trial: str, memory: str | None,
) -> None:
    """Measure and print a table and one JSON line."""
    if memory:
        print(of_its_own(trial, batches[0], steps, memory))
        return
    if trial:
        one_of_a_pair(trial, batches[0], steps)
        return
    device = pick_device(device_name, deterministic=device_name == "cuda")  # for that one rival
    steps, batches = steps or STEPS[device.type], batches or BATCHES[device.type]
    workers, net = workers or workers_on(device), build(CLASSES, 0)
    flop = flop_per_image(net)
    ratios, runs = dict[str, list[float]](), list[dict[str, object]]()
    for batch in batches:
        for optimizer in RATES:
            found = []
            for number in range(rounds):
                found.append(round_of(optimizer, batch, device, steps, workers, compiles))
                click.echo(f"batch {batch} {optimizer} round {number + 1}: {found[-1]}", err=True)
            rates = spread([run["fit"] for run in found], 1)
            click.echo(shown(f"fit, batch {batch}, {optimizer}", rates, "/s"))
            least = least_gbytes(optimizer, net) / batch
            for name, values in ratios_of(found, flop, least).items():
                ratios[f"{name}, batch {batch}, {optimizer}"] = values
                click.echo(shown(f"  {name}", spread(values)))
            runs.extend({"batch": batch, "optimizer": optimizer, **run} for run in found)
    told(device=device_name, ratios=ratios, mflop_per_image=round(flop / 1e6, 1), runs=runs)


if __name__ == "__main__":
    main()
