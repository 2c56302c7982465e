"""Decoded data sets on disk, so that pictures are decoded once and not at every start.

Chosen: one folder an entry, `<name>-<16 hex digits of its key>`, with images.npy, labels.npy,
ids.json, groups.json, facts.npz and manifest.json. The key covers everything the pixels depend on:
this format, Pillow's version, where the source files lie, their sizes and times of change, and
`skip_corrupt`. An entry is written beside its place, flushed and renamed, so a reader sees all of
it or nothing, and of two writers the first wins. Each read checks the SHA-256 of every file; a
damaged entry is built anew. A cache that cannot be written is told once and gone without. Nothing
in it is ever unpickled.

Left out: clearing up. Any entry, or the whole folder, may be deleted at any time. A file that is
replaced by another of the same size and the same time of change is not noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from alexnet_mlflow.data import memory
from alexnet_mlflow.data.memory import folder
from alexnet_mlflow.data.split import DataError, Decoded
from alexnet_mlflow.disk import flush

FORMAT = 2
MANIFEST = "manifest.json"
FILES = ("images.npy", "labels.npy", "ids.json", "groups.json", "facts.npz")
BROKEN = (
    OSError, EOFError, OverflowError, RecursionError, ValueError, KeyError, TypeError,
    AttributeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # what reading an entry that somebody made up can raise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A data set that was found but not read yet."""

    name: str
    root: Path
    stamp: str  # changes when a source file does; "" where it is not worth a cache entry
    decode: Callable[[bool], Decoded]  # skip_corrupt -> everything


def through(source: Source, skip_corrupt: bool) -> Decoded:
    """The data set from its entry, else decoded and kept there for the next time."""
    if not source.stamp:
        return source.decode(skip_corrupt)
    entry = folder() / f"{source.name}-{key(source, skip_corrupt)[:16]}"
    kept = _intact(entry)
    if kept is not None:
        return kept
    decoded = source.decode(skip_corrupt)
    try:
        write(decoded, entry)
        memory.let_go(decoded.images)
    except OSError as error:
        logger.warning("going on without the cache: %s", error)
    return decoded


def key(source: Source, skip_corrupt: bool) -> str:
    """SHA-256 (hex) over all that the decoded pictures depend on."""
    root = str(source.root.resolve())
    text = json.dumps([FORMAT, PIL.__version__, source.name, root, source.stamp, skip_corrupt])
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(root: Path, names: Iterable[str]) -> str:
    """SHA-256 (hex) over name, size and time of change of each file below this folder."""
    sha = hashlib.sha256()
    for name in names:
        try:
            status = os.stat(os.path.join(root, name))
            mark = (status.st_size, status.st_mtime_ns)
        except OSError:
            mark = (-1, -1)  # a dangling link, say: for the decoder to tell
        sha.update(json.dumps([name, *mark]).encode())
    return sha.hexdigest()


def read(entry: Path) -> Decoded:
    """The data set in this folder; DataError unless every file is there as it was written."""
    try:
        body = json.loads((entry / MANIFEST).read_bytes())
        if body.pop("sha256") != _seal(body) or body.pop("format") != FORMAT:
            raise ValueError(f"{MANIFEST} is not as it was written")
        digests = body.pop("files")
        for name in FILES:
            if _sha256(entry / name) != digests[name]:
                raise ValueError(f"{name} is not as it was written")
        return _decoded(entry, body)
    except BROKEN as error:
        raise DataError(
            f"the decoded pictures in {str(entry)!r} are damaged ({error}): delete that folder"
        ) from None


def _decoded(entry: Path, body: dict[str, Any]) -> Decoded:
    many = (entry / FILES[0]).stat().st_size > memory.IN_MEMORY_BYTES
    images = np.load(entry / FILES[0], mmap_mode="r" if many else None, allow_pickle=False)
    labels = np.load(entry / FILES[1], allow_pickle=False)
    ids, groups = (json.loads((entry / name).read_bytes()) for name in FILES[2:4])
    with np.load(entry / FILES[4], allow_pickle=False) as columns:
        facts = {name: columns[name] for name in columns.files}
    division = {part: (int(rows[0]), int(rows[1])) for part, rows in body.pop("division")}
    classes = tuple(body.pop("classes"))
    return Decoded(
        images=images,
        labels=labels,
        ids=np.array(ids, np.str_),
        groups=None if groups is None else np.array(groups, np.str_),
        facts=facts,
        division=division,
        classes=classes,
        **body,
    )


def _intact(entry: Path) -> Decoded | None:
    if not entry.is_dir():
        return None
    try:
        return read(entry)
    except DataError as error:
        logger.warning("decoding anew, since %s", error)
        return None


def write(decoded: Decoded, entry: Path) -> None:
    """Put the data set in this folder, unless an intact one stands there by then. May OSError."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    draft = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    draft.mkdir()
    try:
        _fill(draft, decoded)
        _place(draft, entry)
        flush(entry.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(draft: Path, decoded: Decoded) -> None:
    np.save(draft / FILES[0], decoded.images, allow_pickle=False)
    np.save(draft / FILES[1], decoded.labels, allow_pickle=False)
    (draft / FILES[2]).write_text(json.dumps(decoded.ids.tolist()))
    groups = None if decoded.groups is None else decoded.groups.tolist()
    (draft / FILES[3]).write_text(json.dumps(groups))
    np.savez(draft / FILES[4], allow_pickle=False, **decoded.facts)
    body: dict[str, Any] = {
        "format": FORMAT,
        "name": decoded.name,
        "title": decoded.title,
        "classes": decoded.classes,
        "source": decoded.source,
        "division": list(decoded.division.items()),  # pairs: their order counts
        "skipped": decoded.skipped,
        "identity": decoded.identity,
        "files": {name: _sha256(draft / name) for name in FILES},
    }
    (draft / MANIFEST).write_text(json.dumps({**body, "sha256": _seal(body)}, indent=1))
    for path in (*draft.iterdir(), draft):
        flush(path)


def _place(draft: Path, entry: Path) -> None:
    try:
        os.rename(draft, entry)
    except OSError:
        if not entry.exists():
            raise
        if _intact(entry) is None:  # else another process was first, and wrote the same
            shutil.rmtree(entry, ignore_errors=True)
            os.rename(draft, entry)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
