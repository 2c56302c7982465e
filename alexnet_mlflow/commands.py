"""The commands that are no stages, as config classes: their fields are their options (options.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from alexnet_mlflow.config import DATA_DIR, OFFLINE, DataConfig
from alexnet_mlflow.options import (
    BadInput,
    check_at_least,
    check_choices,
    option,
    option_name,
)


@dataclass(frozen=True, kw_only=True)
class GetConfig:
    """Bring a data set here, verified: cifar10 from its mirrors, fddb out of its photos."""

    command: ClassVar[str] = "get"

    dataset: str = option("cifar10", "What to get.", ("cifar10", "fddb"))
    data_dir: str = option("", DATA_DIR)
    offline: bool = option(False, OFFLINE)
    photos: str = option("", "originalPics.tar.gz or its folder [else looked for in --data-dir].")
    folds: str = option("", "FDDB-folds.tgz or its folder [else looked for in --data-dir].")
    rotate: int = option(0, "Which fold is the test: 0 = fold 10, 1 = fold 1 ... 9 = fold 9.")
    hard: bool = option(False, "Draw half of the background next to faces: fddb-hard.")
    allow_missing: bool = option(False, "Go on where photos are missing or cannot be read.")
    seed: int = option(0, "Seed of the draw of faces and background.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 0, "rotate", "seed")
        if self.rotate > 9:
            raise BadInput(f"--rotate must be 0 to 9, got {self.rotate}: there are ten folds")
        if self.dataset != "fddb":
            for name in ("photos", "folds", "rotate", "hard", "allow_missing", "seed"):
                if getattr(self, name):
                    raise BadInput(
                        f"{option_name(name)} is for fddb, got it with {self.dataset}: leave it out"
                    )


@dataclass(frozen=True, kw_only=True)
class CheckConfig(DataConfig):
    """What is wrong with a data set, and how well it goes without a network."""

    command: ClassVar[str] = "check"

    out: str = option("data-check", "Folder for the report and its pictures.")


DATA_COMMANDS: dict[str, type[Any]] = {
    config.command: config for config in (GetConfig, CheckConfig)
}
