"""The loop equals a plain one, repeats itself bit for bit, resumes, and stops where it diverges."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as torchvision

from alexnet_mlflow import checkpoint, train
from alexnet_mlflow.augment import IMAGENET_MEAN, IMAGENET_STD, draw
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Splits
from alexnet_mlflow.device import compute_in
from alexnet_mlflow.graph import Captured
from alexnet_mlflow.model import build
from alexnet_mlflow.optimizers import make_optimizer
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.resume import Progress
from alexnet_mlflow.runs import NullTracker
from alexnet_mlflow.score import score, score_probabilities
from alexnet_mlflow.stages import final
from alexnet_mlflow.train import EpochResult, Shared, fit, kept_weights, resident
from tests.shared_batches import split

CPU = torch.device("cpu")
CLASSES = 3
PICTURES = 72  # in batches of 32 the last is smaller

Network = Callable[..., nn.Module]

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA GPU on this machine"
)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.fixture(scope="module")
def data() -> Splits:
    return Splits(
        name="noise", title="Noise", classes=("red", "green", "blue"),
        train=split("train", PICTURES, 0), val=split("val", 31, 1),
        source="nowhere", digest="0" * 64, counts={}, skipped=0,
    )


@pytest.fixture(autouse=True)
def global_generator() -> Iterator[None]:
    """Training seeds the global generator: put it back for the other tests."""
    with torch.random.fork_rng(devices=[]):
        yield


def small(seed: int = 0) -> nn.Module:
    """One convolution, dropout and a linear layer: what takes time is in the loop."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Dropout(), nn.Linear(8 * 4 * 4, CLASSES),
        )


def alexnet(seed: int = 0) -> nn.Module:
    return build(CLASSES, seed)


def settings(**changes: Any) -> TrainConfig:
    values = {
        "optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-3, "momentum": 0.9, "batch_size": 32,
        "epochs": 2, "recipe": "report", "seed": 0,
    }
    return TrainConfig(**{**values, **changes})


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def trained(data: Splits, config: TrainConfig, network: Network = small) -> nn.Module:
    model = network()
    for _ in fit(model, data, config, CPU):
        pass
    return model


# The loop is the plain one


def augmented(image: Tensor, horizontal: bool, vertical: bool, brightness: float) -> Tensor:
    image = torchvision.horizontal_flip(image) if horizontal else image
    image = torchvision.vertical_flip(image) if vertical else image
    return torchvision.adjust_brightness(image.float() / 255, brightness)


def by_hand(model: nn.Module, data: Splits, config: TrainConfig) -> tuple[float, float]:
    """A plain PyTorch loop over the same draws; the last epoch's running loss and accuracy."""
    model.to(memory_format=torch.channels_last).train()
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum,
            weight_decay=config.weight_decay, fused=True,
        )
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    for _ in range(config.epochs):
        losses, right = [], 0
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), config.batch_size):
            rows = order[start : start + config.batch_size]
            choices = zip(*(part.tolist() for part in draw(len(rows), generator)), strict=True)
            pictures = torch.stack([
                augmented(images[row], *choice) for row, choice in zip(rows, choices, strict=True)
            ])
            pictures = torchvision.normalize(pictures, list(IMAGENET_MEAN), list(IMAGENET_STD))
            optimizer.zero_grad()
            logits = model(pictures.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[rows])
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(rows)
            right += int((logits.argmax(dim=1) == labels[rows]).sum())
    return float(np.mean(losses)), right / len(images)


@pytest.mark.parametrize(
    ("network", "optimizer", "lr", "epochs", "batch_size"),
    [(small, "sgd", 0.03, 2, 32), (small, "adam", 1e-3, 2, 32), (alexnet, "sgd", 0.01, 1, 48)],
)
def test_it_equals_a_plain_loop(
    data: Splits, network: Network, optimizer: str, lr: float, epochs: int, batch_size: int
) -> None:
    config = settings(optimizer=optimizer, lr=lr, epochs=epochs, batch_size=batch_size)
    model, plain = network(), network()
    *_, last = fit(model, data, config, CPU)
    loss, accuracy = by_hand(plain, data, config)
    assert equal(model, plain)
    assert not equal(model, network())
    assert last.train_loss == pytest.approx(loss, abs=1e-6)
    assert last.train_accuracy == pytest.approx(accuracy)


