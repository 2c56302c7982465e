"""Every default, once: frozen dataclasses that are at the same time the commands' options.

A field of a stage's config is an option of its command and a parameter of its MLproject entry
point; `cli` builds the options from these fields and a test compares the three. `None` stands for
"auto": the data set's preset decides (`resolve`). Nothing here imports torch or mlflow, so that
`--help` answers at once. Values are checked on creation; a wrong one raises BadInput with the
rule, the value and the way out.

The presets follow the report (figures: docs/experiments.md); what differs has its reason beside it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from alexnet_mlflow.options import (
    MANY,
    PROCESSES,
    BadInput,
    check_at_least,
    check_choices,
    check_name,
    check_positive,
    check_seeds,
    instead,
    option,
    option_name,
)

OPTIMIZERS = ("sgd", "adam")
RECIPES = ("report", "strong")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
SAMPLERS = ("random", "tpe", "qmc")
PRUNERS = ("off", "epoch", "halving")
ENGINES = ("local", "ray")
POLICIES = ("auto", "better", "proven")

# They differ from machine to machine, or hold a password.
NOT_PARAMETERS = {
    "data_dir", "device", "resume", "offline", "storage", "workers", "engine", "ray_address",
    "study", "force", "side_by_side",
}

DATASET = "faces, digits, cifar10, fddb, or the path of a folder, archive or CSV."
DATA_DIR = "Folder with the data sets [env ALEXNET_DATA, else ./data]."
SKIP_CORRUPT = "Leave out pictures that cannot be read, and count them."
OFFLINE = "Never download; missing data is an error [env ALEXNET_OFFLINE]."


def data_root(data_dir: str) -> Path:
    """The folder that holds the data: --data-dir, else ALEXNET_DATA, else ./data."""
    return Path(data_dir or os.environ.get("ALEXNET_DATA") or "data")


def may_download(offline: bool) -> bool:
    """Neither --offline nor ALEXNET_OFFLINE (set, and not 0 or false) forbids it."""
    return not offline and os.environ.get("ALEXNET_OFFLINE", "").lower() in ("", "0", "false")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they are divided. The division does not depend on `--seed`."""

    dataset: str = option("faces", DATASET)
    data_dir: str = option("", DATA_DIR)
    limit: int = option(0, "Use a stratified part of this many training pictures; 0 = all.")
    val_fraction: float = option(0.1, "Share of the training pictures kept for validation.")
    test_fraction: float = option(0.2, "Share kept for test where the data set has none.")
    split_seed: int = option(0, "Seed of the division into train, validation and test.")
    skip_corrupt: bool = option(False, SKIP_CORRUPT)
    offline: bool = option(False, OFFLINE)

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                text = f"{option_name(name)} must lie between 0 and 1, got {value}"
                raise BadInput(text + instead(self, name))
        check_at_least(self, 0, "limit")
        check_seeds(self, "split_seed")

    @property
    def data_root(self) -> Path:
        """The folder that holds the data: --data-dir, else ALEXNET_DATA, else ./data."""
        return data_root(self.data_dir)


