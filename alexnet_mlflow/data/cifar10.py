"""CIFAR-10 in any form it is handed round: the official python batches, parquet, or decoded.

Chosen: the official train/test division and order. Batches are read from the archive in memory,
nothing is unpacked, and their pickles may build arrays of bytes, containers and text only: what
they call numpy is a stand-in that can do no more. Parquet as published has the batches in the order
4, 3, 2, 5, 1; it is put right where that gives the official labels, and left as it is elsewhere.
The bare title "CIFAR-10" is for exactly the official pixels and labels (and, from an archive, the
official archive); any other copy says in its title what it is.

Left out: downloading, and the 286 test pictures with near-duplicates in train (ciFAIR, arXiv
1902.00423), which stay. Parquet is decoded a thousand pictures at a time, so that memory stays near
the size of the decoded arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_mlflow.data import archive, cache
from alexnet_mlflow.data.decoding import Job, decode_all
from alexnet_mlflow.data.picture import FORMATS
from alexnet_mlflow.data.split import SIDE, DataError, Decoded, Images, Integers, Missing

NAME, TITLE = "cifar10", "CIFAR-10"
JPEG, UNVERIFIED = f"{TITLE} (JPEG copy)", f"{TITLE} (unverified copy)"
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
PARTS = ("train", "test")

SOURCES = "sources.json"  # what `fetch` notes beside the files it brought
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PARQUET = tuple(f"{part}-00000-of-00001.parquet" for part in PARTS)
PARQUET_PLACES = (4, 2, 1, 0, 3)  # where batches 1 to 5 stand in the published parquet
LARGEST_BYTES = 1 << 26  # a batch has 31 MB

# The official copy: its archive, its labels as int64, its pixels as (N, 32, 32, 3).
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
EACH = {"train": 5000, "test": 1000}  # pictures of each class
LABELS_SHA256 = {
    "train": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}
PIXELS_MD5 = {
    "train": "17e2cb5a4119d89a4a13e02b91701bff",
    "test": "6d2714505047e13831cd876923568712",
}


def find(root: Path) -> cache.Source:
    """CIFAR-10 under this folder or its `cifar10`; DataError where none of the forms is there."""
    for place in (root, root / NAME):
        if (batches := place / FOLDER).is_dir():
            stamp = cache.stamp(batches, BATCHES)
            return cache.Source(NAME, place, stamp, partial(_from_folder, batches))
        if (packed := place / ARCHIVE).is_file():
            return _downloaded(place, [ARCHIVE], partial(_from_archive, packed))
        for below in (place, place / "plain_text"):
            files = tuple(below / name for name in PARQUET)
            if all(file.is_file() for file in files):
                return _downloaded(below, PARQUET, partial(_from_parquet, files))
        for entry in (place, *sorted(place.glob(f"{NAME}-*"))):
            if (entry / cache.MANIFEST).is_file():
                return cache.Source(NAME, place, "", partial(_from_entry, entry))
    raise Missing(
        f"no CIFAR-10 ({ARCHIVE}, {FOLDER}, or {' and '.join(PARQUET)}) in {str(root)!r} or "
        f"{str(root / NAME)!r}: get it with `alexnet-mlflow data get cifar10`, or name the folder "
        "that holds it with --data-dir or ALEXNET_DATA"
    )


def _downloaded(
    folder: Path, names: Sequence[str], decode: Callable[[bool], Decoded]
) -> cache.Source:
    """Files that may have been downloaded: their source is then where they were served from."""
    def with_source(skip_corrupt: bool) -> Decoded:
        decoded, urls = decode(skip_corrupt), _urls(folder, names)
        return replace(decoded, source=" and ".join(urls)) if urls else decoded

    return cache.Source(NAME, folder, cache.stamp(folder, [*names, SOURCES]), with_source)


def _urls(folder: Path, names: Sequence[str]) -> list[str]:
    """Where each of these files was served from, as `fetch` noted it of the very same bytes."""
    try:
        record = json.loads((folder / SOURCES).read_bytes())
        found = [record[name] for name in names]
        for name, entry in zip(names, found, strict=True):
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return []
        return [str(entry["url"]) for entry in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _from_folder(batches: Path, skip_corrupt: bool) -> Decoded:
    there = [name for name in BATCHES if (batches / name).exists()]
    raws = ((name, archive.content(str(batches / name), LARGEST_BYTES)) for name in there)
    return _from_batches(raws, str(batches), known=True)


def _from_archive(path: Path, skip_corrupt: bool) -> Decoded:
    with open(path, "rb") as file:
        known = hashlib.file_digest(file, "sha256").hexdigest() == ARCHIVE_SHA256
    return _from_batches(_members(path), str(path), known)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in the archive, one after the other in memory."""
    inside = {f"{FOLDER}/{name}" for name in BATCHES}
    for name, raw in archive.members(path, inside.__contains__, LARGEST_BYTES):
        yield name.removeprefix(f"{FOLDER}/"), raw