def test_validation_is_the_score_of_the_weights_after_the_epoch(data: Splits) -> None:
    model = small()
    for result in fit(model, data, settings(), CPU):
        scores = score(model, *resident(data.val, CPU))
        assert result.val_loss == scores.loss
        assert result.val_accuracy == scores.accuracy


# The same again


def test_the_seed_decides_everything(data: Splits) -> None:
    torch.manual_seed(1)
    first = trained(data, settings())
    torch.manual_seed(2)
    assert equal(first, trained(data, settings()))
    assert not equal(first, trained(data, settings(seed=1)))


def test_what_the_caller_does_between_two_results_changes_nothing(data: Splits) -> None:
    quiet, disturbed = small(), small()
    calm = list(fit(quiet, data, settings(epochs=3), CPU))
    noisy = []
    for result in fit(disturbed, data, settings(epochs=3), CPU):
        noisy.append(result)
        torch.manual_seed(99)
        torch.rand(1000)
    assert equal(quiet, disturbed)
    assert [item.val_loss for item in noisy] == [item.val_loss for item in calm]


def test_dropout_draws_from_the_seed(data: Splits) -> None:
    """Else the test above would pass without the random state."""
    model = small()
    results = fit(model, data, settings(epochs=1, recipe="plain", batch_size=PICTURES), CPU)
    first = next(results).train_loss
    other = small()
    other[4].p = 0.0
    second = next(fit(other, data, settings(epochs=1, recipe="plain", batch_size=PICTURES), CPU))
    assert first != second.train_loss


def test_the_pictures_are_left_as_they_were(data: Splits) -> None:
    before = data.train.digest, data.val.digest
    trained(data, settings())
    assert (data.train.digest, data.val.digest) == before


# Resuming


