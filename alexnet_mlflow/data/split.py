"""What a data set is once it is decoded, and how it is divided: stratified, seeded, disjoint.

Chosen: a picture's place in the draw is the SHA-256 of seed and id, not a random generator's and
not scikit-learn's (whose splitters promise neither a picture of every class nor the same division
in the next version). So the division is the same on every machine and with every library version,
it does not depend on the order of the files, a smaller `limit` is a part of a larger one, and one
picture more moves few others. Test pictures are drawn first and `limit` never touches them.
Where pictures have groups (one photo, one person), a part that is cut here gets whole groups.

Left out: near-duplicates, which `duplicates` finds and `audit` tells of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import memory
from alexnet_mlflow.options import BadInput

SIDE = 32  # pixels: every picture is (3, SIDE, SIDE)
PARTS = ("train", "val", "test")

Images = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.str_]
Facts: TypeAlias = Mapping[str, npt.NDArray[np.float32]]  # name -> (N,), known without pixels


class DataError(BadInput):
    """The user's data or its options are wrong: one sentence with rule, value and way out.

    What a hostile file brings into it stays on one line and short; start and end are kept.
    """

    def __init__(self, sentence: str) -> None:
        text = "".join(letter if letter.isprintable() else " " for letter in sentence)
        super().__init__(text if len(text) <= 600 else f"{text[:400]} ... {text[-195:]}")


class Missing(DataError):
    """The data set is not there at all; what can be downloaded may be."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A whole data set in memory, before it is divided; wrong contents raise DataError."""

    name: str
    title: str
    classes: tuple[str, ...]
    source: str
    images: Images  # (N, 3, 32, 32) uint8, 0..255
    labels: Integers  # (N,) int64, 0..len(classes) - 1
    ids: Ids  # (N,) str, all different
    division: Mapping[str, tuple[int, int]]  # "train", "val", "test" or "undivided" -> rows a..b
    skipped: int = 0
    groups: Ids | None = None  # (N,) str: the photo or person a picture is of; None: each its own
    facts: Facts = field(default_factory=dict)  # name -> (N,): known without looking at pixels
    identity: str = ""  # SHA-256 (hex) of a manifest that fixes pixels, labels and division

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise DataError(f"{self.source!r} {fault}: give another copy of {self.title}")

    def _fault(self) -> str:
        n, images, labels = len(self.ids), self.images, self.labels
        if images.shape != (n, 3, SIDE, SIDE) or images.dtype != np.uint8:
            return f"holds {images.dtype} pictures of shape {images.shape} for {n} names"
        if labels.shape != (n,) or labels.dtype != np.int64:
            return f"holds {labels.dtype} labels of shape {labels.shape} for {n} pictures"
        if n and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            return f"has labels {labels.min()} to {labels.max()} for {len(self.classes)} classes"
        if len(np.unique(self.ids)) != n:
            return "names a picture twice"
        for name, column in {"groups": self.groups, **self.facts}.items():
            if column is not None and column.shape != (n,):
                return f"has {name} of shape {column.shape} for {n} pictures"
        edges = [edge for rows in self.division.values() for edge in rows]
        if edges[:1] + edges[-1:] != [0, n] or edges[1:-1:2] != edges[2::2] or (
            edges != sorted(edges)
        ):
            return f"is divided into {dict(self.division)}, which are not its {n} pictures in order"
        return ""

    def rows(self, *parts: str) -> Integers:
        """The row numbers of these parts of the division, in order."""
        ranges = [np.arange(*self.division[part]) for part in parts if part in self.division]
        return np.concatenate([np.zeros(0, np.int64), *ranges])


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a divided data set."""

    name: str  # "train", "val" or "test"
    images: Images  # (N, 3, 32, 32) uint8, 0..255, C-contiguous
    labels: Integers  # (N,) int64
    ids: Ids  # (N,) str: relative path, or place in the source such as "train/00017"
    groups: Ids  # (N,) str: the photo or person each is of; its id where nothing is known
    facts: Facts = field(default_factory=dict)  # name -> (N,): known without looking at pixels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over ids, labels and pixels, computed anew at each call."""
        sha = hashlib.sha256(json.dumps(self.ids.tolist()).encode())
        sha.update(self.labels.astype("<i8").tobytes())
        sha.update(self.images.data)
        memory.let_go(self.images)
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Described:
    """What is told of a data set."""

    name: str  # slug for names of models: "cifar10"
    title: str  # for people: "CIFAR-10 (JPEG copy)"
    classes: tuple[str, ...]
    source: str
    digest: str  # SHA-256 (hex) of the whole division, test included
    counts: Mapping[str, Mapping[str, int]]  # split -> class -> pictures, test included
    skipped: int  # pictures left out because they could not be decoded


