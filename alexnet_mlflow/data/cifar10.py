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
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_mlflow.data import cache
from alexnet_mlflow.data.folder import pixels_or_skip
from alexnet_mlflow.data.split import SIDE, DataError, Decoded, Images, Integers

NAME, TITLE = "cifar10", "CIFAR-10"
JPEG, UNVERIFIED = f"{TITLE} (JPEG copy)", f"{TITLE} (unverified copy)"
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
PARTS = ("train", "test")

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PARQUET = tuple(f"{part}-00000-of-00001.parquet" for part in PARTS)
PARQUET_PLACES = (4, 2, 1, 0, 3)  # where batches 1 to 5 stand in the published parquet
LARGEST_BYTES = 1 << 26  # a batch has 31 MB

# The official copy: its archive, its labels as int64, its pixels as (N, 32, 32, 3).
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
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
        if (archive := place / ARCHIVE).is_file():
            stamp = cache.stamp(place, [ARCHIVE])
            return cache.Source(NAME, place, stamp, partial(_from_archive, archive))
        for below in (place, place / "plain_text"):
            files = tuple(below / name for name in PARQUET)
            if all(file.is_file() for file in files):
                stamp = cache.stamp(below, PARQUET)
                return cache.Source(NAME, below, stamp, partial(_from_parquet, files))
        for entry in (place, *sorted(place.glob(f"{NAME}-*"))):
            if (entry / cache.MANIFEST).is_file():
                return cache.Source(NAME, place, "", partial(_from_entry, entry))
    raise DataError(
        f"no CIFAR-10 ({ARCHIVE}, {FOLDER}, or {' and '.join(PARQUET)}) in {str(root)!r} or "
        f"{str(root / NAME)!r}: name the folder that holds it with --data-dir or ALEXNET_DATA"
    )


def _from_folder(batches: Path, skip_corrupt: bool) -> Decoded:
    raws = ((name, (batches / name).read_bytes()) for name in BATCHES if (batches / name).exists())
    return _from_batches(raws, str(batches), known=True)


def _from_archive(archive: Path, skip_corrupt: bool) -> Decoded:
    with open(archive, "rb") as file:
        known = hashlib.file_digest(file, "sha256").hexdigest() == ARCHIVE_SHA256
    return _from_batches(_members(archive), str(archive), known)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in the archive, one after the other in memory."""
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder != FOLDER or name not in BATCHES or not member.isreg():
                    continue
                if member.size > LARGEST_BYTES:
                    raise tarfile.TarError(f"{name} claims {member.size} bytes")
                if content := tar.extractfile(member):
                    yield name, content.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{str(archive)!r} is not whole ({error}): get it again") from None


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
    images = np.empty((sum(sizes), 3, SIDE, SIDE), np.uint8)
    labels, ids, ends, jpeg = np.empty(sum(sizes), np.int64), list[str](), list[int](), False
    for part, file, size in zip(PARTS, files, sizes, strict=True):
        for row, (raw, label) in zip(range(size), _cells(file), strict=False):
            pixels = pixels_or_skip(f"{file}, row {row}", partial(bytes, raw), skip_corrupt)
            if pixels is not None:
                images[len(ids)], labels[len(ids)] = pixels, label
                ids.append(f"{part}/{row:05d}")
                jpeg |= raw.startswith(b"\xff\xd8")
        ends.append(len(ids))
    train, end = ends
    order = official_order(labels[:train])
    if order is not None:
        images[:train], labels[:train] = images[:train][order], labels[:train][order]
    decoded = _decoded(images[:end], labels[:end], ids, train, str(files[0].parent))
    decoded = replace(decoded, skipped=sum(sizes) - end)
    return replace(decoded, title=JPEG) if jpeg else _titled(decoded)


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
    return decoded if decoded.title == JPEG else _titled(decoded)


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