@pytest.mark.parametrize(
    ("network", "recipe", "optimizer", "epochs", "batch_size"),
    [
        (small, "report", "sgd", 3, 32), (small, "report", "adam", 3, 32),
        (alexnet, "report", "sgd", 2, 48), (small, "strong", "sgd", 3, 8),
        (small, "strong", "adam", 3, 8), (alexnet, "strong", "sgd", 2, 48),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    data: Splits, tmp_path: Path, network: Network, recipe: str, optimizer: str, epochs: int,
    batch_size: int,
) -> None:
    config = settings(
        optimizer=optimizer, recipe=recipe, lr=1e-3, epochs=epochs, batch_size=batch_size
    )
    whole = network()
    expected = list(fit(whole, data, config, CPU))

    path = checkpoint.path_of("run", tmp_path)
    checkpoint.save(path, next(fit(network(), data, config, CPU)).state())
    torch.manual_seed(123)
    resumed = network(seed=7)
    results = list(fit(resumed, data, config, CPU, resume=checkpoint.load(path)))

    assert [item.epoch for item in results] == [item.epoch for item in expected[1:]]
    assert equal(resumed, whole)
    found, state = results[-1].state(), expected[-1].state()
    assert found["step"] == state["step"]
    kept = zip(kept_weights(found).values(), kept_weights(state).values(), strict=True)
    assert all(torch.equal(one, other) for one, other in kept)
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        figures = [getattr(item, name) for item in results]
        assert figures == [getattr(item, name) for item in expected[1:]]


def test_a_state_counts_epochs_and_steps(data: Splits) -> None:
    states = [result.state() for result in fit(small(), data, settings(epochs=3), CPU)]
    assert [(state["epoch"], state["step"]) for state in states] == [(1, 3), (2, 6), (3, 9)]


def test_a_finished_training_has_nothing_to_resume(data: Splits) -> None:
    model = small()
    *_, last = fit(model, data, settings(), CPU)
    before = weights(model)
    assert list(fit(model, data, settings(), CPU, resume=last.state())) == []
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def without_a_part(state: dict[str, Any]) -> None:
    del state["generator"]


def of_other_shapes(state: dict[str, Any]) -> None:
    state["model"] = {name: value[:1] for name, value in state["model"].items()}


def of_another_optimizer(state: dict[str, Any]) -> None:
    state["optimizer"] = {"state": {}, "param_groups": []}


def with_another_generator(state: dict[str, Any]) -> None:
    state["generator"] = torch.zeros(state["generator"].numel())


@pytest.mark.parametrize(
    "change", [without_a_part, of_other_shapes, of_another_optimizer, with_another_generator]
)
def test_a_state_that_does_not_fit_is_told(
    data: Splits, change: Callable[[dict[str, Any]], None]
) -> None:
    state = checkpoint.copied(next(fit(small(), data, settings(), CPU)).state())
    change(state)
    with pytest.raises(BadInput, match="another network or optimizer: start anew"):
        next(fit(small(), data, settings(), CPU, resume=state))


# Divergence


class Poisoned(nn.Module):
    """Learns as any other until its `at`-th training batch, and answers nan from then on.

    Its weights stay sound, so that the other of the two looks, at validation, sees nothing.
    """

    def __init__(self, at: float, validation: bool = False) -> None:
        super().__init__()
        self.network, self.at, self.validation, self.batches = small(), at, validation, 0
        self.poison = nn.Parameter(torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        self.batches += self.training
        spoilt = self.batches >= self.at if self.training else self.validation
        logits: Tensor = self.network(pictures)
        return logits.detach() + self.poison * math.nan if spoilt else logits


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_rate_far_too_high_ends_at_once(data: Splits, optimizer: str) -> None:
    config = settings(optimizer=optimizer, lr=1e6, epochs=5, batch_size=8)
    results = fit(build(CLASSES, seed=0), data, config, CPU)
    last = next(results)
    assert last.diverged
    assert last.diverged_at_step is not None
    assert 1 < last.diverged_at_step < PICTURES // 8  # before the epoch was over
    assert last.val_accuracy == 0
    assert not math.isfinite(last.val_loss)
    assert list(results) == []


def test_it_ends_at_the_very_step(data: Splits) -> None:
    model = Poisoned(at=8)
    results = list(fit(model, data, settings(epochs=5, batch_size=12), CPU))  # 6 steps an epoch
    assert [item.diverged_at_step for item in results] == [None, 8]
    assert model.batches == 8
    assert math.isnan(results[-1].train_loss)


def test_a_validation_that_is_not_a_number_is_divergence(data: Splits) -> None:
    [only] = fit(Poisoned(at=math.inf, validation=True), data, settings(epochs=5), CPU)
    assert only.diverged_at_step == 3
    assert math.isfinite(only.train_loss)
    assert only.val_accuracy == 0


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 72), (12, 6)])
def test_where_nobody_looks_before_the_pass_is_over_the_step_is_known(
    data: Splits, monkeypatch: pytest.MonkeyPatch, batch_size: int, batches: int
) -> None:
    monkeypatch.setattr(train, "LOOKS_EACH_STEP", set())  # as on a device that is not the CPU
    model = Poisoned(at=3)
    [only] = fit(model, data, settings(epochs=5, batch_size=batch_size), CPU)
    assert only.diverged_at_step == 3 and model.batches == batches
    assert not math.isfinite(only.train_loss)