def _from_batches(raws: Iterable[tuple[str, bytes]], source: str, known: bool) -> Decoded:
    found = {name: read_batch(raw, f"{source}/{name}") for name, raw in raws}
    for name in BATCHES:
        if name not in found:
            raise DataError(f"{source!r} lacks {name}: get a whole copy")
    images, labels = (np.concatenate([found[name][at] for name in BATCHES]) for at in (0, 1))
    train = len(labels) - len(found["test_batch"][1])
    ids = [f"train/{row:05d}" for row in range(train)]
    ids += [f"test/{row:05d}" for row in range(len(labels) - train)]
    decoded = _decoded(images, labels, ids, train, source)
    return _titled(decoded) if known else decoded


def read_batch(raw: bytes, name: str) -> tuple[Images, Integers]:
    """One official batch file -> images (N, 3, 32, 32) uint8 and labels (N,) int64."""
    try:
        batch = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        values, labels = (batch[key] for key in (b"data", b"labels"))
        images = values.values.reshape(-1, 3, SIDE, SIDE)
        if len(labels) != len(images) or not all(type(label) is int for label in labels):
            raise ValueError(f"{len(images)} pictures need as many numbers as labels")
        return images, np.array(labels, np.int64)
    except Exception as error:  # a broken pickle raises nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{name!r} is not a CIFAR-10 batch ({reason}): get it again") from None


class _Kind:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which single bytes do not have."""


class _Bytes:
    """Stands in for an array that is being rebuilt; only bytes can be."""

    values: Images

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind) or kind.code not in ("u1", b"u1"):
            raise pickle.UnpicklingError("pixels must be single bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Knows the four names that a pickled array of bytes needs, and imports none of them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _Kind
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # handed to _reconstruct, which does not look at it
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Bytes()
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which pictures do not need")


def _from_parquet(files: tuple[Path, ...], skip_corrupt: bool) -> Decoded:
    sizes = [_row_count(file) for file in files]
    labels = np.zeros(sum(sizes), np.int64)
    images, facts, rows = decode_all(_jobs(files, sizes, labels), len(labels), skip_corrupt)
    train = int(np.searchsorted(rows, sizes[0]))
    ids = [f"train/{row:05d}" for row in rows[:train].tolist()]
    ids += [f"test/{row - sizes[0]:05d}" for row in rows[train:].tolist()]
    skipped, labels = len(labels) - len(rows), labels[rows]
    order = official_order(labels[:train])
    if order is not None:
        columns: list[Any] = [images, labels, *facts.values()]
        for column in columns:
            column[:train] = column[:train][order]
    decoded = replace(
        _decoded(images, labels, ids, train, str(files[0].parent)), skipped=skipped, facts=facts
    )
    jpeg = bool((facts["format"] == FORMATS.index("JPEG")).any())
    if jpeg:
        return replace(decoded, title=JPEG if _balanced(decoded) else UNVERIFIED)
    return _titled(decoded)


def _balanced(decoded: Decoded) -> bool:
    """Has each part as many pictures of each class as the official one? Rows may be shuffled."""
    return all(
        (np.bincount(decoded.labels[start:end], minlength=len(CLASSES)) == EACH[part]).all()
        for part, (start, end) in decoded.division.items()
    )


def _jobs(files: tuple[Path, ...], sizes: list[int], labels: Integers) -> Iterator[Job]:
    """The pictures of these parquet files, row after row; puts their labels down."""
    start = 0
    for file, size in zip(files, sizes, strict=True):
        for row, (raw, label) in zip(range(size), _cells(file), strict=False):
            labels[start + row] = label
            yield Job(start + row, f"{file}, row {row}", partial(bytes, raw))
        start += size


def _row_count(file: Path) -> int:
    """Rows of a parquet file, once it is clear that it has the columns."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            columns = {column.path for column in map(table.schema.column, range(len(table.schema)))}
            rows = int(table.metadata.num_rows)
            whole = pa.types.is_integer(table.schema_arrow.field("label").type)
    except KeyError:
        whole = False
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(file)!r} is not whole parquet ({error}): get it again") from None
    if not whole or "img.bytes" not in columns:
        raise DataError(
            f"{str(file)!r} must have the columns img (with bytes) and label (whole numbers), "
            f"got {', '.join(sorted(columns))}: get the copy that has them"
        )
    return rows