@dataclass(frozen=True, eq=False)
class Splits(Described):
    """What training may see. Of the test split it tells the number of pictures, nothing else."""

    train: Split
    val: Split


@dataclass(frozen=True, eq=False)
class Whole(Described):
    """A data set without a division, for a model that has learnt from none of it."""

    pictures: Split


def described(decoded: Decoded, rows: Mapping[str, Integers], digest: str) -> dict[str, Any]:
    """The fields of Described, of these splits of a data set."""
    return {
        "name": decoded.name, "title": decoded.title, "classes": decoded.classes,
        "source": decoded.source, "digest": digest, "skipped": decoded.skipped,
        "counts": {part: class_counts(decoded, chosen) for part, chosen in rows.items()},
    }


def part_of(data: Decoded | Split, name: str, rows: Integers) -> Split:
    """These rows as a split of its own memory."""
    return Split(
        name=name,
        images=memory.taken(data.images, rows),
        labels=data.labels[rows],
        ids=data.ids[rows],
        groups=(data.ids if data.groups is None else data.groups)[rows],
        facts={name: column[rows] for name, column in data.facts.items()},
    )


def division_digest(decoded: Decoded, splits: Mapping[str, Split]) -> str:
    """SHA-256 (hex) over the class names and the digest of each split.

    Where the data set brings a manifest and is divided as that says, it is the manifest's own.
    """
    own = {part: decoded.ids[decoded.rows(part)] for part in PARTS}
    if decoded.identity and all(np.array_equal(splits[part].ids, own[part]) for part in PARTS):
        return decoded.identity
    digests = {part: splits[part].digest for part in PARTS}
    text = json.dumps({"classes": decoded.classes, "splits": digests})
    return hashlib.sha256(text.encode()).hexdigest()


def class_counts(decoded: Decoded, rows: Integers) -> dict[str, int]:
    """Pictures of each class among these rows."""
    counts = np.bincount(decoded.labels[rows], minlength=len(decoded.classes))
    return dict(zip(decoded.classes, counts.tolist(), strict=True))


def divide(decoded: Decoded, config: DataConfig) -> dict[str, Integers]:
    """Sorted row numbers of train, val and test; each holds every class, or DataError is raised.

    A part that the data set brings along is kept. Otherwise test_fraction of all training pictures
    becomes the test split, `limit` pictures of the rest stay, val_fraction of those validate.
    """
    if not {"train", "undivided"} & decoded.division.keys():
        raise DataError(
            f"{decoded.source!r} has {' and '.join(decoded.division)} pictures but none to learn "
            "from: put those in train/<class>/ (or name the split train), or give all pictures "
            "without a division; a model of the same classes can be evaluated on it as it is"
        )
    pool, val, test = decoded.rows("train", "undivided"), decoded.rows("val"), decoded.rows("test")
    cut = [part for part in ("val", "test") if part not in decoded.division]
    _require_every_class(decoded, pool, "train", 1 + len(cut))
    for part, rows in (("val", val), ("test", test)):
        if part not in cut:
            _require_every_class(decoded, rows, part, 1)
    if "test" in cut:
        test = _share(decoded, pool, config.test_fraction, len(cut), "test", config.split_seed)
        pool = np.setdiff1d(pool, test)
    if 0 < config.limit < len(pool) + len(val):
        pool, val = _limited(decoded, pool, val, config)
    if "val" in cut:
        val = _share(decoded, pool, config.val_fraction, 1, "val", config.split_seed)
        pool = np.setdiff1d(pool, val)
    if decoded.groups is not None:  # whole groups may leave a part without some class
        for part, rows in (("train", pool), ("val", val), ("test", test)):
            _require_every_class(decoded, rows, part, 1)
    return {"train": pool, "val": val, "test": test}


def stratified_part(split: Split, count: int, seed: int) -> Split:
    """`count` pictures of a split with the shares of its classes kept; all where it has fewer.

    Each class keeps one picture, so that a part of C classes has C pictures at least.
    """
    sizes = np.bincount(split.labels)
    count = max(count, int(np.count_nonzero(sizes)))
    if count >= len(split):
        return split
    quotas = _quotas(sizes, count, 1)
    rows = _drawn(split.ids, np.arange(len(split)), split.labels, quotas, f"part/{seed}")
    return part_of(split, split.name, rows)