def test_not_to_look_changes_nothing_where_all_is_well(
    data: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = trained(data, settings())
    monkeypatch.setattr(train, "LOOKS_EACH_STEP", set())
    assert equal(often, trained(data, settings()))


class Asked(TorchDispatchMode):
    """What is called, in order: "step" for an optimizer's step, "read" where the host needs a
    number that lies on the device, or a size that depends on one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("_fused_"):
            self.calls.append("step")
        masked = name.startswith("index") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool
            for given in args if isinstance(given, list | tuple) for one in given
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            self.calls.append("read")
        return func(*args, **(kwargs or {}))

    @property
    def until_the_last_step(self) -> list[str]:
        last = max(place for place, call in enumerate(self.calls) if call == "step")
        return self.calls[: last + 1]


STEPS = 7  # of an epoch in batches of 11; the last is smaller


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("recipe", ["report", "strong"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_within_an_epoch_nothing_is_read_back(
    data: Splits, monkeypatch: pytest.MonkeyPatch, optimizer: str, recipe: str, share: bool
) -> None:
    """As a GPU trains, alone and as a trial of a search. A CPU looks at the loss after each step:
    what is counted here sees that."""
    config = settings(optimizer=optimizer, recipe=recipe, lr=1e-3, batch_size=11)

    def second_epoch() -> list[str]:
        results = fit(small(), data, config, CPU, shared=Shared(on_device=True) if share else None)
        next(results)
        with Asked() as asked:
            next(results)
        return asked.until_the_last_step

    assert second_epoch() == [*["step", "read"] * (STEPS - 1), "step"]
    monkeypatch.setattr(train, "LOOKS_EACH_STEP", set())
    assert second_epoch() == ["step"] * STEPS


# Precision


def test_auto_is_float32_on_a_cpu_to_the_bit(data: Splits) -> None:
    assert equal(trained(data, settings()), trained(data, settings(precision="fp32")))


def test_in_bfloat16_weights_stay_float32_and_it_learns(data: Splits) -> None:
    config = settings(lr=0.03, epochs=4, recipe="plain")
    exact, low = small(), small()
    expected = list(fit(exact, data, config, CPU))
    found = list(fit(low, data, dataclasses.replace(config, precision="bf16"), CPU))
    assert {weight.dtype for weight in low.parameters()} == {torch.float32}
    assert found[-1].val_accuracy > 0.9 and found[0].train_loss != expected[0].train_loss
    assert found[-1].train_loss == pytest.approx(expected[-1].train_loss, abs=0.05)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("precision", "near"), [("fp32", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("recipe", ["report", "strong"])
def test_the_captured_step_equals_the_eager_one(
    data: Splits, monkeypatch: pytest.MonkeyPatch, optimizer: str, recipe: str, precision: str,
    near: float,
) -> None:
    """More steps than the warm-up; dropout's draws differ, so there is none."""
    device = torch.device("cuda")
    config = settings(
        optimizer=optimizer, recipe=recipe, lr=1e-3, epochs=3, batch_size=10, precision=precision
    )
    captured = list(fit(build(CLASSES, 0, dropout=0.0), data, config, device))
    monkeypatch.setattr(Captured, "__call__", lambda self, work: work())
    eager = list(fit(build(CLASSES, 0, dropout=0.0), data, config, device))
    for ours, theirs in zip(captured, eager, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=near)
        assert ours.val_loss == pytest.approx(theirs.val_loss, abs=near)


# Trainings that share their tensors, as the trials of a search do

SHARED = [(optimizer, recipe) for optimizer in ("sgd", "adam") for recipe in ("report", "strong")]


def in_turn(
    data: Splits, configs: list[TrainConfig], shared: Shared | None, device: torch.device = CPU
) -> list[tuple[list[EpochResult], dict[str, Any]]]:
    """Each training's results, and a copy of the state it ends with."""
    found = []
    for config in configs:
        results = list(fit(small(config.seed), data, config, device, shared=shared))
        found.append((results, checkpoint.copied(results[-1].state())))
    return found


def several(optimizer: str, recipe: str) -> list[TrainConfig]:
    """The second diverges: its tensors are left full of nan."""
    one = settings(optimizer=optimizer, recipe=recipe, lr=1e-3)
    return [
        one, dataclasses.replace(one, lr=1e30), dataclasses.replace(one, seed=1, epochs=3),
        dataclasses.replace(one, weight_decay=0.1), one,
    ]


def same_states(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return all(same_states(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize(("optimizer", "recipe"), SHARED)
def test_to_share_tensors_changes_no_bit(data: Splits, optimizer: str, recipe: str) -> None:
    configs = several(optimizer, recipe)
    ours, alone = in_turn(data, configs, Shared(on_device=False)), in_turn(data, configs, None)
    assert [results[-1].diverged for results, _ in ours] == [False, True, False, False, False]
    for (mine, ends), (theirs, end) in zip(ours, alone, strict=True):
        assert [one.val_loss for one in mine] == pytest.approx(
            [one.val_loss for one in theirs], abs=0, rel=0, nan_ok=True
        )
        assert mine[-1].diverged or same_states(ends, end)
    assert not same_states(ours[0][1]["model"], ours[3][1]["model"]), "the decay is not used"
    assert same_states(ours[0][1], ours[4][1])


@pytest.mark.parametrize(("optimizer", "recipe"), SHARED)
def test_a_decay_on_the_device_is_the_optimizers(
    data: Splits, optimizer: str, recipe: str
) -> None:
    """By another order of roundings; and what was trained before changes no bit."""
    configs, shared = several(optimizer, recipe), Shared(on_device=True)
    near = 1e-6 if optimizer == "sgd" else 1e-4  # Adam divides by gradients that are nearly 0
    ours, alone = in_turn(data, configs, shared), in_turn(data, configs, None)
    for (_, ends), (results, end) in zip(ours, alone, strict=True):
        for name, weight in end["model"].items():
            if not results[-1].diverged:
                torch.testing.assert_close(ends["model"][name], weight, atol=near, rtol=1e-3)
    assert same_states(ours[0][1], ours[4][1])
    plain = in_turn(data, [dataclasses.replace(configs[3], weight_decay=0.0)], shared)[0][1]
    apart = [(plain["model"][name] - ours[3][1]["model"][name]).abs().max()
             for name in plain["model"]]
    assert max(apart) > 10 * near, "the test cannot tell a decay from none"


@pytest.mark.parametrize(("optimizer", "recipe"), SHARED)
def test_a_shared_training_writes_into_the_tensors_that_are_there(
    data: Splits, optimizer: str, recipe: str
) -> None:
    """A captured step knows no others; a resumed one too, which goes on to the same bits."""
    config, shared = settings(optimizer=optimizer, recipe=recipe, epochs=4), Shared(on_device=True)

    def places() -> list[int]:
        batches = shared.batches(small(), data, config, CPU)
        live = batches.live
        kept = [value for state in live.optimizer.state.values() for value in state.values()]
        return [value.data_ptr() for value in (
            *live.model.parameters(), *live.averaged.parameters(), *kept, batches.mirror,
            *batches.sums, batches.rows, batches.images,
            *(group["lr"] for group in live.optimizer.param_groups),
        )]

    *_, whole = fit(small(), data, config, CPU, shared=shared)
    end, before = checkpoint.copied(whole.state()), places()
    begun = fit(small(), data, config, CPU, shared=shared)
    next(begun)
    state = checkpoint.copied(next(begun).state())
    list(fit(small(3), data, dataclasses.replace(config, seed=3), CPU, shared=shared))
    *_, resumed = fit(small(5), data, config, CPU, state, shared)
    assert same_states(resumed.state(), end)
    assert places() == before


def test_what_shares_leaves_the_given_network_alone_and_is_made_anew_for_another(
    data: Splits,
) -> None:
    shared, model = Shared(on_device=False), small()
    list(fit(model, data, settings(), CPU, shared=shared))
    assert equal(model, small())
    first = shared.batches(model, data, settings(), CPU)
    assert shared.batches(model, data, settings(seed=2, lr=0.5, epochs=9), CPU) is first
    assert shared.batches(model, data, settings(batch_size=16), CPU) is not first
    assert shared.batches(model, data, settings(momentum=0.0), CPU) is not first
    first = shared.batches(model, data, settings(), CPU)
    assert shared.batches(model, dataclasses.replace(data), settings(), CPU) is not first


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("optimizer", "recipe"), SHARED)
def test_on_cuda_all_that_share_have_one_capture(
    data: Splits, optimizer: str, recipe: str
) -> None:
    device, shared = torch.device("cuda"), Shared()
    config = settings(
        optimizer=optimizer, recipe=recipe, lr=1e-3, epochs=3, batch_size=10, precision="fp32"
    )
    captures = []
    for one in (config, dataclasses.replace(config, lr=1e30), dataclasses.replace(config, seed=4)):
        net = build(CLASSES, one.seed, dropout=0.0)
        ours = list(fit(net, data, one, device, shared=shared))
        captures.append(shared.batches(net, data, one, device).whole.graph)
        alone = list(fit(net, data, one, device))
        assert ours[-1].diverged == alone[-1].diverged
        for mine, theirs in zip(ours, alone, strict=True):
            assert mine.diverged or mine.val_loss == pytest.approx(theirs.val_loss, abs=2e-3)
    assert captures[0] is not None and {id(one) for one in captures} == {id(captures[0])}


# What comes of it


def test_it_learns_what_can_be_learnt(data: Splits) -> None:
    config = settings(lr=0.03, epochs=4, recipe="plain")
    results = list(fit(small(), data, config, CPU))
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].val_loss < 0.5 * math.log(CLASSES)
    assert results[-1].val_accuracy > 0.9


def test_a_result_has_its_figures(data: Splits) -> None:
    first, second = fit(small(), data, settings(), CPU)
    assert (first.epoch, second.epoch) == (1, 2)
    for result in (first, second):
        assert not result.diverged
        assert result.learning_rate == 0.01
        assert result.epoch_seconds > 0
        assert result.images_per_second > 0
        assert tuple(result.figures) == train.EPOCH_METRICS
        assert all(math.isfinite(value) for value in result.figures.values())
        assert 0 <= result.train_accuracy <= 1


def test_the_next_epoch_waits_for_the_caller(data: Splits) -> None:
    model = small()
    results = fit(model, data, settings(), CPU)
    next(results)
    after_one = weights(model)
    only_one = trained(data, settings(epochs=1))
    assert all(torch.equal(a, b) for a, b in zip(after_one, weights(only_one), strict=True))


def test_a_training_that_has_ended_keeps_no_memory(data: Splits) -> None:
    """Not until Python looks for circles: on a GPU the next training would not find room."""
    model = small()
    gone = weakref.ref(model)
    gc.disable()
    try:
        assert len([None for _ in fit(model, data, settings(epochs=1), CPU)]) == 1
        del model
        assert gone() is None
    finally:
        gc.enable()



# Recipe strong


def strong_by_hand(model: nn.Module, data: Splits, config: TrainConfig) -> tuple[nn.Module, float]:
    """Recipe `strong` as a plain loop, from its parts' definitions; the average, the last loss."""
    recipe, averaged = RECIPES["strong"], copy.deepcopy(model)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=config.momentum, nesterov=True,
        weight_decay=config.weight_decay,
    )
    coins = torch.rand(len(images), generator=torch.Generator().manual_seed(config.seed)) < 0.5
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    step, steps = 0, config.epochs * math.ceil(len(images) / config.batch_size)
    for epoch in range(1, config.epochs + 1):
        sums = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(config.batch_size):
            moves = torch.randint(-4, 5, (2, len(rows)), generator=generator)
            pictures = []
            for row, down, right in zip(rows, *moves, strict=True):
                image = functional.pad(images[row][None] / 255, (4, 4, 4, 4), mode="reflect")[0]
                image = image[:, 4 + down :, 4 + right :][:, :32, :32]
                mirrored = bool(coins[row]) is (epoch % 2 == 0)
                pictures.append(image.flip(-1) if mirrored else image)
            batch = torchvision.normalize(
                torch.stack(pictures), list(IMAGENET_MEAN), list(IMAGENET_STD)
            )
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step, steps, config.lr)
            chances = model(batch).log_softmax(dim=1)
            share = recipe.smoothing / CLASSES
            goal = torch.full_like(chances, share).scatter(1, labels[rows, None], 1 - 2 * share)
            optimizer.zero_grad()
            (-(goal * chances).sum(dim=1).mean()).backward()
            optimizer.step()
            step += 1
            sums += float(functional.nll_loss(chances.detach(), labels[rows], reduction="sum"))
            if step < 5 or step % 5 == 0:
                kept = recipe.average**5 * (step / steps) ** 3
                for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
                    mean.data = kept * mean.data + (1 - kept) * weight.data
    return averaged, sums / len(images)


