"""Files -> labelled uint8 pictures of 32x32, divided into train, validation and a sealed test.

`load` gives train and validation and of the test no more than its counts; `load_test` is the only
way to its pictures. Both come from one division, which the config alone decides. A name in
`DATASETS` stands for that data set; anything else is the path of a picture folder (a folder that
is called `faces` is `./faces`).

Chosen: everything is small enough to be held in memory whole. numpy and Pillow only; importing
this reads nothing. What is wrong with the user's data is told by DataError, in one sentence.
Left out: downloading, augmentation and normalisation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import bundled, cache, cifar10, fddb, folder
from alexnet_mlflow.data.split import (
    PARTS,
    DataError,
    Decoded,
    Integers,
    Split,
    Splits,
    class_counts,
    divide,
    division_digest,
    part_of,
    stratified_part,
)

__all__ = [
    "DATASETS",
    "DataError",
    "Split",
    "Splits",
    "check",
    "load",
    "load_test",
    "slug",
    "stratified_part",
]

DATASETS: Mapping[str, Callable[[Path], cache.Source]] = {
    "faces": bundled.faces,
    "digits": bundled.digits,
    "cifar10": cifar10.find,
    "fddb": fddb.find,
}


def load(config: DataConfig) -> Splits:
    """Train and validation pictures. Raises DataError for whatever is wrong with the data."""
    decoded, rows = _divided(config)
    splits = {part: part_of(decoded, part, rows[part]) for part in PARTS}
    return Splits(
        name=decoded.name,
        title=decoded.title,
        classes=decoded.classes,
        train=splits["train"],
        val=splits["val"],
        source=decoded.source,
        digest=division_digest(decoded, splits),
        counts={name: class_counts(decoded, rows[name]) for name in PARTS},
        skipped=decoded.skipped,
    )


def load_test(config: DataConfig) -> Split:
    """The sealed test split: for the final evaluation alone. Raises DataError like `load`."""
    decoded, rows = _divided(config)
    return part_of(decoded, "test", rows["test"])


def check(config: DataConfig) -> None:
    """Raise DataError where the data set is not there, without decoding it."""
    try:
        _source(config)
    except OSError as error:
        raise _unreadable(error) from None


def slug(dataset: str) -> str:
    """The short name of a data set or folder path, as in `Splits.name`; reads nothing."""
    if dataset in DATASETS:
        return dataset
    name = folder.slug(dataset)
    return f"{name}-folder" if name in DATASETS else name


def _divided(config: DataConfig) -> tuple[Decoded, dict[str, Integers]]:
    try:
        decoded = cache.through(_source(config), config.skip_corrupt)
        return decoded, divide(decoded, config)
    except OSError as error:
        raise _unreadable(error) from None
    except MemoryError:
        raise DataError(
            f"the pictures of {config.dataset!r} need more memory than there is: "
            "give fewer pictures, or a machine with more memory"
        ) from None


def _source(config: DataConfig) -> cache.Source:
    if config.dataset in DATASETS:
        return DATASETS[config.dataset](_absolute(str(config.data_root)))
    path = os.path.expanduser(config.dataset)
    if path and os.path.isdir(path):
        return folder.find(_absolute(path), slug(path))
    fault = "is a file, not a folder" if os.path.isfile(path) else "is neither a name nor a folder"
    raise DataError(
        f"the data set {config.dataset!r} {fault}: give {', '.join(DATASETS)}, or the path of a "
        "folder with the pictures of each class in a folder of its own"
    )


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename or 'the data'!r} cannot be read ({error.strerror or error}): "
        "make it readable, or name another place with --data-dir or --dataset"
    )
