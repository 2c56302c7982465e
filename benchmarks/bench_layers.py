"""What each layer takes, forward and backward, in either memory format, and by ours and torch's.

    python benchmarks/bench_layers.py --device cpu --batch 32

A table and one JSON line: ms of each convolution, pooling and fully connected layer alone, as a
training step calls it (in bf16 where `fit` multiplies in it), with what comes in, the weights and
the slopes contiguous or channels_last; on a CPU also our own layers (winograd.py, linear.py), whose
pictures are channels_last. All in turn, --rounds times; each number is the median of --calls.
Ratios, within a round: contiguous over channels_last, and torch's over ours, in the format that
`fit` uses.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import click
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow.device import compute_in, pick_precision
from alexnet_mlflow.malloc import keep_freed_memory
from alexnet_mlflow.model import PICTURE, build
from benchmarks.bench_step import CLASSES, of_torch, seconds_of
from benchmarks.record import shown, spread, told

TIMED = (nn.Conv2d, nn.MaxPool2d, nn.Linear)


def inputs(net: nn.Module, batch: int) -> dict[str, Tensor]:
    """What comes into each layer that is timed, by the layer's name."""
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, given, name=name: found.update({name: given[0].detach().clone()})
        )
        for name, layer in net.named_modules() if isinstance(layer, TIMED)
    ]
    with torch.no_grad():
        net(torch.randn(batch, *PICTURE))
    for hook in hooks:
        hook.remove()
    return found


def milliseconds(
    layer: nn.Module, given: Tensor, first: bool, device: torch.device, form: torch.memory_format,
    calls: int,
) -> float:
    """Median of so many calls, forward and backward; of the first layer no slope of its input."""
    form = form if given.dim() == 4 else torch.contiguous_format
    layer.to(device).to(memory_format=form)
    given = given.to(device).contiguous(memory_format=form).requires_grad_(not first)
    low = pick_precision("auto", device) == "bf16"

    def once() -> None:
        layer.zero_grad(set_to_none=True)
        given.grad = None
        with torch.autocast(device.type, torch.bfloat16, low, cache_enabled=False):
            result = layer(given)
        result.backward(slope)

    with torch.autocast(device.type, torch.bfloat16, low, cache_enabled=False):
        slope = torch.ones_like(layer(given))
    once()
    return 1000 * statistics.median(seconds_of(once, device) for _ in range(calls))


def round_of(batch: int, device: torch.device, calls: int) -> dict[str, dict[str, float]]:
    """ms of each layer by each way."""
    torchs, ours = of_torch().train(), build(CLASSES, 0).train()
    found, given = {}, inputs(torchs, batch)
    for name, value in given.items():
        layer, own = torchs.get_submodule(name), ours.get_submodule(name)
        rest, last = (name == next(iter(given)), device), torch.channels_last
        row = {"channels_last": milliseconds(layer, value, *rest, last, calls)}
        if value.dim() == 4:
            row["contiguous"] = milliseconds(layer, value, *rest, torch.contiguous_format, calls)
        if device.type == "cpu" and type(own) is not type(layer):
            row["ours"] = milliseconds(own, value, *rest, last, calls)
        found[name] = {way: round(ms, 3) for way, ms in row.items()}
    return found


def ratios_of(rounds: list[dict[str, dict[str, float]]]) -> dict[str, list[float]]:
    """More is better: of the format, and of our own layers."""
    ratios = {}
    for name, first in rounds[0].items():
        for way, over, under in (("channels_last_over_contiguous", "contiguous", "channels_last"),
                                 ("ours_over_torchs", "channels_last", "ours")):
            if {over, under} <= first.keys():
                ratios[f"{name} {way}"] = [one[name][over] / one[name][under] for one in rounds]
    return ratios


@click.command()
@click.option("--device", "device_name", default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=[32, 64], show_default=True)
@click.option("--calls", default=9, show_default=True)
def main(device_name: str, rounds: int, batches: tuple[int, ...], calls: int) -> None:
    """Measure and print a table and one JSON line."""
    device, ratios, runs = torch.device(device_name), dict[str, list[float]](), list[object]()
    keep_freed_memory()
    compute_in(pick_precision("auto", device), deterministic=False)
    for batch in batches:
        found = []
        for number in range(rounds):
            found.append(round_of(batch, device, calls))
            click.echo(f"batch {batch} round {number + 1}: {found[-1]}", err=True)
        runs += [{"batch": batch, "ms": one} for one in found]
        for name, values in ratios_of(found).items():
            ratios[f"{name}, batch {batch}"] = values
            click.echo(shown(f"{name}, batch {batch}", spread(values)))
    told(device=device_name, ratios=ratios, runs=runs)


if __name__ == "__main__":
    main()