def test_strong_equals_a_plain_loop(data: Splits) -> None:
    config = settings(recipe="strong", lr=0.05, epochs=3, batch_size=8)
    model, plain = small(), small()
    *_, last = fit(model, data, config, CPU)
    averaged, loss = strong_by_hand(plain, data, config)
    assert last.train_loss == pytest.approx(loss, abs=1e-5)  # of the plain cross entropy
    assert last.val_loss == pytest.approx(score(averaged, *resident(data.val, CPU)).loss, abs=1e-5)
    for one, other in ((model, plain), (kept(last), averaged)):
        for found, expected in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


def kept(result: EpochResult) -> nn.Module:
    model = small(seed=9)
    model.load_state_dict(kept_weights(result.state()))
    return model


def test_strong_is_validated_and_kept_under_its_averaged_weights(data: Splits) -> None:
    model = small()
    for result in fit(model, data, settings(recipe="strong", lr=0.1, batch_size=8), CPU):
        under = score(kept(result), *resident(data.val, CPU))
        assert (result.val_loss, result.val_accuracy) == (under.loss, under.accuracy)
        assert not equal(kept(result), model)
        assert result.val_loss != score(model, *resident(data.val, CPU)).loss


def test_the_report_keeps_the_weights_themselves(data: Splits) -> None:
    model = small()
    *_, last = fit(model, data, settings(), CPU)
    assert "averaged" not in last.state()
    assert equal(kept(last), model)


