"""A training's state on disk: written to a temporary name, flushed, renamed; read without pickle.

What is read is either the whole new state or the whole old one, never a mixture. One file a run,
`<folder>/<run id>/last.pt`, removed when the run is done.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alexnet_mlflow import signals
from alexnet_mlflow.options import BadInput

FOLDER = Path("checkpoints")
FILE = "last.pt"


def path_of(run_id: str, folder: Path = FOLDER) -> Path:
    """Where a run's checkpoint stands. BadInput where the id could leave the folder."""
    if not run_id.isalnum():
        raise BadInput(f"a run id has letters and digits only, got {run_id!r}")
    return folder / run_id / FILE


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path` by `state` (tensors, numbers, texts, dicts and lists)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with signals.held(), open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # half a state is of use to nobody, and its room to all
            temporary.unlink()
        raise


def load(path: Path) -> dict[str, Any]:
    """The state at `path`, on the CPU. BadInput where it is missing or damaged.

    The file is a zip archive with checksums, which torch.load itself does not compare.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"there is no checkpoint {path}: start the run anew") from None
    except Exception as error:  # a damaged file raises nearly anything
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch adds a page of advice
        raise BadInput(f"the checkpoint {path} cannot be read ({reason}): start anew") from error
    return state


def newest(folder: Path = FOLDER) -> list[str]:
    """The ids of the runs that left a checkpoint in `folder`, the newest first."""
    files = sorted(folder.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in files]


def remove(path: Path) -> None:
    """Forget a finished run's checkpoint; nothing happens where there is none."""
    shutil.rmtree(path.parent, ignore_errors=True)
