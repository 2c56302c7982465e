"""A picture file's bytes -> 32x32 pixels; `decoding` does it for very many.

Chosen: the kind is told by the content and is JPEG, PNG, WebP, BMP or PPM; Pillow's other readers
are not tried. Of an animation the first frame counts. 16-bit grey is scaled (not cut) to 8 bits (of
16-bit colour Pillow keeps the upper 8), transparent places become white (a black drawing on
nothing is the usual case, and viewers show it so), CMYK becomes RGB without profiles. Then Pillow's
BILINEAR brings it to 32x32, which smooths when it shrinks and does not keep the aspect ratio:
torchvision's Resize((32, 32)), as in the report; and it is turned as its EXIF says. A picture of
32x32 keeps every bit. A JPEG is decoded at a half, quarter or eighth of its size where DRAFT pixels
a side remain: twice the speed, and on FDDB's photos 0.6 levels from the whole decoding on average
(measured).

Refused before it is decoded: more than MAX_PIXELS. Refused after: what is cut off.
Left out: colour profiles, and a limit on the time a picture may take (a JPEG of very many scans is
slow).
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from alexnet_mlflow.data.split import SIDE, Images

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
KINDS = " ".join(suffix[1:] for suffix in SUFFIXES)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")  # by content; nothing that starts a program
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16")
MAX_PIXELS = 1 << 26  # 67 million: the largest cameras of full frame have 61
MAX_BYTES = 1 << 28  # of a picture file
DRAFT = 4 * SIDE
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it


class Known(NamedTuple):
    """What can be told without looking at pixels."""

    width: int  # as stored: before EXIF turns it
    height: int
    mode: int  # place in MODES, or their number for another
    format: int  # place in FORMATS


class Picture(NamedTuple):
    """A decoded picture."""

    pixels: Images  # (3, 32, 32) uint8
    known: Known


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return name.lower().endswith(SUFFIXES) and not name.startswith((".", "__"))


def decode(raw: bytes) -> Picture:
    """A picture file's bytes, decoded; whatever Pillow raises comes through, and its warnings."""
    with _opened(raw) as picture:
        known = Known(*picture.size, _place(MODES, picture.mode), _format(picture))
        drafted = picture.draft(None, (DRAFT, DRAFT))  # of a JPEG its true borders in pixels
        turn = TURNS.get(_orientation(picture))
        small = _shrunk(_rgb(picture), drafted[1] if drafted else None)
        return Picture(_array(small if turn is None else small.transpose(turn)), known)


def decode_whole(raw: bytes) -> Image.Image:
    """A picture file's bytes -> RGB in its own size, turned as EXIF says; raises like `decode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _opened(raw) as picture:
            turn = TURNS.get(_orientation(picture))
            whole = _rgb(picture)
            return whole.copy() if turn is None else whole.transpose(turn)


def fault(error: Exception) -> str:
    """Why a picture cannot be decoded, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return f"not one of {KINDS}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _opened(raw: bytes) -> ImageFile.ImageFile:
    """Not decoded yet; what is too large is refused here."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # whoever set it: half a picture is none
    if len(raw) > MAX_BYTES:
        raise ValueError(f"the file has more than {MAX_BYTES:,} bytes")
    try:
        picture = Image.open(io.BytesIO(raw), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} are more than {MAX_PIXELS:,} pixels")
    return picture


def decode_picture(raw: bytes) -> Images:
    """A picture file's bytes -> (3, 32, 32) uint8; whatever Pillow raises comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode(raw).pixels


def _place(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _format(picture: ImageFile.ImageFile) -> int:
    """A JPEG with further pictures behind it is MPO to Pillow."""
    return _place(FORMATS, "JPEG" if picture.format == "MPO" else picture.format or "")


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF, for which Pillow raises a dozen types
        return 1
    return value if isinstance(value, int) else 1


def to_pixels(picture: Image.Image) -> Images:
    """An RGB or grey picture of any size -> (3, 32, 32) uint8, grey in three equal channels."""
    return _array(_shrunk(picture if picture.mode == "RGB" else picture.convert("RGB"), None))


def _shrunk(
    picture: Image.Image, borders: tuple[float, float, float, float] | None
) -> Image.Image:
    if picture.size == (SIDE, SIDE):
        return picture
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, borders)


def _array(picture: Image.Image) -> Images:
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray(_eight_bits(picture)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("pixels are 32-bit floats, of which no scale is known")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """16-bit grey in 8 bits: 65535 is white, 65535 / 257 = 255."""
    values = np.asarray(picture)
    grey = np.rint(values / np.float32(257)).clip(0, 255).astype(np.uint8)
    clear = picture.info.get("transparency")
    return grey if clear is None else np.where(values == clear, np.uint8(255), grey)