def test_the_rate_that_is_told_is_that_of_the_last_step(data: Splits) -> None:
    config = settings(recipe="strong", lr=0.1, epochs=3, batch_size=8)  # 9 steps an epoch
    rates = [result.learning_rate for result in fit(small(), data, config, CPU)]
    assert rates == [RECIPES["strong"].lr_at(step, 27, 0.1) for step in (8, 17, 26)]


def test_at_a_fresh_net_the_loss_is_the_plain_one(data: Splits) -> None:
    """Smoothed labels are learnt from; what is told is the cross entropy of the true ones."""
    model, (images, labels) = small(), resident(data.train, CPU)
    model.eval()
    pictures = images.float() / 255
    expected = functional.cross_entropy(model(pictures), labels).item()
    optimizer = make_optimizer(model, settings(recipe="strong"))
    _, loss = train.train_step(model, optimizer, pictures, labels, smoothing=0.9)
    assert loss.item() == expected
    [slope] = (weight.grad for name, weight in model.named_parameters() if name == "5.bias")
    _, loss = train.train_step(model, optimizer, pictures, labels)
    assert slope is not None and not torch.equal(slope, model[5].bias.grad)  # type: ignore[index]


def test_a_resident_split_is_the_split(data: Splits) -> None:
    images, labels = resident(data.val, CPU)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    np.testing.assert_array_equal(images.numpy(), data.val.images)
    np.testing.assert_array_equal(labels.numpy(), data.val.labels)


