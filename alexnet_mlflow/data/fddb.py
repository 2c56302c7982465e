"""FDDB as ready crops: faces and background of 20x20 pixels, in a zip archive or unpacked.

Chosen: the archive is read in memory and never unpacked; its train/test division is kept, so that
2,000 pictures give the report's 1,800 to learn from and 200 to validate on, beside 200 for the
test. Class 0 is `face`.

Left out: cutting crops from the photos and ellipse lists, and the photo each crop is from, so
crops of one photo may stand in two splits.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from functools import partial
from itertools import product
from pathlib import Path

from alexnet_mlflow.data import cache, folder
from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.split import DataError, Decoded

NAME, TITLE = "fddb", "FDDB (ready 20 px crops)"
CROPS = "fddb-crops-20px"
CLASSES = ("face", "nonface")
PARTS = ("train", "test")
MEMBER = re.compile(f"({'|'.join(PARTS)})/({'|'.join(CLASSES)})/([^/]+)")
LARGEST_BYTES = 1 << 20  # a crop has about 1,000


def find(root: Path) -> Source:
    """The crops under this folder or its `fddb`; DataError where there are none."""
    for place in (root, root / NAME):
        archive = place / f"{CROPS}.zip"
        if archive.is_file():
            stamp = cache.stamp(place, [archive.name])
            return Source(NAME, place, stamp, partial(_decode_zip, archive))
        for unpacked in (place / CROPS, place):
            if (unpacked / PARTS[0] / CLASSES[0]).is_dir():
                return _unpacked(unpacked)
    raise DataError(
        f"no FDDB crops ({CROPS}.zip) in {str(root)!r} or {str(root / NAME)!r}: "
        "name the folder that holds them with --data-dir or ALEXNET_DATA"
    )


def _unpacked(root: Path) -> Source:
    for place in (root / part / kind for part in PARTS for kind in CLASSES):
        if not place.is_dir():
            raise DataError(f"the FDDB crops lack the folder {str(place)!r}: unpack them again")
    pictures = [
        folder.Picture(f"{part}/{kind}/{file.name}", part, label, file.read_bytes)
        for part in PARTS
        for label, kind in enumerate(CLASSES)
        for file in folder.pictures_in(root / part / kind)
    ]
    stamp = cache.stamp(root, [picture.id for picture in pictures])
    return Source(NAME, root, stamp, partial(_decode, pictures, root))


def _decode(pictures: list[folder.Picture], source: Path, skip_corrupt: bool) -> Decoded:
    there = {(picture.part, CLASSES[picture.label]) for picture in pictures}
    for part, kind in product(PARTS, CLASSES):
        if (part, kind) not in there:
            raise DataError(f"{str(source)!r} has no pictures in {part}/{kind}: get it again")
    return folder.decode_pictures(pictures, CLASSES, NAME, TITLE, str(source), skip_corrupt)


def _decode_zip(archive: Path, skip_corrupt: bool) -> Decoded:
    try:
        with zipfile.ZipFile(archive) as crops:
            return _decode(_members(crops, archive), archive, skip_corrupt)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{str(archive)!r} is not a whole zip ({error}): get it again") from None


def _members(crops: zipfile.ZipFile, archive: Path) -> list[folder.Picture]:
    """The pictures in the archive, sorted by part, class and name."""
    pictures = []
    for member in crops.infolist():
        name = member.filename
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise DataError(
                f"{str(archive)!r} is refused, since its member {name!r} points out of the "
                "archive: get it again from a source you trust"
            )
        match = MEMBER.fullmatch(name)
        if match and folder.is_picture(match[3]):
            label, read = CLASSES.index(match[2]), partial(_read, crops, member)
            pictures.append(folder.Picture(name, match[1], label, read))
    return sorted(pictures, key=lambda found: (PARTS.index(found.part), found.label, found.id))


def _read(crops: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > LARGEST_BYTES:
        raise ValueError(f"{member.file_size} bytes are too many for a crop")
    return crops.read(member)
