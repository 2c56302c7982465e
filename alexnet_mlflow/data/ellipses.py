"""FDDB's annotation lists, read exactly and verified, and the geometry of an ellipse.

Ten files `FDDB-fold-NN-ellipseList.txt`: a photo's name, the number of its faces, then a line
`major minor angle x y 1` for each: half axes in pixels, the angle in radians from +x to the major
axis with y down, the centre. Two spaces may stand before the last field, and lines may end in CRLF.

Chosen: whatever is not exactly so is refused with file and line, and lists that are not FDDB's by
their SHA-256 (with line ends as LF) are refused too, for patches cut by other lists are another
data set. A box is the exact one, rounded to a millionth of a pixel, so that the last bit of a
cosine, which differs between machines, changes no patch. A placeholder (`1 1 0 0 0 1`, one in
FDDB) is dropped and counted. A minor axis longer than the major one (once in FDDB) is taken as it
is, since no formula here asks which is longer.

Left out: the lists of names alone, which say nothing more.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_mlflow.data.split import DataError

FOLDS = range(1, 11)
PHOTOS, FACES = 2_845, 5_171  # in the whole lists; of the faces one is a placeholder
SHA256 = "06726e01c1dddc7fc7c706a6a9ace1990f1ac36de0771a148e9ac79559c6f578"  # the ten in order
LARGEST_BYTES = 10 << 20  # of one list; FDDB's have 36,000
MOST_FACES = 1000  # in a photo; FDDB's have 27
STRIPS = 1000  # that an ellipse is cut into to measure how much of it a photo shows

LIST = re.compile(r"(?:.*/)?FDDB-fold-(0[1-9]|10)-ellipseList\.txt")
PHOTO = re.compile(r"\d{4}/\d{2}/\d{2}/big/img_\d{1,9}")
NUMBER = re.compile(r"-?\d{1,5}(\.\d{1,9})?")

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Ellipse:
    """A face: half axes, centre in pixels; angle in radians from +x to the major axis, y down."""

    major: float
    minor: float
    angle: float
    x: float
    y: float

    @cached_property
    def reach(self) -> tuple[float, float]:
        """How far it reaches from its centre along x and along y."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        across = math.hypot(self.major * cosine, self.minor * sine)
        down = math.hypot(self.major * sine, self.minor * cosine)
        return round(across, 6), round(down, 6)

    @property
    def box(self) -> Box:
        """The smallest upright box around it."""
        return self.enlarged(1.0)

    def enlarged(self, times: float) -> Box:
        """Its box, so many times as wide and high around the same centre."""
        across, down = (times * reach for reach in self.reach)
        return self.x - across, self.y - down, self.x + across, self.y + down

    def contains(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        """Whether points lie in it."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        right, down = x - self.x, y - self.y
        along, beside = right * cosine + down * sine, down * cosine - right * sine
        return np.asarray((along / self.major) ** 2 + (beside / self.minor) ** 2 <= 1)

    def shown(self, width: int, height: int) -> float:
        """The part of its area, 0 to 1, that a photo of this size shows, to a thousandth or so."""
        down = math.hypot(self.major * math.sin(self.angle), self.minor * math.cos(self.angle))
        lean = (self.major**2 - self.minor**2) * math.sin(self.angle) * math.cos(self.angle)
        strips = (2 * np.arange(STRIPS) + 1) / STRIPS - 1  # their middles, -1 at the top, 1 below
        half = self.major * self.minor / down * np.sqrt(1 - strips**2)
        middle = self.x + lean / down * strips
        there = np.minimum(middle + half, width) - np.maximum(middle - half, 0)
        inside = np.abs(self.y + down * strips - height / 2) <= height / 2
        return round(float((there.clip(0) * inside).sum() / (2 * half).sum()), 6)


PLACEHOLDER = Ellipse(1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Photo:
    """A photo's faces. Its fold is FDDB's."""

    name: str  # "2002/08/11/big/img_591"
    fold: int  # 1 to 10
    faces: tuple[Ellipse, ...]


@dataclass(frozen=True)
class Lists:
    """The ten lists, photos in their order."""

    photos: tuple[Photo, ...]
    sha256: str  # of the ten files in order, line ends as LF
    placeholders: int  # faces that were dropped, since they are none

    @property
    def verified(self) -> bool:
        """Whether these are FDDB's."""
        return self.sha256 == SHA256


def read(path: Path) -> Lists:
    """FDDB's lists from FDDB-folds.tgz, a zip or a folder; DataError where they are not FDDB's."""
    lists = parse(_files(path))
    if not lists.verified:
        raise DataError(
            f"the ellipse lists in {str(path)!r} must have the SHA-256 {SHA256} of FDDB's, got "
            f"{lists.sha256}: get FDDB-folds.tgz again"
        )
    return lists


def _files(path: Path) -> dict[int, bytes]:
    from alexnet_mlflow.data import archive

    found: dict[int, bytes] = {}
    try:
        for name, raw in archive.members(path, _is_list, LARGEST_BYTES):
            fold = int(name[-len("01-ellipseList.txt") :][:2])
            if fold in found:
                raise DataError(
                    f"each ellipse list must be in {str(path)!r} once, got {_file(fold)} twice: "
                    "keep the one of FDDB-folds.tgz"
                )
            found[fold] = raw
    except OSError as error:
        raise DataError(
            f"the ellipse lists in {str(path)!r} cannot be read ({error.strerror or error}): name "
            "FDDB-folds.tgz or the folder that it unpacks to"
        ) from None
    if not found:
        raise DataError(
            f"{str(path)!r} holds none of the ellipse lists {_file(1)} to {_file(10)}: name "
            "FDDB-folds.tgz or the folder that it unpacks to"
        )
    return found


def _is_list(name: str) -> bool:
    return bool(LIST.fullmatch(name))


def parse(files: Mapping[int, bytes]) -> Lists:
    """Fold -> content of its list, all ten. Raises DataError with file, line, rule and value."""
    sha, photos = hashlib.sha256(), list[Photo]()
    lines: dict[str, str] = {}  # name -> where it was first
    for fold in FOLDS:
        if fold not in files:
            raise DataError(f"the ellipse list {_file(fold)} is missing: get FDDB-folds.tgz again")
        for line, photo in _photos(fold, files[fold]):
            if photo.name in lines:
                rule = f"a photo must be named once, and this was in {lines[photo.name]}"
                raise _wrong(fold, line, rule, photo.name)
            lines[photo.name] = f"{_file(fold)}, line {line}"
            photos.append(photo)
        sha.update(files[fold].replace(b"\r\n", b"\n"))
    faces = [tuple(face for face in photo.faces if face != PLACEHOLDER) for photo in photos]
    kept = tuple(Photo(photo.name, photo.fold, some)
                 for photo, some in zip(photos, faces, strict=True))
    dropped = sum(len(photo.faces) for photo in photos) - sum(map(len, faces))
    return Lists(kept, sha.hexdigest(), dropped)


def _photos(fold: int, raw: bytes) -> Iterator[tuple[int, Photo]]:
    """Each photo of a list and the number of the line that names it."""
    lines = _lines(fold, raw)
    at = 0
    while at < len(lines):
        name, first = lines[at], at + 2
        if not PHOTO.fullmatch(name):
            raise _wrong(fold, at + 1, "a photo's name must be like 2002/08/11/big/img_591", name)
        count = _count(fold, first, lines[at + 1 : first])
        if (there := len(lines) - first) < count:
            raise _wrong(fold, first, f"{count} faces must follow for {name}", there)
        faces = tuple(_face(fold, row + 1, lines[row]) for row in range(first, first + count))
        yield at + 1, Photo(name, fold, faces)
        at = first + count


def _lines(fold: int, raw: bytes) -> list[str]:
    if not 0 < len(raw) <= LARGEST_BYTES:
        raise _wrong(fold, 1, f"a list must have 1 to {LARGEST_BYTES:,} bytes", len(raw))
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _wrong(fold, line, "a list must be ASCII text", raw[error.start :][:1]) from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _count(fold: int, line: int, texts: list[str]) -> int:
    text = texts[0] if texts else ""
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= MOST_FACES:
        raise _wrong(fold, line, f"the number of faces must be 1 to {MOST_FACES}", text)
    return int(text)


def _face(fold: int, line: int, text: str) -> Ellipse:
    fields = re.sub(r" {2}(?=\S*$)", " ", text).split(" ")
    if len(fields) != 6 or fields[5] != "1":
        raise _wrong(fold, line, "a face must be 'major minor angle x y 1'", text)
    for field in fields:
        if not NUMBER.fullmatch(field):
            rule = "a face's fields must be decimal numbers below 100,000, such as 85.549500"
            raise _wrong(fold, line, rule, field)
    ellipse = Ellipse(*map(float, fields[:5]))
    if min(ellipse.major, ellipse.minor) <= 0:
        raise _wrong(fold, line, "a face's half axes must be above 0", text)
    return ellipse


def _file(fold: int) -> str:
    return f"FDDB-fold-{fold:02d}-ellipseList.txt"


def _wrong(fold: int, line: int, rule: str, value: object) -> DataError:
    shown = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:90]}..."
    return DataError(f"{_file(fold)}, line {line}: {rule}, got {shown}: get FDDB-folds.tgz again")
