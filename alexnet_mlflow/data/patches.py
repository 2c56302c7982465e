"""FDDB's photos and ellipses -> patches of 32x32: a face and a background of each photo.

Chosen: the photos' archive is read once, and the wanted photos are kept as files in memory (100 MB
for all). A photo that is missing or broken is an error, unless that is allowed. Photos that look
alike may be in different folds, and so in different splits: only the first of a group that has a
usable face gives a pair. Where squares are cut says `placement`, what is written of it `manifest`.
Beside the patches come those faces and photos that were dropped, by rule, for people to look at.

Left out: EXIF, since the ellipses are of the stored pixels.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from alexnet_mlflow.data import archive, duplicates, manifest
from alexnet_mlflow.data.ellipses import FOLDS, Lists
from alexnet_mlflow.data.manifest import CLASSES, TITLES, Row, pixels_sha256, read, sha256
from alexnet_mlflow.data.picture import fault, to_pixels
from alexnet_mlflow.data.placement import PAIRS, Face, Pair, Square, beside, pairs
from alexnet_mlflow.data.split import PARTS, DataError, Images

__all__ = ["RULES", "Built", "Cut", "build", "read", "write"]

RULES = {
    "missing": "photos that are not there",
    "unreadable": "photos that cannot be decoded",
    "near-duplicate": "photos that look like an earlier one",
    "small": "faces of less than 32 pixels",
    "large": "faces larger than their photo",
    "cut off": "faces of which the photo shows less than 90 %",
    "no room": "faces beside which their photo has no room",
    "no partner": "faces without room where another photo's face stands",
    "another face": "faces of a photo that has its pair",
    "surplus": f"faces of a fold that has its {PAIRS} pairs",
}
PHOTO_BYTES, PHOTO_PIXELS = 1 << 20, 1 << 22  # FDDB's have 35,000 and 450x450, about

Box = tuple[int, int, int, int]  # left, top, right, bottom: pixels of a photo


class Cut(NamedTuple):
    """A piece of a photo: a patch, or what was dropped."""

    kind: str  # of CLASSES or RULES
    photo: str
    box: Box | None = None  # None where there are no pixels


@dataclass(frozen=True, eq=False)
class Built:
    """The patches, and what people want to know of them."""

    manifest: str
    rows: tuple[Row, ...]
    pixels: Images  # (N, 3, 32, 32) uint8, as the rows
    dropped: Mapping[str, tuple[Cut, ...]]  # by rule: photos or faces
    crops: Mapping[Cut, Images]  # (3, 32, 32) of what was dropped and has a box
    sentences: tuple[str, ...]

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the manifest."""
        return sha256(self.manifest.encode())


class _Shot(NamedTuple):
    """A photo that is there."""

    raw: bytes
    width: int
    height: int
    mode: str
    format: str
    thumb: Images  # (32, 32) grey


def build(
    photos: Path,
    lists: Lists,
    seed: int = 0,
    rotate: int = 0,
    hard: bool = False,
    allow_missing: bool = False,
) -> Built:
    """Cut the patches. Raises DataError for what is wrong with the photos, or too few of them.

    photos: originalPics.tar.gz, a zip or a folder; rotate: the fold to test on, 0 for the tenth;
    the one before it validates.
    """
    assert 0 <= rotate < len(FOLDS)
    shots, lost = _shots(photos, lists, allow_missing)
    groups = _groups(shots)
    faces, unusable = _usable(lists, shots, groups)
    found, surplus = pairs(faces, seed, hard)
    dropped = [*lost, *unusable, *_without_pair(faces, found, surplus)]
    cuts = {cut: pair for pair in found for cut in _patches(pair)}
    crops = _crops(shots, [*cuts, *dropped])
    patches = {_row(cut, pair.face, shots, groups, rotate, crops[cut]): crops[cut]
               for cut, pair in cuts.items()}
    rows = sorted(patches, key=lambda row: (PARTS.index(row.split), row.photo, row.label))
    _require_parts(rows, f"{str(photos)!r} with --rotate {rotate}")
    origin = {"name": list(TITLES)[hard], "seed": seed, "rotate": rotate,
              "lists_sha256": lists.sha256, "photos_sha256": _photos_sha256(shots, rows)}
    return Built(
        manifest=manifest.text(origin, rows),
        rows=tuple(rows),
        pixels=np.stack([patches[row] for row in rows]),
        dropped={rule: tuple(cut for cut in dropped if cut.kind == rule) for rule in RULES},
        crops={cut: crops[cut] for cut in dropped if cut.box},
        sentences=tuple(_sentences(lists, shots, found, dropped)),
    )


