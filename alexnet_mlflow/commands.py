"""The commands that are no stages, as config classes: their fields are their options (options.py).
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from alexnet_mlflow.config import DATA_DIR, DEVICES, OFFLINE, DataConfig
from alexnet_mlflow.options import (
    PROCESSES,
    BadInput,
    check_at_least,
    check_choices,
    check_seeds,
    instead,
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
        check_at_least(self, 0, "rotate")
        check_seeds(self, "seed")
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


MODEL = "URI of a logged model, such as models:/alexnet-fddb@champion."
FORMATS = ("onnx", "pt2")


def check_model(uri: str) -> None:
    """BadInput where no model is named."""
    if not uri:
        raise BadInput("--model must name a logged model: give e.g. models:/alexnet-faces@champion")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What a logged model says of pictures and folders of them, or where a photo has faces.

    What only faces need was chosen on FDDB's folds 8 and 9 (docs/experiments.md).
    """

    command: ClassVar[str] = "predict"
    of_faces: ClassVar[dict[str, tuple[float, float]]] = {  # numbers with their ends; and `out`
        "smallest": (16, 10_000),  # below, the photo would be enlarged more than twofold
        "aspect": (0.25, 4),
        "scale_step": (1.01, 4),
        "stride": (1, 32),
        "threshold": (0, 1),
        "overlap": (0, 1),
        "batch_size": (1, 65_536),
    }

    model: str = option("", MODEL)
    json: bool = option(False, "Everything in one line of JSON instead of a table.")
    csv: bool = option(False, "CSV instead of a table.")
    skip_corrupt: bool = option(False, "Leave out pictures that cannot be read, and count them.")
    device: str = option("auto", "Where to compute; auto = cuda where there is one.", DEVICES)
    faces: bool = option(False, "Look for faces all over each photo.")
    out: str = option("faces", "With --faces, the folder for the photos with boxes.")
    smallest: int = option(40, "With --faces, width of the smallest window in the photo's pixels.")
    aspect: float = option(1.5, "With --faces, a window's height over its width.")
    scale_step: float = option(1.25, "With --faces, from one width of windows to the next.")
    stride: int = option(6, "With --faces, from window to window, in 32nds of a window.")
    threshold: float = option(0.997, "With --faces, probability from which on it is one.")
    overlap: float = option(0.1, "With --faces, intersection over union that two boxes may have.")
    batch_size: int = option(256, "With --faces, windows a batch.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_model(self.model)
        if self.json and self.csv:
            raise BadInput("--json and --csv exclude one another: give one of them")
        for name, (low, high) in self.of_faces.items():
            if not low <= getattr(self, name) <= high:
                text = f"{option_name(name)} must be {low:g} to {high:g}, got {getattr(self, name)}"
                raise BadInput(text + instead(self, name))
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            special = item.name in self.of_faces or item.name == "out"
            if special and not self.faces and value != item.default:
                raise BadInput(
                    f"{option_name(item.name)} is for --faces, got {value} without it: give "
                    "--faces too, or leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A logged model as a file for other programs, which is run to see that it is the same."""

    command: ClassVar[str] = "export"

    model: str = option("", MODEL)
    format: str = option("onnx", "Of the file: ONNX, or torch.export's.", FORMATS)
    out: str = option("", "The file to write [else model.onnx or model.pt2].")

    def __post_init__(self) -> None:
        check_choices(self)
        check_model(self.model)


LOGS = ("file", "stderr")
PERMISSIONS = ("READ", "EDIT", "MANAGE")  # MLflow's; MANAGE deletes too


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A tracking server for a team: MLflow on PostgreSQL, with a login, until Ctrl-C."""

    command: ClassVar[str] = "server"

    folder: str = option("server", "Folder for database, artifacts, secrets and logs.")
    port: int = option(5000, "Port to listen on.")
    host: str = option("127.0.0.1", "Address to listen on; there is no TLS on any.")
    allowed_hosts: str = option("", "Further Host headers to answer, comma-separated.")
    database: str = option(
        "", "postgresql://USER@HOST/NAME [env ALEXNET_DATABASE, else one of its own in --folder]."
    )
    artifacts: str = option("", "Folder, or s3://BUCKET/PATH, of the artifacts [else in --folder].")
    workers: int = option(2, "Processes that answer.")
    log: str = option("file", "Where MLflow's log goes: mlflow.log in --folder.", LOGS)
    permission: str = option(
        "MANAGE", "What each account may do with the runs and models of others.", PERMISSIONS
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, "port")
        check_at_least(self, 1, "workers", most=PROCESSES)
        if self.port > 65_535:
            raise BadInput(f"--port must be at most 65535, got {self.port}" + instead(self, "port"))
        if "*" in self.allowed_hosts:
            raise BadInput(
                f"--allowed-hosts must name each host, got {self.allowed_hosts}: with a * any page "
                "that a browser shows could reach the server"
            )
        if self.address and not self.address.startswith("postgresql://"):
            raise BadInput(
                "--database must begin with postgresql://, got another address: give "
                "postgresql://USER@HOST/NAME"
            )
        if re.search(r"://[^/@]*:[^/@]*@|password=", self.address):
            raise BadInput(
                "--database must not hold the password, which others could read: give it in "
                "PGPASSWORD or in ~/.pgpass"
            )

    @property
    def address(self) -> str:
        """The database's: --database, else ALEXNET_DATABASE, else empty."""
        return self.database or os.environ.get("ALEXNET_DATABASE", "")


@dataclass(frozen=True, kw_only=True)
class DockerRunConfig:
    """Run any of these commands inside the package's image: docker-run [OPTIONS] COMMAND ..."""

    command: ClassVar[str] = "docker-run"

    image: str = option("alexnet-mlflow:gpu", "The image; make docker-gpu builds the default.")
    gpu: bool = option(False, "Pass all GPUs of this machine into the container.")
    network: str = option(
        "bridge", "host = a server on this machine's localhost can be reached.",
        ("bridge", "host", "none"),
    )

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Copy a tracking store into another: runs, models and registry, once each.

    Without options: send what earlier runs of this working folder have logged while their tracking
    server was away. User and password of a server: MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD.
    """

    command: ClassVar[str] = "sync"

    from_: str = option("", "The store to copy, such as sqlite:///mlflow.db.")
    to: str = option("", "The store to copy into, such as http://server:5000.")
    dry_run: bool = option(False, "Say what would be copied, and change nothing.")

    @property
    def journals(self) -> bool:
        """Send what was left for a store that was away, instead of copying one?"""
        return not (self.from_ or self.to or self.dry_run)

    def __post_init__(self) -> None:
        if self.journals:
            return
        for name, example in (("from_", "sqlite:///mlflow.db"), ("to", "http://server:5000")):
            if not getattr(self, name):
                named = option_name(name)
                raise BadInput(f"{named} must name a tracking store: give e.g. {named}={example}")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Is all well here: store, registry, disks, GPU, data, models? Which runs were left open?"""

    command: ClassVar[str] = "doctor"

    data_dir: str = option("", DATA_DIR)
    fix: bool = option(False, "Close the runs whose processes are gone, as FAILED.")
    older_than: float = option(
        0.0, "Hours without a sign after which a run of another machine counts as gone; 0 = never."
    )
    json: bool = option(False, "The line of JSON alone.")

    def __post_init__(self) -> None:
        check_at_least(self, 0, "older_than")


COMMANDS: dict[str, type[Any]] = {
    config.command: config
    for config in (
        PredictConfig, ExportConfig, SyncConfig, DoctorConfig, DockerRunConfig, ServerConfig,
    )
}
