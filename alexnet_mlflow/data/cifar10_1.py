"""Further test pictures for CIFAR-10 as arrays: CIFAR-10.1 as its authors publish it.

`cifar10.1_v6_data.npy`, (N, 32, 32, 3) uint8, with `cifar10.1_v6_labels.npy` beside it, (N,)
integers 0..9 (Recht et al., arXiv 1806.00451); any pair NAME_data.npy and NAME_labels.npy of that
form. All of it is test: there is nothing to learn from. Neither file is ever unpickled.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.cifar10 import CLASSES
from alexnet_mlflow.data.split import SIDE, DataError, Decoded

DATA, LABELS = "_data.npy", "_labels.npy"


def is_pair(path: Path) -> bool:
    """Does this name the pictures of such a pair?"""
    return path.name.endswith(DATA) and path.is_file()


def find(path: Path, name: str) -> Source:
    """The pair whose pictures are at `path`; it is decoded already, so the cache holds none."""
    return Source(name, path.parent, "", partial(_decoded, path, name))


def _decoded(path: Path, name: str, skip_corrupt: bool) -> Decoded:
    stem = path.name.removesuffix(DATA)
    pictures, labels = _array(path), _array(path.with_name(stem + LABELS))
    if pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3) or pictures.dtype != np.uint8:
        raise DataError(
            f"{str(path)!r} must hold uint8 of shape (N, {SIDE}, {SIDE}, 3), got {pictures.dtype} "
            f"of shape {pictures.shape}: give CIFAR-10.1's file, or a folder of pictures by class"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{stem + LABELS!r} must hold integers 0 to 9, got {labels.dtype}")
    return Decoded(
        name=name,
        title=stem,
        classes=CLASSES,
        source=str(path),
        images=np.ascontiguousarray(np.moveaxis(pictures, 3, 1)),
        labels=labels.astype(np.int64),
        ids=np.array([f"{row:06d}" for row in range(len(pictures))], np.str_),
        division={"test": (0, len(pictures))},
    )


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")  # one array; an object in it is refused
    except FileNotFoundError:
        raise DataError(f"{path.name!r} must lie beside its {DATA} file: put it there") from None
    except OSError:
        raise
    except Exception as error:  # a header that somebody made up raises nearly anything
        raise DataError(
            f"{str(path)!r} is no whole array of numbers ({error}): fetch it anew"
        ) from None