def _require_every_class(decoded: Decoded, rows: Integers, part: str, least: int) -> None:
    if len(decoded.classes) < 2:
        raise DataError(
            f"{decoded.source!r} has one class only ({', '.join(map(repr, decoded.classes))}): "
            "a classifier needs the pictures of two or more, each in a folder of its own"
        )
    for name, count in class_counts(decoded, rows).items():
        if count < least:
            why = ", one for each split to be cut from them" if least > 1 else ""
            raise DataError(
                f"class {name!r} must have {least} or more readable pictures{why} in the {part} "
                f"part of {decoded.source!r}, got {count}: add pictures or take the class away"
            )


def _share(
    decoded: Decoded, rows: Integers, fraction: float, leave: int, part: str, seed: int
) -> Integers:
    """A fraction of each class, rounded; at least one picture, and at least `leave` stay behind.

    Of pictures with groups, whole groups that come near to it.
    """
    strata = decoded.labels[rows]
    sizes = np.bincount(strata, minlength=len(decoded.classes))
    quotas = np.clip(np.rint(sizes * fraction).astype(np.int64), 1, sizes - leave)
    if decoded.groups is not None:
        return _whole_groups(decoded.groups[rows], rows, strata, quotas, f"{part}/{seed}")
    return _drawn(decoded.ids, rows, strata, quotas, f"{part}/{seed}")


def _limited(
    decoded: Decoded, pool: Integers, val: Integers, config: DataConfig
) -> tuple[Integers, Integers]:
    """`limit` pictures of the two, with the shares of classes and of validation kept."""
    classes, rows = len(decoded.classes), np.concatenate([pool, val])
    strata = decoded.labels[rows] + classes * (np.arange(len(rows)) >= len(pool))
    sizes = np.bincount(strata, minlength=classes * (2 if len(val) else 1))
    if config.limit < 2 * classes:
        raise DataError(
            f"--limit must leave a picture of each of the {classes} classes in training and in "
            f"validation, got {config.limit}: give {2 * classes} or more, or 0 for all"
        )
    quotas = _quotas(sizes, config.limit, 1 if len(val) else 2)
    kept = _drawn(decoded.ids, rows, strata, quotas, f"limit/{config.split_seed}")
    return np.intersect1d(pool, kept), np.intersect1d(val, kept)


def _quotas(sizes: Integers, total: int, least: int) -> Integers:
    """`total` shared out in proportion (largest remainders), never fewer than `least` each."""
    exact = sizes * total / sizes.sum()
    quotas: Integers = np.maximum(np.floor(exact).astype(np.int64), least)
    while missing := total - quotas.sum():
        if missing > 0:
            quotas[np.argmax(np.where(quotas < sizes, exact - quotas, -np.inf))] += 1
        else:
            quotas[np.argmin(np.where(quotas > least, exact - quotas, np.inf))] -= 1
    return quotas


def _drawn(ids: Ids, rows: Integers, strata: Integers, quotas: Integers, key: str) -> Integers:
    """Of each stratum its quota of rows: those with the smallest hash of key and id. Sorted."""
    order = np.lexsort([_ranks(ids[rows], key), strata])
    sizes = np.bincount(strata, minlength=len(quotas))
    place = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[strata[order]]
    return np.sort(rows[order[place < quotas[strata[order]]]])


def _whole_groups(
    groups: Ids, rows: Integers, strata: Integers, quotas: Integers, key: str
) -> Integers:
    """Whole groups in the order of their hash, each if it brings the classes nearer their quotas.

    Nearer: the sum over classes of what is missing or too many, in pictures, becomes smaller.
    """
    names, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(quotas)), np.int64)
    np.add.at(counts, (member, strata), 1)
    chosen, missing = np.zeros(len(names), bool), quotas
    for group in np.argsort(_ranks(names, key), kind="stable"):
        left = missing - counts[group]
        if np.abs(left).sum() < np.abs(missing).sum():
            chosen[group], missing = True, left
    return rows[chosen[member]]


def _ranks(ids: Ids, key: str) -> npt.NDArray[np.uint64]:
    texts = (f"{key}/{name}".encode("utf-8", "surrogatepass") for name in ids.tolist())
    heads = b"".join(hashlib.sha256(text).digest()[:8] for text in texts)
    return np.frombuffer(heads, dtype=">u8").astype(np.uint64)
