"""Files -> labelled uint8 pictures of 32x32, divided into train, validation and a sealed test.

`load` gives train and validation and of the test no more than its counts; `load_test` is the only
way to its pictures. Both come from one division, which the config alone decides. A name in
`DATASETS` stands for that data set; anything else is the path of a folder, archive or CSV (a folder
that is called `faces` is `./faces`).

Chosen: pictures are small, so a whole split is one array, in memory or in a mapped file. numpy and
Pillow only; importing this reads nothing. What is wrong with the user's data is told by DataError,
in one sentence. CIFAR-10 is downloaded where it is missing, unless that is forbidden.
Left out: augmentation and normalisation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alexnet_mlflow.config import DataConfig, may_download
from alexnet_mlflow.data import audit, bundled, cache, cifar10, cifar10_1, fddb, folder
from alexnet_mlflow.data.audit import Audit, baselines
from alexnet_mlflow.data.copies import Place, seen_rows
from alexnet_mlflow.data.split import (
    PARTS,
    DataError,
    Decoded,
    Described,
    Images,
    Integers,
    Missing,
    Split,
    Splits,
    Whole,
    described,
    divide,
    division_digest,
    part_of,
    stratified_part,
)

__all__ = [
    "DATASETS",
    "Audit",
    "DataError",
    "Described",
    "Inspection",
    "Split",
    "Splits",
    "Whole",
    "baselines",
    "check",
    "get_cifar10",
    "inspect",
    "load",
    "load_test",
    "load_whole",
    "seen_rows",
    "slug",
    "stratified_part",
]

SHOWN = 24  # near-duplicates, and suspect labels, that are shown to people

DATASETS: Mapping[str, Callable[[Path], cache.Source]] = {
    "faces": bundled.faces,
    "digits": bundled.digits,
    "cifar10": cifar10.find,
    "fddb": fddb.find,
    "fddb-hard": fddb.find_hard,
    "fddb-crops": fddb.find_crops,
}


def load(config: DataConfig) -> Splits:
    """Train and validation pictures. Raises DataError for whatever is wrong with the data."""
    decoded, rows = _divided(config)
    splits = {part: part_of(decoded, part, rows[part]) for part in PARTS}
    about = described(decoded, rows, division_digest(decoded, splits))
    return Splits(**about, train=splits["train"], val=splits["val"])


def load_test(config: DataConfig) -> Split:
    """The sealed test split: for the final evaluation alone. Raises DataError like `load`."""
    decoded, rows = _divided(config)
    return part_of(decoded, "test", rows["test"])


def load_whole(config: DataConfig) -> Whole:
    """Every picture, undivided, test pictures among them: to evaluate a model of another data set.

    Needs no picture to learn from, nor several of a class. Raises DataError like `load`.
    """
    decoded = _decoded(config)
    rows = {"all": np.arange(len(decoded.ids))}
    if not len(rows["all"]):
        raise DataError(f"{decoded.source!r} holds no picture that can be read: add some")
    pictures = part_of(decoded, "all", rows["all"])
    return Whole(**described(decoded, rows, pictures.digest), pictures=pictures)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is wrong with a data set, with pictures that show it: (N, 3, 32, 32) uint8, few."""

    title: str
    digest: str
    found: Audit
    published: bool  # the test split came with the data set
    paired: bool  # each picture has a partner of the other class that shares its facts
    copies: tuple[Images, Images]  # of the first near-duplicates that the audit lists
    suspects: Images  # of the first labels that it lists


def inspect(config: DataConfig) -> Inspection:
    """Measure what `audit` measures on this division. Raises DataError like `load`.

    The test pictures are compared with the others; nothing is trained or scored on them.
    """
    decoded, rows = _divided(config)
    splits = {part: part_of(decoded, part, rows[part]) for part in PARTS}
    found = audit.audit(splits["train"], splits["val"], splits["test"], decoded.classes)

    def pictures(places: Iterable[Place]) -> Images:
        chosen = [splits[place.split].images[place.row] for place in places]
        return np.array(chosen, np.uint8).reshape(-1, *decoded.images.shape[1:])

    near = found.near.listed[:SHOWN]
    return Inspection(
        title=decoded.title,
        digest=division_digest(decoded, splits),
        found=found,
        published="test" in decoded.division,
        paired=bool(decoded.identity),
        copies=(pictures(copy.first for copy in near), pictures(copy.second for copy in near)),
        suspects=pictures(suspect.place for suspect in found.labels.listed[:SHOWN]),
    )


def check(config: DataConfig) -> None:
    """Raise DataError where the data set is not there, without decoding it."""
    try:
        _source(config)
    except OSError as error:
        raise _unreadable(error) from None


def get_cifar10(root: Path) -> Mapping[str, str]:
    """Download CIFAR-10 into this folder's `cifar10`; file name -> the URL that served it.

    What is there, whole, is not fetched again. Raises DataError where no mirror gives it.
    """
    from alexnet_mlflow.data import fetch  # brings an HTTP library along

    return fetch.get(fetch.CIFAR10, root / cifar10.NAME)


def slug(dataset: str) -> str:
    """The short name of a data set or folder path, as in `Splits.name`; reads nothing."""
    if dataset in DATASETS:
        return dataset
    name = folder.slug(dataset)
    return f"{name}-folder" if name in DATASETS else name


def _divided(config: DataConfig) -> tuple[Decoded, dict[str, Integers]]:
    decoded = _decoded(config)
    return decoded, divide(decoded, config)


def _decoded(config: DataConfig) -> Decoded:
    try:
        decoded = cache.through(_source(config), config.skip_corrupt)
        return replace(decoded, name=slug(config.dataset))
    except OSError as error:
        raise _unreadable(error) from None
    except MemoryError:
        raise DataError(
            f"the pictures of {config.dataset!r} need more memory than there is: "
            "give fewer pictures, or a machine with more memory"
        ) from None


def _source(config: DataConfig) -> cache.Source:
    if config.dataset in DATASETS:
        root = _absolute(str(config.data_root))
        try:
            return DATASETS[config.dataset](root)
        except Missing:
            if config.dataset != cifar10.NAME or not may_download(config.offline):
                raise
        get_cifar10(root)
        return cifar10.find(root)
    path = os.path.expanduser(config.dataset)
    if path and cifar10_1.is_pair(Path(path)):
        return cifar10_1.find(_absolute(path), slug(path))
    if path and os.path.exists(path):
        return folder.find(_absolute(path), slug(path))
    raise DataError(
        f"the data set {config.dataset!r} is neither a name nor a path that is there: give "
        f"{', '.join(DATASETS)}, or the path of a folder, archive or CSV with pictures by class"
    )


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename or 'the data'!r} cannot be read ({error.strerror or error}): "
        "make it readable, or name another place with --data-dir or --dataset"
    )