def write(built: Built, folder: Path) -> None:
    """Put the patches into this folder, for `read`; in place of older ones. May raise OSError."""
    manifest.write(built.manifest, built.pixels, folder)


def _shots(path: Path, lists: Lists, allow_missing: bool) -> tuple[dict[str, _Shot], list[Cut]]:
    """The photos that are there and whole, in the lists' order; and the others."""
    names = [photo.name for photo in lists.photos]
    found, faults = dict[str, _Shot](), dict[str, str]()
    for name, raw in _files(path, set(names)):
        try:
            found[name] = _shot(raw)
        except Exception as error:  # Pillow's decoders raise a dozen types for broken files
            faults[name] = fault(error)
    if faults and not allow_missing:
        name = min(faults)
        raise DataError(
            f"photo {name!r} in {str(path)!r} cannot be read ({faults[name]}): get it again, or "
            "give --allow-missing to leave out every such photo"
        )
    if not found:
        raise DataError(
            f"{str(path)!r} gives none of the {len(names):,} photos in the lists: name "
            "originalPics.tar.gz or the folder that it unpacks to"
        )
    missing = [name for name in names if name not in found and name not in faults]
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing):,} of the {len(names):,} photos in the lists are missing from "
            f"{str(path)!r}, the first is {missing[0]!r}: give the whole originalPics.tar.gz, or "
            "--allow-missing to go on with the others"
        )
    lost = [Cut("missing", name) for name in missing]
    lost += [Cut("unreadable", name) for name in sorted(faults)]
    return {name: found[name] for name in names if name in found}, lost


