"""What the checks judge, measured: short trainings and single steps on samples of the pictures.

Each probe takes a resolved config, the pictures and the device, builds networks of its own and
returns its checks. They go through the real `fit`, `train_step` and `score`, so that a fault there
shows here. `network` is all of them, cheapest first; `quick` adds a small part learnt by heart, for
a search that finds no sanity and overfit on record.

Chosen: where the learning rate is not the question, the rate is Adam's at HEART_LR, since SGD at
the presets' rates stands on a plateau for hundreds of steps. Samples are as small as the verdicts
allow: on FDDB's crops `network` takes 20 CPU seconds on one thread and `quick` 30, on CIFAR-10 30
and 70 (measured).
Left out: the pictures themselves beyond copies (data/audit.py), and judgement (checks).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow import augment, checks, optimizers, train
from alexnet_mlflow.checks import Check
from alexnet_mlflow.config import (
    OverfitConfig,
    RunConfig,
    SanityConfig,
    SpaceConfig,
    TrainConfig,
    resolve,
)
from alexnet_mlflow.data import Split, Splits, stratified_part
from alexnet_mlflow.data.duplicates import first_with_pixels
from alexnet_mlflow.data.split import part_of
from alexnet_mlflow.model import AlexNet, build
from alexnet_mlflow.score import score

PICTURES = 300  # whose first loss is known to 0.1 % of ln C (measured)
SEEDS = 3  # of untrained nets
STEPS = 8  # before updates are looked at: momentum has built up
# A larger step of a weight may carry a ReLU across its kink, a smaller one drowns in rounding.
GRADIENT_PICTURES, GRADIENT_STEPS = 4, (1e-7, 1e-8, 1e-9)
TINY = 1e-12  # instead of a division by 0
RATE_PICTURES = 512  # on which a rate too low or too high is tried: 16 steps of 32
HIGH_EPOCHS = 2
BLANK_PICTURES, BLANK_LEVEL = 256, 128
SEEN_PICTURES = 50
VAL_PICTURES = 20  # that `fit` scores in a probe which does not look at validation
# Measured: 2 and 20 pictures need 7 to 48 epochs at this rate, and no fewer at 1e-4 or 5e-4; 128
# pictures need 11 (FDDB's crops) to 54 (CIFAR-10).
HEART_LR, HEART_EPOCHS = 3e-4, 150
HANDFULS = (2, 20)
PART = 128  # pictures that `quick` learns by heart at most: the report's number for FDDB
HELD_OUT = 1000  # pictures at most

Probe = Callable[[SanityConfig, Splits, torch.device], list[Check]]


def network(config: RunConfig, data: Splits, device: torch.device) -> Iterator[Check]:
    """Every check but the small part learnt by heart, one by one as they are measured."""
    settled = resolve(SanityConfig(**_shared(config, SanityConfig)))
    for probe in PROBES:
        # A probe draws from generators of its own making; the caller's random state stays.
        with torch.random.fork_rng(_cuda(device)):
            found = probe(settled, data, device)
        yield from found


def quick(config: RunConfig, data: Splits, device: torch.device) -> list[Check]:
    """`network`, and a small part learnt by heart: what a search asks before it starts."""
    # The update ratio belongs to a rate that somebody chose; a search is about to choose one.
    found = [check for check in network(config, data, device) if check.name != "update_ratio"]
    with torch.random.fork_rng(_cuda(device)):
        return [*found, *small_part(config, data, device)]


def no_copies(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """How many validation pictures stand in train."""
    first = first_with_pixels(data.train.images, data.val.images)[len(data.train) :]
    copies = int((first < len(data.train)).sum())
    return [checks.few_copies("val_not_in_train", copies, len(data.val))]


def untrained(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """Loss and softmax of fresh nets, in evaluation mode."""
    classes = len(data.classes)
    part = train.resident(stratified_part(data.train, PICTURES, config.split_seed), device)
    runs = [score(_fresh(config, data, device, seed=seed), *part) for seed in range(SEEDS)]
    losses = np.array([run.losses for run in runs], np.float64)  # (SEEDS, N)
    error = math.sqrt(losses.mean(axis=1).var() / SEEDS + losses.mean(axis=0).var() / len(part[1]))
    shares = np.array([run.probabilities.mean(axis=0) for run in runs], np.float64).ravel()
    farthest = float(shares[np.argmax(np.abs(shares - 1 / classes))])
    return [
        checks.first_loss(float(losses.mean()), classes, error),
        checks.class_share(farthest, classes),
    ]


def first_step(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """What the first step reports, and the penalty that the optimizer adds to its gradient.

    The penalty is told from the optimizer's first moment, which after one step is the gradient it
    went by: the step's own, plus weight decay times weight.
    """
    net, decay = _fresh(config, data, device), SpaceConfig.weight_decay_high
    settings = _settings(config, weight_decay=decay, momentum=0.9)
    optimizer = optimizers.make_optimizer(net, settings)
    before = [weight.detach().clone() for weight in net.parameters()]
    [batch] = islice(_batches(config, data.train, device, settings.batch_size), 1)
    _, loss = train.train_step(net, optimizer, *batch)
    rise, expected = 0.0, 0.0
    for weight, old in zip(net.parameters(), before, strict=True):
        expected += 0.5 * decay * float(old.square().sum(dtype=torch.float64))
        if weight.grad is not None:
            added = _moment(optimizer, weight) - weight.grad
            rise += 0.5 * float((old * added).sum(dtype=torch.float64))
    return [
        checks.first_step_loss(float(loss), len(data.classes)),
        checks.penalty_raises_loss(rise, expected, decay),
    ]


def independence(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """Slope of the first picture's logits along the pixels of the others, in training mode."""
    net = _fresh(config, data, device)
    [(pictures, _)] = islice(_batches(config, data.train, device, 8), 1)
    pictures = pictures.clone().requires_grad_()
    [slope] = torch.autograd.grad(net(pictures)[0].sum(), pictures)
    return [checks.samples_independent(float(slope[1:].abs().max()))]