@dataclass(frozen=True, kw_only=True)
class RunConfig(DataConfig):
    """What every training stage has in common."""

    stage: ClassVar[str]

    optimizer: str = option("sgd", "The optimizer.", OPTIMIZERS)
    recipe: str = option("report", "Augmentation and schedule.", RECIPES)
    device: str = option("auto", "Where to compute; auto = cuda where there is one.", DEVICES)
    precision: str = option("auto", "Of the layers; auto = bf16 on CUDA, else fp32.", PRECISIONS)
    deterministic: bool = option(False, "Deterministic algorithms on CUDA; slower there.")
    seed: int = option(0, "Seed of the weights, the batches, the augmentation and the draws.")
    batch_size: int | None = option(None, "Pictures a batch; auto = the data set's preset.")
    momentum: float = option(0.9, "Momentum of SGD; Adam ignores it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check_positive(self, "batch_size", most=MANY)
        check_at_least(self, 0, "momentum")
        check_seeds(self, "seed")
        if self.momentum >= 1:
            raise BadInput(f"--momentum must be below 1, got {self.momentum}: 0.9 is usual")


@dataclass(frozen=True, kw_only=True)
class SanityConfig(RunConfig):
    """First loss near ln C; a learning rate too low does nothing, one too high diverges."""

    stage: ClassVar[str] = "sanity"

    lr: float | None = option(None, "Learning rate of the one epoch; auto = preset.")
    low_lr: float = option(1e-6, "A learning rate that must barely move the loss.")
    high_lr: float = option(1e6, "A learning rate that must make the loss explode.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr", "low_lr", "high_lr")


@dataclass(frozen=True, kw_only=True)
class OverfitConfig(RunConfig):
    """A small part of the data, no augmentation, no regularisation: it must reach 100 %."""

    stage: ClassVar[str] = "overfit"

    lr: float | None = option(None, "Learning rate; auto = preset.")
    pictures: int | None = option(None, "Pictures to overfit; auto = preset, else 10 %.")
    epochs: int | None = option(None, "Epochs at most; auto = preset.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr", "pictures")
        check_positive(self, "epochs", most=MANY)


@dataclass(frozen=True, kw_only=True)
class SpaceConfig(RunConfig):
    """How many draws, and from where: the report's 10^-5 .. 10^5 and 10^-6 .. 10^-3."""

    trials: int = option(20, "Coarse draws.")
    fine_trials: int = option(10, "Fine draws, in the narrowed range.")
    repeats: int = option(2, "Trainings of the best trial with other seeds: the noise.")
    lr_low: float = option(1e-5, "Lowest learning rate of the coarse search.")
    lr_high: float = option(1e5, "Highest learning rate of the coarse search.")
    weight_decay_low: float = option(1e-6, "Lowest weight decay of the coarse search.")
    weight_decay_high: float = option(1e-3, "Highest weight decay of the coarse search.")
    sampler: str = option("random", "Who draws; tpe learns from the trials before.", SAMPLERS)
    prune: str = option("halving", "When the worse trials are cut.", PRUNERS)
    exhaustive: bool = option(False, "The report's way: no trial is cut.")
    force: bool = option(False, "Go on where a check fails; the run is tagged forced.")
    storage: str = option("", "Optuna storage of the trials [else sqlite:///optuna.db].")
    workers: int = option(1, "Processes that try points side by side.")
    engine: str = option("local", "Where the workers run.", ENGINES)
    ray_address: str = option("auto", "The Ray cluster; auto = the one that runs here.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr_low", "lr_high")
        check_positive(self, "trials", most=MANY)
        check_positive(self, "workers", most=PROCESSES)
        check_positive(self, "weight_decay_low", "weight_decay_high")
        check_at_least(self, 0, "fine_trials", "repeats", most=MANY)
        for name in ("lr", "weight_decay"):
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            if low >= high:
                option = option_name(name)
                raise BadInput(
                    f"{option}-low must be below {option}-high, got {low} and {high}: "
                    f"give e.g. {low / 10:g} and {high * 10:g}"
                )


@dataclass(frozen=True, kw_only=True)
class SearchConfig(SpaceConfig):
    """Coarse random search over both rates, narrowed with a reason, then fine search."""

    stage: ClassVar[str] = "search"

    epochs: int | None = option(None, "Epochs a trial; auto = preset.")
    study: str = option("", "Name of the search to join or continue [else made of its options].")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", most=MANY)
        check_name(self, "study")


@dataclass(frozen=True, kw_only=True)
class FinalConfig(RunConfig):
    """The long training; keeps the epoch that is best on validation and logs the model."""

    stage: ClassVar[str] = "final"

    lr: float | None = option(None, "Learning rate; auto = the latest finished search's best.")
    weight_decay: float | None = option(None, "Weight decay; auto = that search's best.")
    epochs: int | None = option(None, "Epochs; auto = preset.")
    seeds: int = option(1, "Trainings with fresh seeds; 1 = one, with --seed itself.")
    resume: str = option("no", "no, last, or the id of an interrupted final run to continue.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr")
        check_positive(self, "epochs", "seeds", most=MANY)
        check_at_least(self, 0, "weight_decay")
        if self.seed + self.seeds > 2**63:
            raise BadInput(f"--seeds={self.seeds} leaves no room above --seed: give a lower --seed")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The sealed test split, with the division that the final run was trained on."""

    stage: ClassVar[str] = "evaluate"

    dataset: str = option("faces", DATASET)
    data_dir: str = option("", DATA_DIR)
    optimizer: str = option("sgd", "The optimizer.", OPTIMIZERS)
    recipe: str = option("report", "Augmentation and schedule.", RECIPES)
    device: str = option("auto", "Where to compute; auto = cuda where there is one.", DEVICES)
    skip_corrupt: bool = option(False, SKIP_CORRUPT)
    offline: bool = option(False, OFFLINE)
    run: str = option("latest", "Id of the final run; latest = of this data set and optimizer.")
    flip: bool = option(False, "Score the mean with the mirror images too, apart from the rest.")

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """The better of the evaluated finals becomes champion, if it beats the present one."""

    stage: ClassVar[str] = "promote"

    dataset: str = option("faces", DATASET)
    run: str = option(
        "latest",
        "Ids of evaluate or final runs, comma-separated; latest = the latest of each optimizer.",
    )
    policy: str = option(
        "auto", "What a champion yields to; auto = better for the first one, else proven.", POLICIES
    )
    min_gain: float = option(0.0, "Least gain on test, as a share of its pictures.")
    rollback: bool = option(False, "Make the champion before the present one champion again.")
    dry_run: bool = option(False, "Say what would be decided, and change nothing.")

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.min_gain < 1:
            text = f"--min-gain must be at least 0 and below 1, got {self.min_gain}"
            raise BadInput(text + instead(self, "min_gain"))
        if self.rollback and self.run != "latest":
            raise BadInput("--rollback goes to the champion before, so it takes no --run: omit one")


@dataclass(frozen=True, kw_only=True)
class BabysitConfig(SpaceConfig):
    """The whole protocol: sanity, overfit, search, final, evaluate, promote, in one command."""

    stage: ClassVar[str] = "babysit"

    optimizer: str = option("sgd", "The optimizer, or both.", (*OPTIMIZERS, "both"))
    search_epochs: int | None = option(None, "Epochs a trial; auto = preset.")
    epochs: int | None = option(None, "Epochs of the final training; auto = preset.")
    seeds: int = option(3, "Final trainings of each, where both optimizers are compared.")
    side_by_side: bool = option(True, "Both at once, where there are cores or GPUs for two.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "search_epochs", "epochs", "seeds", most=MANY)


STAGES: dict[str, type[Any]] = {
    config.stage: config
    for config in (
        BabysitConfig,
        SanityConfig,
        OverfitConfig,
        SearchConfig,
        FinalConfig,
        EvaluateConfig,
        PromoteConfig,
    )
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What one training needs to know; `weight_decay` is L2 inside the optimizer, as in torch."""

    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    batch_size: int
    epochs: int
    recipe: str
    seed: int
    precision: str = "auto"
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What "auto" means for one data set. A pair in a mapping is chosen by the optimizer."""

    batch_size: int = 32  # the report
    sanity_lr: dict[str, float] = field(default_factory=lambda: {"sgd": 1e-3, "adam": 1e-4})
    overfit_pictures: int | None = None  # None: 10 % of the training pictures (the report)
    overfit_lr: dict[str, float] = field(default_factory=lambda: {"sgd": 1e-2, "adam": 3e-4})
    overfit_epochs: int = 300
    search_epochs: int = 5
    final_epochs: int = 20


FDDB = Preset(  # the report
    sanity_lr={"sgd": 1e-4, "adam": 1e-4}, overfit_pictures=128, search_epochs=10
)
PRESETS: dict[str, Preset] = {
    "cifar10": Preset(),  # the report: 5 epochs a trial, 20 in the final training
    **dict.fromkeys(("fddb", "fddb-hard", "fddb-crops"), FDDB),
    "faces": Preset(  # so few steps an epoch that SGD leaves its plateau late at 0.01
        batch_size=16, overfit_pictures=64, overfit_lr={"sgd": 2e-2, "adam": 3e-4}, search_epochs=6
    ),
    "digits": Preset(),
}

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def resolve(config: AnyConfig) -> AnyConfig:
    """The config with every "auto" that the data set's preset knows replaced by its value."""
    preset = PRESETS.get(config.dataset, Preset())
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        if getattr(config, item.name) is not None:
            continue
        value = getattr(preset, f"{config.stage}_{item.name}", getattr(preset, item.name, None))
        changes[item.name] = value[config.optimizer] if isinstance(value, dict) else value
    return dataclasses.replace(config, **changes)


def parameters(config: Any) -> dict[str, object]:
    """The config's values, without what differs from machine to machine."""
    return {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if item.name not in NOT_PARAMETERS and getattr(config, item.name) is not None
    }