# Devices


class Keeps(NullTracker):
    """A run that keeps the model which is logged."""

    served: nn.Module | None = None

    def model(self, model: nn.Module, example: Tensor, classes: Any) -> None:
        self.served = model


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("recipe", ["plain", "strong"])
@pytest.mark.parametrize("device", DEVICES)
def test_what_was_trained_on_a_device_serves_on_the_cpu(
    data: Splits, device: str, recipe: str
) -> None:
    """As `final` logs it: the weights of the best epoch, with the preprocessing inside."""
    config = settings(optimizer="adam", lr=1e-3, recipe=recipe, epochs=4, batch_size=12)
    net, progress, here = alexnet(), Progress(), Keeps()
    for result in fit(net, data, config, torch.device(device)):
        progress.add(result)
    final._log_model(here, data, net, progress)
    assert here.served is not None and progress.best is not None
    places = [*here.served.parameters(), *here.served.buffers()]
    assert {value.device for value in places} == {CPU} and not here.served.training
    scores = score_probabilities(here.served, *resident(data.val, CPU))
    assert scores.accuracy == progress.best.val_accuracy > 0.9
    assert scores.loss == pytest.approx(progress.best.val_loss, abs=2e-2)


@pytest.fixture
def nondeterministic_afterwards() -> Iterator[None]:
    """The switches are the process's: put back. cuBLAS is told in conftest.py."""
    yield
    compute_in("fp32", deterministic=False)


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.usefixtures("narrow", "nondeterministic_afterwards")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_deterministic_training_repeats_itself_to_the_bit(
    data: Splits, device: str, optimizer: str
) -> None:
    """More steps than the warm-up, so that on CUDA the captured one is among them."""
    config = settings(optimizer=optimizer, lr=1e-3, batch_size=10, deterministic=True)
    nets = [alexnet(), alexnet(), alexnet()]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        list(fit(net, data, dataclasses.replace(config, seed=seed), torch.device(device)))
    assert equal(nets[0], nets[1]) and not equal(nets[0], nets[2])