def gradient(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """The gradient that a second step leaves, against central differences, tensor by tensor.

    In float64, without dropout, along a random direction; the rate is 0, so that the weights stay.
    """
    net = _fresh(config, data, device, dropout=0.0).double()
    optimizer = optimizers.make_optimizer(
        net, _settings(config, optimizer="sgd", lr=0.0, momentum=0.0)
    )
    drawn = _batches(config, data.train, device, GRADIENT_PICTURES)
    for pictures, labels in islice(drawn, 2):
        train.train_step(net, optimizer, pictures := pictures.double(), labels)

    def loss(weight: Tensor, way: Tensor, step: float) -> float:
        kept = weight.clone()
        weight.add_(way, alpha=step)
        found = functional.cross_entropy(net(pictures), labels).item()
        weight.copy_(kept)
        return found

    generator, errors = torch.Generator(device).manual_seed(config.seed), {}
    with torch.no_grad():
        for name, weight in net.named_parameters():
            way = torch.empty_like(weight).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            told = torch.zeros_like(weight) if weight.grad is None else weight.grad
            along, errors[name] = float((told * way).sum()), math.inf
            for step in GRADIENT_STEPS:
                slope = (loss(weight, way, step) - loss(weight, way, -step)) / (2 * step)
                # Along a random direction slopes may cancel; the gradient's length never does.
                size = max(float(told.norm()), abs(slope), TINY)
                errors[name] = min(errors[name], abs(along - slope) / size)
                if errors[name] <= checks.GRADIENT_TOLERANCE:
                    break
    where = max(errors, key=lambda name: errors[name])
    return [checks.gradient(errors[where], where)]


def seen_input(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """Pictures as they enter the first convolution during `fit`, taken back to grey levels; in one
    batch, for CUDA's fourth is captured, and a hook must not look into that."""
    net = _fresh(config, data, device)
    part = _part(data, SEEN_PICTURES, config.split_seed)
    caught, first = list[Tensor](), next(one for one in net.modules() if isinstance(one, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda module, given: caught.append(given[0].cpu()))
    list(train.fit(net, part, _heart(config, batch_size=len(part.train)), device))
    hook.remove()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in
                 (augment.IMAGENET_MEAN, augment.IMAGENET_STD))
    levels = (torch.cat(caught).detach() * std + mean) * 255
    stored = np.concatenate([part.train.images, part.val.images])
    return [checks.input_as_stored(levels.numpy(), stored)]


def repeated(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """Two trainings from one seed, with augmentation, dropout and a smaller last batch."""
    settings = _settings(config, recipe=config.recipe)
    part = _part(data, settings.batch_size * 5 // 2, config.split_seed)
    nets = [_fresh(config, data, device) for _ in range(2)]
    for net in nets:
        list(train.fit(net, part, settings, device))
    pairs = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    same = (torch.isclose(one, other, 0.0, 0.0, equal_nan=True) for one, other in pairs)
    different = sum(int((~equal).sum()) for equal in same)
    steps = math.ceil(len(part.train) / settings.batch_size)
    return [checks.deterministic(different, steps, promised=device.type == "cpu")]


def movement(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """How far every tensor moves at step STEPS, and which units are never excited then."""
    net = _fresh(config, data, device)
    settings = _settings(config)
    optimizer = optimizers.make_optimizer(net, settings)
    batches = list(islice(_batches(config, data.train, device, settings.batch_size), STEPS))
    for batch in batches[:-1]:
        train.train_step(net, optimizer, *batch)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    train.train_step(net, optimizer, *batches[-1])
    ratios = {}
    for name, weight in net.named_parameters():
        old, moved = before[name], weight.detach() - before[name]
        ratios[name] = float(moved.norm()) / max(float(old.norm()), TINY)
    weights = {name: ratio for name, ratio in ratios.items() if not name.endswith("bias")}
    pictures = torch.cat([pictures for pictures, _ in batches])[:PICTURES]
    return [
        checks.all_layers_move(ratios, STEPS),
        checks.update_ratio(weights, settings.lr),
        checks.layers_alive(_silent(net, pictures)),
    ]


def blanked(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """Training on pictures of one grey: their labels are all there is to learn from."""
    part = stratified_part(data.train, BLANK_PICTURES, config.split_seed)
    grey = dataclasses.replace(part, images=np.full_like(part.images, BLANK_LEVEL))
    net = _fresh(config, data, device, dropout=0.0)
    only_grey = dataclasses.replace(data, train=grey, val=_few(grey))
    list(train.fit(net, only_grey, _heart(config), device))
    found = score(net, *train.resident(grey, device))
    majority = int(np.bincount(grey.labels).max()) / len(grey)
    return [checks.blanked_at_majority(found.accuracy, majority, found.n)]


def rates(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """The loss after training at a rate too low, and at one too high."""
    classes, part = len(data.classes), _part(data, RATE_PICTURES, config.split_seed)
    scored = train.resident(stratified_part(part.train, PICTURES, config.split_seed), device)

    def after(lr: float, epochs: int) -> float:
        net = _fresh(config, data, device)
        for result in train.fit(net, part, _settings(config, lr=lr, epochs=epochs), device):
            if result.diverged:
                return math.nan
        return score(net, *scored).loss

    before = score(_fresh(config, data, device), *scored).loss
    return [
        checks.lr_too_low(before, after(config.low_lr, 1), config.low_lr, classes),
        checks.lr_too_high(after(config.high_lr, HIGH_EPOCHS), config.high_lr, classes),
    ]


def handfuls(config: SanityConfig, data: Splits, device: torch.device) -> list[Check]:
    """2 and 20 pictures, of as many classes as there is room for, learnt to the last digit."""
    found = list[Check]()
    for count in HANDFULS:
        few = _handful(data.train, count, config.split_seed)
        net = _fresh(config, data, device, dropout=0.0)
        settings = _heart(config, epochs=HEART_EPOCHS, batch_size=count)
        for result in train.fit(net, dataclasses.replace(data, train=few, val=few), settings,
                                device):
            # The step's own loss and the score's: a softmax too many may stand in either.
            loss = max(result.train_loss, result.val_loss)
            if result.val_accuracy >= checks.OVERFIT_ACCURACY and loss < checks.OVERFIT_LOSS:
                break
        found.append(checks.handful_by_heart(count, result.val_accuracy, loss, result.epoch))
    return found


PROBES: tuple[Probe, ...] = (
    no_copies, untrained, first_step, independence, gradient, seen_input, repeated, movement,
    blanked, rates, handfuls,
)


def small_part(config: RunConfig, data: Splits, device: torch.device) -> list[Check]:
    """A small part learnt by heart in HEART_EPOCHS at most, and what that is worth elsewhere."""
    values = {**_shared(config, OverfitConfig), "lr": None, "epochs": None}
    settled = resolve(OverfitConfig(**values))
    wanted = settled.pictures or max(len(data.train) // 10, settled.batch_size or 1)
    part = stratified_part(data.train, min(wanted, PART), settled.split_seed)
    net = _fresh(settled, data, device, dropout=0.0)
    settings = _heart(settled, epochs=HEART_EPOCHS)
    tried = dataclasses.replace(data, train=part, val=_few(data.val))
    for result in train.fit(net, tried, settings, device):
        if result.train_accuracy >= checks.OVERFIT_ACCURACY:
            break
    return [
        checks.overfits(result.train_accuracy, result.epoch, len(part), result.diverged),
        held_out(net, data, part, device, settled.split_seed),
    ]


def held_out(
    net: nn.Module, data: Splits, part: Split, device: torch.device, seed: int
) -> Check:
    """How a net that knows `part` by heart does on the rest of train and on validation."""
    rest = np.flatnonzero(~np.isin(data.train.ids, part.ids))
    splits = [data.val] if not len(rest) else [data.val, part_of(data.train, "train", rest)]
    share = min(1.0, HELD_OUT / sum(map(len, splits)))
    parts = [stratified_part(one, round(share * len(one)), seed) for one in splits]
    images, labels = zip(*(train.resident(one, device) for one in parts), strict=True)
    found = score(net, torch.cat(images), torch.cat(labels))
    return checks.held_out_above_chance(found.predictions, found.labels)


def _batches(
    config: SanityConfig, split: Split, device: torch.device, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, as the loop makes them of recipe `plain`, and their labels (N,).

    Pictures are (N, 3, 32, 32) float32, normalised.
    """
    part = stratified_part(split, RATE_PICTURES, config.split_seed)
    images, labels = train.resident(part, device)
    generator = torch.Generator(device).manual_seed(config.seed)
    torch.manual_seed(config.seed)  # dropout
    while True:
        order = torch.randperm(len(labels), generator=generator, device=device)
        for chosen in order.split(size):
            yield augment.normalise(augment.plain(images[chosen], generator)), labels[chosen]


def _fresh(
    config: RunConfig, data: Splits, device: torch.device, dropout: float = 0.5, seed: int = 0
) -> AlexNet:
    """An untrained net on the device, in training mode; seed: added to the config's."""
    net = build(len(data.classes), config.seed + seed, dropout)
    return net.to(device).to(memory_format=torch.channels_last).train()


def _shared(config: RunConfig, kind: type[Any]) -> dict[str, Any]:
    """The values of a config that another kind has too."""
    names = {item.name for item in dataclasses.fields(kind)}
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def _settings(config: RunConfig, **changes: object) -> TrainConfig:
    """One epoch of the config's training, neither augmented nor penalised, with these changes."""
    fixed = {"epochs": 1, "weight_decay": 0.0, "recipe": "plain"}
    return TrainConfig(**{**_shared(config, TrainConfig), **fixed, **changes})


def _heart(config: RunConfig, **changes: object) -> TrainConfig:
    return _settings(config, **{"optimizer": "adam", "lr": HEART_LR, **changes})


def _moment(optimizer: torch.optim.Optimizer, weight: Tensor) -> Tensor:
    """The gradient by which the first step of an optimizer went."""
    state = optimizer.state[weight]
    moment: Tensor = state["momentum_buffer" if "momentum_buffer" in state else "exp_avg"]
    return moment.div(1 - optimizer.param_groups[0].get("betas", (0.0,))[0])


def _part(data: Splits, count: int, seed: int) -> Splits:
    return dataclasses.replace(
        data, train=stratified_part(data.train, count, seed), val=_few(data.val)
    )


def _few(split: Split) -> Split:
    return stratified_part(split, VAL_PICTURES, 0)


def _handful(split: Split, count: int, seed: int) -> Split:
    """`count` pictures of as many classes as there is room for."""
    part = stratified_part(split, count, seed)  # with a picture of each class, though more they be
    rows = np.argsort(part.labels, kind="stable")[:count]
    return part if len(part) <= count else part_of(part, part.name, np.sort(rows))


@torch.no_grad()
def _silent(net: AlexNet, pictures: Tensor) -> dict[str, float]:
    """ReLU -> the share of its units (channels of a convolution) that no picture excites."""
    excited: dict[str, Tensor] = {}

    def watched(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def look(module: nn.Module, given: object, out: Tensor) -> None:
            highest = (out.flatten(2).amax(dim=2) if out.dim() > 2 else out).amax(dim=0)
            excited[name] = ~(highest <= 0)  # nan is another matter

        return look

    layers = [(name, one) for name, one in net.named_modules() if isinstance(one, nn.ReLU)]
    hooks = [one.register_forward_hook(watched(name)) for name, one in layers]
    net.eval()
    net(pictures)
    for hook in hooks:
        hook.remove()
    return {name: 1 - float(units.float().mean()) for name, units in excited.items()}


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