def _files(path: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of these photos, at whatever depth they lie."""
    seen = dict[str, str]()
    try:
        found = archive.members(path, lambda member: _name(member) in names, 8 * PHOTO_BYTES)
        for member, raw in found:
            name = _name(member)
            if seen.setdefault(name, member) != member:
                raise DataError(
                    f"photo {name!r} must be in {str(path)!r} once, got {seen[name]!r} and "
                    f"{member!r}: take one of them away"
                )
            yield name, raw
    except OSError as error:
        raise DataError(
            f"the photos in {str(path)!r} cannot be read ({error.strerror or error}): name "
            "originalPics.tar.gz or the folder that it unpacks to"
        ) from None


def _name(member: str) -> str:
    """The photo that a file holds, by its path: `originalPics/2002/07/19/big/img_130.jpg`."""
    return "/".join(member.removesuffix(".jpg").split("/")[-5:]) if member.endswith(".jpg") else ""


def _shot(raw: bytes) -> _Shot:
    picture = _picture(raw)
    thumb = duplicates.thumbnail(picture)
    return _Shot(raw, *picture.size, picture.mode, "JPEG", thumb)


def _picture(raw: bytes) -> Image.Image:
    """A decoded photo; whatever Pillow raises comes through."""
    if len(raw) > PHOTO_BYTES:
        raise ValueError(f"the file has {len(raw):,} bytes, over the {PHOTO_BYTES:,} allowed")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # whoever set it: half a photo is none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Image.open(io.BytesIO(raw), formats=("JPEG",))
        if picture.width * picture.height > PHOTO_PIXELS:
            raise ValueError(f"it has more than {PHOTO_PIXELS:,} pixels")
        picture.load()
    return picture


def _groups(shots: Mapping[str, _Shot]) -> dict[str, str]:
    """Photo -> the first of those that look like it, itself for most."""
    names = list(shots)
    alike = duplicates.near_pairs(np.stack([shot.thumb for shot in shots.values()]))
    firsts = duplicates.groups(len(names), alike).tolist()
    return {name: names[first] for name, first in zip(names, firsts, strict=True)}


def _usable(
    lists: Lists, shots: Mapping[str, _Shot], groups: Mapping[str, str]
) -> tuple[list[Face], list[Cut]]:
    """The faces that a pair can be cut of, in one photo of each group; and the others."""
    usable, dropped, owner = list[Face](), list[Cut](), dict[str, str]()
    for photo in (photo for photo in lists.photos if photo.name in shots):
        size = shots[photo.name].width, shots[photo.name].height
        faces = [Face(photo, number, *size) for number in range(len(photo.faces))]
        faults = [face.fault for face in faces]
        dropped += [_cut(rule, face, face.square)
                    for rule, face in zip(faults, faces, strict=True) if rule]
        good = [face for rule, face in zip(faults, faces, strict=True) if not rule]
        if good and owner.setdefault(groups[photo.name], photo.name) != photo.name:
            dropped.append(Cut("near-duplicate", photo.name, (0, 0, *size)))
        else:
            usable += good
    return usable, dropped


def _without_pair(faces: Iterable[Face], found: list[Pair], surplus: list[Pair]) -> Iterator[Cut]:
    rules = {pair.face.photo.name: "surplus" for pair in surplus}
    rules |= {pair.face.photo.name: "another face" for pair in found}
    paired = {(pair.face.photo.name, pair.face.number) for pair in found}
    for face in faces:
        if (face.photo.name, face.number) not in paired:
            yield _cut(rules.get(face.photo.name, "no partner"), face, face.square)


def _patches(pair: Pair) -> list[Cut]:
    squares = pair.face.square, pair.background
    return [_cut(label, pair.face, square) for label, square in zip(CLASSES, squares, strict=True)]


def _cut(kind: str, face: Face, square: Square) -> Cut:
    """What of the square is in the photo: all of it, but of a face larger than the photo."""
    x, y, side = square
    box = x, y, min(x + side, face.width), min(y + side, face.height)
    return Cut(kind, face.photo.name, box)


def _crops(shots: Mapping[str, _Shot], cuts: Iterable[Cut]) -> dict[Cut, Images]:
    """Their pixels, (3, 32, 32) each; a photo is decoded once."""
    crops = dict[Cut, Images]()
    some = sorted((cut for cut in cuts if cut.box), key=lambda cut: cut.photo)
    for name, pieces in groupby(some, key=lambda cut: cut.photo):
        picture = _picture(shots[name].raw)
        crops |= {cut: to_pixels(picture.crop(cut.box)) for cut in pieces}
    return crops


def _row(
    cut: Cut, face: Face, shots: Mapping[str, _Shot], groups: Mapping[str, str], rotate: int,
    pixels: Images,
) -> Row:
    x, y, right, _ = cut.box or (0, 0, 0, 0)
    fold, test = face.photo.fold, rotate or FOLDS[-1]
    split = {test: "test", test - 1 or FOLDS[-1]: "val"}.get(fold, "train")
    return Row(
        cut.photo, *shots[cut.photo][1:5], x, y, right - x, cut.kind, fold, split,
        groups[cut.photo], pixels_sha256(pixels),
    )


def _require_parts(rows: Iterable[Row], source: str) -> None:
    there = {row.split for row in rows}
    for part in PARTS:
        if part not in there:
            raise DataError(
                f"train, val and test must get a pair each, but {source} gives {part} none: give "
                "more of the photos"
            )


def _photos_sha256(shots: Mapping[str, _Shot], rows: Iterable[Row]) -> str:
    """Over the names and hashes of the photos that patches are of."""
    names = sorted({row.photo for row in rows})
    return sha256("".join(f"{name} {sha256(shots[name].raw)}\n" for name in names).encode())


def _sentences(
    lists: Lists, shots: Mapping[str, _Shot], found: list[Pair], dropped: list[Cut]
) -> Iterator[str]:
    official = PAIRS * len(FOLDS)
    size = "the official size" if len(found) == official else f"not the official {2 * official:,}"
    yield (
        f"{2 * len(found):,} patches, {size}: a face and a background of each of {len(found):,} "
        f"photos; {len(shots):,} of the {len(lists.photos):,} photos are there"
    )
    counts = Counter(pair.face.photo.fold for pair in found)
    yield f"pairs in folds 1 to 10: {', '.join(str(counts[fold]) for fold in FOLDS)}"
    places = [(pair.face, np.array([[at] for at in pair.background[:2]])) for pair in found]
    near = sum(int(beside(face, x, y)[0]) for face, (x, y) in places)
    yield f"{near:,} of the {len(found):,} backgrounds are next to a face"
    rules = Counter(cut.kind for cut in dropped)
    what = [f"{rules[rule]:,} {rows}" for rule, rows in RULES.items() if rules[rule]]
    yield f"dropped: {'; '.join([*what, f'placeholders in the lists: {lists.placeholders}'])}"