def _cells(file: Path) -> Iterator[tuple[bytes, int]]:
    """Encoded picture (empty where there is none) and label of each row."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(1000, columns=["img.bytes", "label"]):
                columns = (batch.column(name).to_pylist() for name in ("img", "label"))
                for cell, label in zip(*columns, strict=True):
                    if label is None or not 0 <= label < len(CLASSES):
                        raise DataError(
                            f"{str(file)!r} must have labels 0 to {len(CLASSES) - 1}, "
                            f"got {label}: get another copy"
                        )
                    yield (cell or {}).get("bytes") or b"", label
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(file)!r} is not whole parquet ({error}): get it again") from None


def official_order(labels: Integers, known: str = LABELS_SHA256["train"]) -> Integers | None:
    """The order that makes published parquet's train rows official, where it does; else None."""
    if len(labels) % len(PARQUET_PLACES):
        return None
    blocks = np.arange(len(labels)).reshape(len(PARQUET_PLACES), -1)
    order = blocks[list(PARQUET_PLACES)].ravel()
    return order if hashlib.sha256(labels[order].tobytes()).hexdigest() == known else None


def _from_entry(entry: Path, skip_corrupt: bool) -> Decoded:
    decoded = replace(cache.read(entry), name=NAME, source=str(entry))
    if decoded.classes != CLASSES or tuple(decoded.division) != PARTS:
        raise DataError(f"{str(entry)!r} holds {decoded.title!r}, not CIFAR-10: move it away")
    return decoded if decoded.title == JPEG and _balanced(decoded) else _titled(decoded)


def _decoded(images: Images, labels: Integers, ids: list[str], train: int, source: str) -> Decoded:
    division = {"train": (0, train), "test": (train, len(ids))}
    names = np.array(ids, np.str_)
    return Decoded(NAME, UNVERIFIED, CLASSES, source, images, labels, names, division)


def _titled(decoded: Decoded) -> Decoded:
    """With the title of the official copy if it is that, pixel by pixel."""
    official = all(
        hashlib.sha256(decoded.labels[start:end].tobytes()).hexdigest() == LABELS_SHA256[part]
        and pixels_md5(decoded.images[start:end]) == PIXELS_MD5[part]
        for part, (start, end) in decoded.division.items()
    )
    return replace(decoded, title=TITLE if official else UNVERIFIED)


def pixels_md5(images: Images) -> str:
    """MD5 (hex) of the pixels in the order (N, H, W, 3), a thousand pictures at a time."""
    md5 = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(images), 1000):
        md5.update(images[start : start + 1000].transpose(0, 2, 3, 1).tobytes())
    return md5.hexdigest()
