"""The report's AlexNet for 32x32 pictures, its layer table, and the form in which it is served.

Five convolutions, three fully connected layers, 23,272,266 parameters with ten classes. The
fully connected layers hold 90 % of the weights and do a third of the arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alexnet_mlflow import linear, winograd
from alexnet_mlflow.augment import IMAGENET_MEAN, IMAGENET_STD

PICTURE = (3, 32, 32)
FEATURES = 256 * 2 * 2
HIDDEN = 4096


class Convolution(nn.Conv2d):
    """3x3, stride 1, padding 1: its weights and results are nn.Conv2d's; in a training step on a
    CPU it multiplies less (winograd.py)."""

    def __init__(self, channels: int, results: int) -> None:
        super().__init__(channels, results, kernel_size=3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        if _by_torch(self, pictures) or any(size % 2 for size in pictures.shape[2:]):
            return super().forward(pictures)
        assert self.bias is not None
        return winograd.convolved(pictures, self.weight, self.bias)


class Connected(nn.Linear):
    """nn.Linear; in a training step on a CPU its products are cut otherwise (linear.py)."""

    def forward(self, values: Tensor) -> Tensor:
        if _by_torch(self, values) or any(size % linear.BLOCKS for size in self.weight.shape):
            return super().forward(values)
        return linear.connected(values, self.weight, self.bias)


def _by_torch(layer: nn.Conv2d | nn.Linear, given: Tensor) -> bool:
    """Anything but a training step on a CPU in one type: scores, exports, GPUs, bfloat16."""
    elsewhere = not layer.training or given.device.type != "cpu"
    return elsewhere or given.dtype != layer.weight.dtype or torch.is_autocast_enabled("cpu")


class AlexNet(nn.Module):
    """(N, 3, 32, 32) float32, normalised -> (N, classes) logits."""

    def __init__(self, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=2),
            Convolution(64, 192),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=2),
            Convolution(192, 384),
            nn.ReLU(inplace=True),
            Convolution(384, 256),
            nn.ReLU(inplace=True),
            Convolution(256, 256),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            Connected(FEATURES, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            Connected(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, classes),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(pictures).flatten(1))
        return logits


class Servable(nn.Module):
    """The network with its preprocessing: (N, 3, 32, 32) float32, 0..1 -> (N, classes), sum 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.softmax(self.network((pixels - self.mean) / self.std), dim=1)


class Layer(NamedTuple):
    """A row of the layer table; the shape is one picture's output, channels first."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def build(classes: int, seed: int, dropout: float = 0.5) -> AlexNet:
    """A freshly initialised network (PyTorch's own initialisation) on the CPU, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlexNet(classes, dropout)


def parameter_count(model: nn.Module) -> int:
    """How many numbers the optimizer may change."""
    return sum(weight.numel() for weight in model.parameters())


def _weights(layer: nn.Module) -> int:
    return layer.weight.numel() if isinstance(layer, nn.Conv2d | nn.Linear) else 0


def layer_table(model: AlexNet) -> list[Layer]:
    """A row for each layer: output shape, parameters and multiply-adds of one picture forward."""
    rows = []
    value = torch.zeros(1, *PICTURE)
    names: list[tuple[str, nn.Module]]
    names = [(f"features.{name}", layer) for name, layer in model.features.named_children()]
    names += [(f"classifier.{name}", layer) for name, layer in model.classifier.named_children()]
    with torch.no_grad():
        for name, layer in names:
            value = layer(value if name.startswith("features") else value.flatten(1))
            work = value[0, 0].numel() * _weights(layer)
            shape = tuple(value.shape[1:])
            [kind, *_] = (one for one in type(layer).__mro__ if one.__module__.startswith("torch"))
            rows.append(Layer(name, kind.__name__, shape, parameter_count(layer), work))
    return rows
