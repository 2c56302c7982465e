"""The pictures on disk against every digest that the package knows of them.

Official downloads, what the package noted of a download, the patches it cut, the lists of FDDB,
the cache. A folder of one's own has no digest but the one that each run logs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_mlflow.data import DataError, cache, cifar10, ellipses, fddb, manifest
from alexnet_mlflow.data.memory import folder as cache_folder
from alexnet_mlflow.health import Finding

LISTS = ("FDDB-folds.tgz", "FDDB-folds")


def digests(root: Path) -> list[Finding]:
    """What lies under the data folder and in the cache, each as it was made or published."""
    return [*_cifar10(root), *_fddb(root), *_cached(cache_folder())]


def _cifar10(root: Path) -> Iterator[Finding]:
    from alexnet_mlflow.data.fetch import CIFAR10  # brings an HTTP library along

    known = {remote.name: remote.sha256 for offer in CIFAR10 for remote in offer}
    folders = (root, root / cifar10.NAME)
    for place in (*folders, *(folder / "plain_text" for folder in folders)):
        noted = _noted(place / cifar10.SOURCES)
        for name, official in known.items():
            if (place / name).is_file():
                yield _downloaded(place / name, official, noted.get(name))


def _downloaded(file: Path, official: str, noted: str | None) -> Finding:
    try:
        with open(file, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return Finding("data", "fail", f"{file} cannot be read ({error.strerror}).")
    if sha256 == official:
        return Finding("data", "pass", f"{file} is the official one.")
    if noted and sha256 != noted:
        return Finding("data", "fail", f"{file} has changed since it was downloaded: delete it and "
                                       "get it again with `alexnet-mlflow data get cifar10`.")
    return Finding("data", "warn", f"{file} is another copy than the official one, and results on "
                                   "it say so in their title: `alexnet-mlflow data get cifar10` "
                                   "into another folder gets the official one.")


def _noted(record: Path) -> dict[str, str]:
    """File name -> SHA-256 at the time of its download."""
    try:
        entries = json.loads(record.read_bytes()).items()
        return {name: str(entry["sha256"]) for name, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _fddb(root: Path) -> Iterator[Finding]:
    for hard in (False, True):
        usual = fddb.patches_folder(root, hard)
        for place in (usual, root / usual.name):
            if (place / manifest.MANIFEST).is_file():
                yield _read("data", manifest.read, place, "every patch is as it was cut")
    for place in (root, root / fddb.NAME):
        for name in LISTS:
            if (place / name).exists():
                yield _read("data", ellipses.read, place / name, "FDDB's own ellipse lists")


def _cached(folder: Path) -> Iterator[Finding]:
    entries = sorted(path.parent for path in folder.glob(f"[!.]*/{cache.MANIFEST}"))
    damaged = [entry.name for entry in entries
               if _read("cache", cache.read, entry, "").verdict == "fail"]
    if damaged:
        named = ", ".join(damaged[:3]) + (" ..." if len(damaged) > 3 else "")
        yield Finding("cache", "warn", f"{len(damaged)} of {len(entries)} decoded data sets in "
                                       f"{folder} are damaged or of an older version ({named}): "
                                       "delete them; they are decoded anew when they are needed.")
    else:
        yield Finding("cache", "pass", f"{len(entries)} decoded data sets in {folder} are as they "
                                       "were written.")


def _read(name: str, read: Callable[[Path], object], place: Path, well: str) -> Finding:
    try:
        read(place)
    except (DataError, OSError) as error:
        return Finding(name, "fail", f"{str(error).rstrip('.')}.")
    return Finding(name, "pass", f"{place}: {well}.")
