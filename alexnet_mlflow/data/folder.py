"""A folder of pictures, one folder a class -> decoded; and how any one picture file is decoded.

Two layouts: `train/<class>/*` with `val/<class>/*` and `test/<class>/*` where there are such, or
`<class>/*` without a division. Pictures are jpg, jpeg, png, webp, bmp and ppm, in either case;
names that begin with `.` or `__` and files of other kinds are passed over.

Chosen: a picture is turned as its EXIF says, 16-bit grey is scaled (not cut) to 8 bits, transparent
places become white (a black drawing on nothing is the usual case, and viewers show it so), then
Pillow's BILINEAR brings it to 32x32, which smooths when it shrinks and does not keep the aspect
ratio: torchvision's Resize((32, 32)), as in the report. A picture of 32x32 keeps every bit.

Left out: folders inside a class folder, further frames of an animation, colour profiles.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_mlflow.data import cache
from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.split import PARTS, SIDE, DataError, Decoded, Images

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
KINDS = " ".join(suffix[1:] for suffix in SUFFIXES)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")  # by content; nothing that starts a program


class Picture(NamedTuple):
    """One picture that was found but not read yet."""

    id: str
    part: str  # "train", "val", "test" or "undivided"
    label: int
    read: Callable[[], bytes]


def find(root: Path, name: str) -> Source:
    """The pictures under this folder; DataError where they lie in neither of the two layouts."""
    parts = _parts(root)
    classes = _classes(root, parts)
    files = {
        (part, label): pictures_in(root / below / kind)
        for part, below in parts.items()
        for label, kind in enumerate(classes)
    }
    for (part, label), found in files.items():
        if not found:
            raise DataError(
                f"{str(root / parts[part] / classes[label])!r} holds no pictures "
                f"({KINDS}): put some there or take the folder away"
            )
    pictures = [
        Picture(file.relative_to(root).as_posix(), part, label, file.read_bytes)
        for (part, label), found in files.items()
        for file in found
    ]
    decode = partial(decode_pictures, pictures, classes, name, root.name or name, str(root))
    return Source(name, root, cache.stamp(root, [picture.id for picture in pictures]), decode)


def slug(path: str) -> str:
    """A folder's name in small letters, digits and `-`, at most 60 of them."""
    name = os.path.basename(os.path.abspath(os.path.expanduser(path)))
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "folder"


def _parts(root: Path) -> dict[str, str]:
    """Part -> the folder below the root that holds its class folders."""
    there = [part for part in PARTS if (root / part).is_dir()]
    if not there:
        return {"undivided": "."}
    if there[0] != "train":
        raise DataError(
            f"{str(root)!r} has a {there[0]} folder but no train folder: put the pictures to learn "
            "from in train/<class>/, or all pictures in <class>/ without a division"
        )
    return {part: part for part in there}


def _classes(root: Path, parts: dict[str, str]) -> tuple[str, ...]:
    """The class folders' names, sorted; every part must have the same."""
    first, *others = parts.values()
    classes = _folders(root / first)
    if not classes:
        raise DataError(
            f"{str(root / first)!r} holds no class folders: put the pictures of each class in a "
            "folder of its own, as in cats/1.jpg and dogs/1.jpg"
        )
    for part in others:
        if different := set(classes) ^ set(_folders(root / part)):
            raise DataError(
                f"the classes in {part} and train of {str(root)!r} must be the same, but "
                f"{min(different)!r} is only in one of them: add or remove that folder"
            )
    for stray in sorted(set(_folders(root)) - set(parts.values())):
        if first != "." and set(classes) & set(_folders(root / stray)):
            raise DataError(
                f"{str(root / stray)!r} is neither train, val nor test, but holds class folders "
                "like train: rename it or move it away"
            )
    return classes


def _folders(path: Path) -> tuple[str, ...]:
    names = [item.name for item in path.iterdir() if item.is_dir()]
    return tuple(sorted(name for name in names if not name.startswith((".", "__"))))


def pictures_in(path: Path) -> list[Path]:
    """The picture files here, sorted; a dangling link counts, so that it is told of."""
    files = [item for item in path.iterdir() if is_picture(item.name)]
    return sorted(item for item in files if item.is_file() or item.is_symlink())


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return name.lower().endswith(SUFFIXES) and not name.startswith((".", "__"))


def decode_pictures(
    pictures: Sequence[Picture],
    classes: tuple[str, ...],
    name: str,
    title: str,
    source: str,
    skip_corrupt: bool,
) -> Decoded:
    """Read and decode one picture or more, part by part; a corrupt one raises or is left out."""
    images, kept = np.empty((len(pictures), 3, SIDE, SIDE), np.uint8), list[Picture]()
    for picture in pictures:
        pixels = pixels_or_skip(f"{source}/{picture.id}", picture.read, skip_corrupt)
        if pixels is not None:
            images[len(kept)] = pixels
            kept.append(picture)
    order = list(dict.fromkeys(picture.part for picture in pictures))
    ends = np.cumsum([sum(picture.part == part for picture in kept) for part in order]).tolist()
    return Decoded(
        name=name,
        title=title,
        classes=classes,
        source=source,
        images=images[: len(kept)],
        labels=np.array([picture.label for picture in kept], np.int64),
        ids=np.array([picture.id for picture in kept], np.str_),
        division=dict(zip(order, zip([0, *ends[:-1]], ends, strict=True), strict=True)),
        skipped=len(pictures) - len(kept),
    )


def pixels_or_skip(name: str, read: Callable[[], bytes], skip_corrupt: bool) -> Images | None:
    """One decoded picture; a corrupt one is None where it may be skipped, DataError elsewhere."""
    try:
        return decode_picture(read())
    except UnidentifiedImageError:
        reason = f"not one of {KINDS}"
    except Exception as error:  # Pillow's decoders raise a dozen types for broken files
        reason = str(error) or type(error).__name__
    if skip_corrupt:
        return None
    raise DataError(
        f"picture {name!r} cannot be read ({reason}): repair or remove it, or give --skip-corrupt "
        "to leave out every such picture"
    )


def decode_picture(raw: bytes) -> Images:
    """A picture file's bytes -> (3, 32, 32) uint8; whatever Pillow raises comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF and the like: the picture is still there
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            return to_pixels(_rgb(picture))


def to_pixels(picture: Image.Image) -> Images:
    """An RGB or grey picture of any size -> (3, 32, 32) uint8, grey in three equal channels."""
    colour = picture if picture.mode == "RGB" else picture.convert("RGB")
    if colour.size != (SIDE, SIDE):
        colour = colour.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(colour).transpose(2, 0, 1))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel: 65535 is white, 65535 / 257 = 255
        grey = np.rint(np.asarray(picture) / 257).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "F":
        raise ValueError("pixels are 32-bit floats, of which no scale is known")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