@pytest.mark.gpu
@needs_gpu
def test_cuda_equals_the_cpu_within_tolerance(data: Splits) -> None:
    """Draws differ between devices: so no augmentation, no dropout, and all pictures at once."""
    config = settings(
        lr=0.05, epochs=3, recipe="plain", batch_size=PICTURES, precision="fp32"
    )
    start = build(CLASSES, seed=0, dropout=0.0)
    on_cpu, on_cuda = (build(CLASSES, seed=0, dropout=0.0) for _ in range(2))
    expected = list(fit(on_cpu, data, config, CPU))
    found = list(fit(on_cuda, data, config, torch.device("cuda")))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=2e-3)
        assert ours.val_loss == pytest.approx(theirs.val_loss, abs=2e-3)
    begun, cpu, cuda = (
        torch.cat([weight.flatten() for weight in weights(model.cpu())])
        for model in (start, on_cpu, on_cuda)
    )
    assert (cuda - cpu).norm() < 0.02 * (cpu - begun).norm()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("written_on", "read_on"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_checkpoint_moves_between_devices(
    data: Splits, tmp_path: Path, written_on: str, read_on: str, optimizer: str
) -> None:
    config, path = settings(optimizer=optimizer, lr=1e-3), checkpoint.path_of("run", tmp_path)
    first = next(fit(alexnet(), data, config, torch.device(written_on)))
    checkpoint.save(path, first.state())
    state = checkpoint.load(path)

    device, model = torch.device(read_on), alexnet(seed=7)
    model.load_state_dict(state["model"])
    moved = score(model.to(device), *resident(data.val, device))
    assert moved.loss == pytest.approx(first.val_loss, abs=2e-3)

    results: list[EpochResult] = list(fit(alexnet(seed=7), data, config, device, resume=state))
    assert [(item.epoch, item.diverged) for item in results] == [(2, False)]
    assert results[0].state()["step"] == 6


@pytest.mark.gpu
@needs_gpu
def test_on_cuda_a_resumed_training_goes_on_with_the_same_draws(
    data: Splits, tmp_path: Path
) -> None:
    config, path = settings(lr=1e-3), checkpoint.path_of("run", tmp_path)
    device = torch.device("cuda")
    expected = list(fit(small(), data, config, device))[-1]
    checkpoint.save(path, next(fit(small(), data, config, device)).state())
    torch.rand(10, device=device)
    [found] = fit(small(seed=7), data, config, device, resume=checkpoint.load(path))
    assert found.train_loss == pytest.approx(expected.train_loss, abs=1e-3)
    assert found.val_loss == pytest.approx(expected.val_loss, abs=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_on_cuda_a_rate_far_too_high_ends_the_training(data: Splits) -> None:
    config = settings(lr=1e6, epochs=5, batch_size=8)
    [only] = fit(alexnet(), data, config, torch.device("cuda"))
    assert only.diverged
    assert only.val_accuracy == 0
