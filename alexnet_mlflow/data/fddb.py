"""FDDB: patches that were cut here from its photos (`data get fddb`), or somebody's ready crops.

`fddb` is the paired patches where they have been built, else the crops; `fddb-hard` the variant
with background next to faces; `fddb-crops` the crops in any case: faces and background of 20x20
pixels, in a zip archive or unpacked.

Chosen: the crops' archive is read in memory and never unpacked; its train/test division is kept, so
that 2,000 pictures give the report's 1,800 to learn from and 200 to validate on, beside 200 for the
test. Class 0 is `face`.

Left out: which photo each crop is from, so crops of one photo may stand in two splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path

from alexnet_mlflow.data import archive, cache, folder, manifest
from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.picture import is_picture
from alexnet_mlflow.data.split import DataError, Decoded

NAME, TITLE = "fddb", "FDDB (ready 20 px crops)"
CROPS = "fddb-crops-20px"
CLASSES = ("face", "nonface")
PARTS = ("train", "test")
MEMBER = re.compile(f"({'|'.join(PARTS)})/({'|'.join(CLASSES)})/([^/]+)")
LARGEST_BYTES = 1 << 20  # a crop has about 1,000


def patches_folder(root: Path, hard: bool) -> Path:
    """Where `data get fddb` puts its patches."""
    return root / NAME / ("patches-hard" if hard else "patches")


def find(root: Path) -> Source:
    """The patches under this folder, else the crops; DataError where there are neither."""
    return _patches(root, False) or find_crops(root)


def find_hard(root: Path) -> Source:
    """The patches with hard background; DataError where they have not been built."""
    if source := _patches(root, True):
        return source
    raise DataError(
        f"no FDDB patches with hard background in {str(patches_folder(root, True))!r}: build them "
        "with `alexnet-mlflow data get fddb --hard`"
    )


def _patches(root: Path, hard: bool) -> Source | None:
    """Not worth a cache entry: every patch is compared with the manifest at each start."""
    usual = patches_folder(root, hard)
    for place in (usual, root / usual.name):
        if (place / manifest.MANIFEST).is_file():
            return Source(NAME, place, "", partial(_read_patches, place))
    return None


def _read_patches(place: Path, skip_corrupt: bool) -> Decoded:
    return manifest.read(place)


def find_crops(root: Path) -> Source:
    """The crops under this folder or its `fddb`; DataError where there are none."""
    for place in (root, root / NAME):
        crops = place / f"{CROPS}.zip"
        if crops.is_file():
            stamp = cache.stamp(place, [crops.name])
            return Source(NAME, place, stamp, partial(_decode_zip, crops))
        for unpacked in (place / CROPS, place):
            if (unpacked / PARTS[0] / CLASSES[0]).is_dir():
                return _unpacked(unpacked)
    raise DataError(
        f"no FDDB patches, and no crops ({CROPS}.zip), in {str(root)!r} or {str(root / NAME)!r}: "
        "build patches from the photos with `alexnet-mlflow data get fddb`, or name the folder "
        "that holds them with --data-dir or ALEXNET_DATA"
    )


def _unpacked(root: Path) -> Source:
    for place in (root / part / kind for part in PARTS for kind in CLASSES):
        if not place.is_dir():
            raise DataError(f"the FDDB crops lack the folder {str(place)!r}: unpack them again")
    names = [
        f"{part}/{kind}/{name}"
        for part, kind in product(PARTS, CLASSES)
        for name in folder.pictures_in(root / part / kind)
    ]
    return Source(NAME, root, cache.stamp(root, names), partial(_decode_files, names, root))


def _decode_files(names: list[str], root: Path, skip_corrupt: bool) -> Decoded:
    listing = _listing(names, root)
    return folder.decoded_files(listing, root, NAME, TITLE, str(root), skip_corrupt)


def _decode_zip(path: Path, skip_corrupt: bool) -> Decoded:
    listing = _listing(archive.names(path, _is_crop, LARGEST_BYTES), path)
    return folder.decoded_members(listing, path, "", NAME, TITLE, skip_corrupt)


def _is_crop(name: str) -> bool:
    match = MEMBER.fullmatch(name)
    return match is not None and is_picture(match[3])


def _listing(names: Iterable[str], source: Path) -> folder.Listing:
    """The crops by part and class; DataError where one has none."""
    places = list(product(PARTS, CLASSES))
    found: list[list[str]] = [[] for _ in places]
    for name in names:
        part, kind, _ = name.split("/")
        found[places.index((part, kind))].append(name)
    for (part, kind), crops in zip(places, found, strict=True):
        if not crops:
            raise DataError(f"{str(source)!r} has no pictures in {part}/{kind}: get it again")
    train = len(found[0]) + len(found[1])
    ids = [name for crops in found for name in sorted(crops)]
    labels = [CLASSES.index(name.split("/")[1]) for name in ids]
    return folder.Listing(CLASSES, ids, labels, {"train": (0, train), "test": (train, len(ids))})
