"""The network is the report's: its size, its arithmetic, its start, and its served form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow import model
from alexnet_mlflow.augment import normalise
from alexnet_mlflow.model import (
    AlexNet,
    Connected,
    Convolution,
    Layer,
    Servable,
    build,
    layer_table,
    parameter_count,
)


@pytest.fixture(scope="module")
def network() -> AlexNet:
    return build(10, seed=0)


@pytest.fixture(scope="module")
def table(network: AlexNet) -> list[Layer]:
    return layer_table(network)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_23_million_parameters(network: AlexNet) -> None:
    assert parameter_count(network) == 23_272_266


def test_the_table_adds_up_to_the_network(network: AlexNet, table: list[Layer]) -> None:
    assert sum(layer.parameters for layer in table) == parameter_count(network)
    assert len(table) == len(network.features) + len(network.classifier)


def test_63_million_multiply_adds(table: list[Layer]) -> None:
    work = {layer.name: layer.multiply_adds for layer in table if layer.multiply_adds}
    assert work == {
        "features.0": 16 * 16 * 3 * 64 * 9,
        "features.3": 8 * 8 * 64 * 192 * 9,
        "features.6": 4 * 4 * 192 * 384 * 9,
        "features.8": 4 * 4 * 384 * 256 * 9,
        "features.10": 4 * 4 * 256 * 256 * 9,
        "classifier.1": 1024 * 4096,
        "classifier.4": 4096 * 4096,
        "classifier.6": 4096 * 10,
    }
    assert round(sum(work.values()) / 1e6, 1) == 62.7


def test_fully_connected_layers_hold_nine_tenths_and_do_a_third(table: list[Layer]) -> None:
    full = [layer for layer in table if layer.kind == "Linear"]
    weights = sum(layer.parameters for layer in full) / sum(layer.parameters for layer in table)
    work = sum(layer.multiply_adds for layer in full) / sum(layer.multiply_adds for layer in table)
    assert weights == pytest.approx(0.90, abs=0.01)
    assert work == pytest.approx(1 / 3, abs=0.01)


def test_shapes_on_the_way(table: list[Layer]) -> None:
    shapes = {layer.name: layer.shape for layer in table}
    assert shapes["features.12"] == (256, 2, 2)
    assert shapes["classifier.0"] == (1024,)
    assert shapes["classifier.6"] == (10,)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_logit_a_class(classes: int, pixels: Tensor) -> None:
    assert build(classes, seed=0)(pixels).shape == (len(pixels), classes)


def test_the_seed_decides_the_weights(network: AlexNet) -> None:
    again, other = build(10, seed=0), build(10, seed=1)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(network.classifier[6].weight, other.classifier[6].weight)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build(2, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_what_is_asked_for(network: AlexNet) -> None:
    def rates(model: AlexNet) -> list[float]:
        return [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]

    assert rates(network) == [0.5, 0.5]
    assert rates(build(10, seed=0, dropout=0.0)) == [0.0, 0.0]


def test_served_it_answers_the_probabilities_of_the_network(
    network: AlexNet, pixels: Tensor
) -> None:
    served = Servable(network).eval()
    with torch.inference_mode():
        probabilities = served(pixels)
        logits = network(normalise(pixels))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(pixels)))
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities, logits.softmax(dim=1), rtol=0, atol=1e-7)
    assert not torch.allclose(probabilities, network(pixels).softmax(dim=1), rtol=0, atol=1e-7)


def test_served_it_carries_its_preprocessing(network: AlexNet) -> None:
    assert {"mean", "std"} <= Servable(network).state_dict().keys()


# How a training step multiplies on a CPU


def test_a_training_step_multiplies_its_own_way_and_everything_else_torchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores, what is exported, and bfloat16 are torch's own."""
    calls: list[str] = []

    def convolved(*three: Tensor) -> Tensor:
        calls.append("convolved")
        return functional.conv2d(*three, padding=1)

    def connected(*three: Tensor) -> Tensor:
        calls.append("connected")
        return functional.linear(*three)

    monkeypatch.setattr(model.winograd, "convolved", convolved)
    monkeypatch.setattr(model.linear, "connected", connected)
    net, pictures = build(3, 0), torch.rand(2, 3, 32, 32)
    net(pictures)
    assert calls == ["convolved"] * 4 + ["connected"] * 2
    with torch.autocast("cpu", torch.bfloat16):
        net(pictures)
    net.eval()(pictures)
    assert len(calls) == 6


def test_sizes_that_it_cannot_cut_are_torchs() -> None:
    odd = Convolution(2, 3)(torch.rand(2, 2, 5, 4))
    narrow = Connected(5, 7)(torch.rand(2, 5))
    assert odd.shape == (2, 3, 5, 4) and narrow.shape == (2, 7)


def test_the_two_ways_agree_to_rounding() -> None:
    """A whole step: logits, and every weight's slope."""
    net, pictures = build(10, 0, dropout=0.0), torch.randn(8, 3, 32, 32)
    labels = torch.arange(8)
    found = []
    for training in (True, False):
        net.train(training).zero_grad()
        logits = net(pictures)
        functional.cross_entropy(logits, labels).backward()
        found.append([logits.detach(), *(weight.grad for weight in net.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    ("ours", "plain"),
    [(lambda: Convolution(4, 6), lambda: nn.Conv2d(4, 6, kernel_size=3, padding=1)),
     (lambda: Connected(16, 32), lambda: nn.Linear(16, 32))],
)
def test_weights_are_those_of_torchs_layer(ours: Any, plain: Any) -> None:
    torch.manual_seed(0)
    mine = ours().state_dict()
    torch.manual_seed(0)
    theirs = plain().state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_table_names_layers_as_torch_does(table: list[Layer]) -> None:
    assert {layer.kind for layer in table} == {"Conv2d", "ReLU", "MaxPool2d", "Dropout", "Linear"}
