"""Picture files: what is decoded to what, and what is refused how."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from alexnet_mlflow.data import picture
from alexnet_mlflow.data.picture import Known, decode, decode_picture, decode_whole


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int, top: int = 256, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def png(width: int, height: int, depth: int, colour: int, body: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, for kinds that Pillow does not write."""

    def chunk(content: bytes) -> bytes:
        return struct.pack(f">I{len(content)}sI", len(content) - 4, content, zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [header, *extra, b"IDAT" + zlib.compress(body), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_32_pixels_keep_every_bit(kind: str) -> None:
    pixels = noise(32, 32, 3)
    decoded = decode_picture(encoded(Image.fromarray(pixels), kind))
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1)) and decoded.flags.c_contiguous


@pytest.mark.parametrize("size", [(20, 20), (64, 48), (97, 250), (33, 31)])
def test_resize_agrees_with_torchvision(size: tuple[int, int]) -> None:
    import torch
    from torchvision.transforms.v2 import functional

    pixels = noise(*size, 3)
    decoded = decode_picture(encoded(Image.fromarray(pixels)))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = functional.resize(tensor, [32, 32], antialias=True).numpy()
    assert np.abs(decoded.astype(int) - theirs.astype(int)).max() <= 1


def test_shrinking_smooths() -> None:
    board = np.indices((128, 128)).sum(0) % 2 * 255
    decoded = decode_picture(encoded(Image.fromarray(board.astype(np.uint8))))
    assert np.abs(decoded[:, 1:-1, 1:-1].astype(int) - 128).max() <= 1


@pytest.mark.parametrize(("size", "most"), [((255, 400), 0), ((450, 350), 1), ((2000, 1500), 1)])
def test_a_photo_is_near_its_whole_decoding(size: tuple[int, int], most: int) -> None:
    smooth = Image.fromarray(noise(25, 20, 3)).resize(size, Image.Resampling.BICUBIC)
    raw = encoded(smooth, "JPEG", quality=90)
    whole = Image.open(io.BytesIO(raw)).resize((32, 32), Image.Resampling.BILINEAR)
    theirs = np.asarray(whole).transpose(2, 0, 1).astype(int)
    assert np.abs(decode_picture(raw) - theirs).mean() <= most


BLUE = Image.new("RGB", (9, 9), (0, 0, 255)).quantize()
CLEAR_COLOUR = encoded(BLUE, transparency=BLUE.getpixel((0, 0)))
CLEAR_16_BITS = png(2, 1, 16, 0, b"\0\x12\x34\x12\x34", b"tRNS\x12\x34")
COLOUR_16_BITS = png(2, 1, 16, 2, b"\0" + b"\xff\xff\x80\x80\0\0" * 2)
GREY_AND_CLEAR_16_BITS = png(1, 1, 16, 4, b"\0\x12\x34\0\0")


def cmyk(*inks: int) -> bytes:
    return encoded(Image.new("CMYK", (9, 9), inks), "JPEG", quality=100)


MODES = {
    "grey": (encoded(Image.new("L", (9, 9), 77)), (77, 77, 77)),
    "grey jpeg": (encoded(Image.new("L", (600, 600), 77), "JPEG"), (77, 77, 77)),
    "two levels": (encoded(Image.new("1", (9, 9), 1)), (255, 255, 255)),
    "two bits": (png(2, 1, 2, 0, b"\0\xa0"), (170, 170, 170)),
    "palette": (encoded(Image.new("RGB", (9, 9), (9, 8, 7)).quantize()), (9, 8, 7)),
    "clear": (encoded(Image.new("RGBA", (9, 9), (9, 8, 7, 0))), (255, 255, 255)),
    "half clear": (encoded(Image.new("RGBA", (9, 9), (0, 0, 255, 51))), (204, 204, 255)),
    "half clear webp": (
        encoded(Image.new("RGBA", (9, 9), (0, 0, 255, 51)), "WEBP", lossless=True), (204, 204, 255)
    ),
    "grey and clear": (encoded(Image.new("LA", (9, 9), (0, 0))), (255, 255, 255)),
    "grey, half clear": (encoded(Image.new("LA", (9, 9), (0, 51))), (204, 204, 204)),
    "clear colour": (CLEAR_COLOUR, (255, 255, 255)),
    "palette, half clear": (
        png(1, 1, 8, 3, b"\0\0", b"PLTE\0\0\xff", b"tRNS\x33"), (204, 204, 255)
    ),
    "clear grey": (encoded(Image.new("L", (9, 9), 3), transparency=3), (255, 255, 255)),
    "clear rgb": (
        encoded(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)
    ),
    "16 bits": (encoded(Image.fromarray(np.full((9, 9), 30_000, np.uint16))), (117, 117, 117)),
    "16 bits, clear": (CLEAR_16_BITS, (255, 255, 255)),
    "16 bits, colour": (COLOUR_16_BITS, (255, 128, 0)),
    "16 bits, grey and clear": (GREY_AND_CLEAR_16_BITS, (255, 255, 255)),
    "16 bits ppm": (b"P5 2 2 65535\n" + b"\x80\x80" * 4, (128, 128, 128)),
    "16 bits colour ppm": (b"P6 1 1 65535\n" + b"\xff\xff\x80\x80\0\0", (255, 128, 0)),
    "ten bits ppm": (b"P5 2 2 1023\n" + b"\x03\xff" * 4, (255, 255, 255)),
    "letters ppm": (b"P3 1 1 255 9 8 7\n", (9, 8, 7)),
    "cmyk black": (cmyk(0, 0, 0, 255), (0, 0, 0)),
    "cmyk white": (cmyk(0, 0, 0, 0), (255, 255, 255)),
    "cmyk cyan": (cmyk(255, 0, 0, 0), (0, 255, 255)),
    "cmyk dark yellow": (cmyk(0, 0, 255, 128), (127, 127, 0)),
    "webp": (encoded(Image.new("RGB", (9, 9), (9, 8, 7)), "WEBP", lossless=True), (9, 8, 7)),
    "bmp": (encoded(Image.new("RGB", (9, 9), (9, 8, 7)), "BMP"), (9, 8, 7)),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    raw, expected = MODES[name]
    decoded = decode_picture(raw)
    assert decoded.dtype == np.uint8 and decoded.shape == (3, 32, 32)
    assert np.abs(decoded.astype(int) - np.reshape(expected, (3, 1, 1))).max() <= 1, decoded[:, 0]


def test_cmyk_as_adobe_writes_it_is_inverted_in_the_file() -> None:
    raw = cmyk(0, 0, 0, 0)
    assert b"Adobe" in raw  # whose mark says so; what comes out is white all the same
    assert decode_picture(raw).min() == 255


def test_16_bits_are_scaled_not_cut() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).reshape(64, 32, 32)
    for ramp in every:
        decoded = decode_picture(encoded(Image.fromarray(ramp)))
        assert np.array_equal(decoded[0], np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize(("kind", "side"), [("PNG", 32), ("WEBP", 32), ("JPEG", 300)])
def test_exif_turns(turn: int, kind: str, side: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    small = Image.fromarray(noise(8, 8, 3))
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(small.resize((side, side)), kind, exif=exif, **options)
    decoded = decode_picture(raw).astype(int)
    with Image.open(io.BytesIO(raw)) as image:
        turned = ImageOps.exif_transpose(image)
        expected = picture.to_pixels(turned)
    assert np.abs(decoded - expected).mean() <= (1 if kind == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0hello"])
def test_broken_exif_is_passed_over(exif: bytes) -> None:
    raw = encoded(Image.new("RGB", (9, 9), (9, 8, 7)), exif=exif)
    assert np.abs(decode_picture(raw)[:, 0, 0].astype(int) - (9, 8, 7)).max() <= 1


def test_huge_pictures_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="8193x8192 are more than 67,108,864 pixels"):
        decode_picture(b"P5 8193 8192 255\n")
    for width in (10_000, 60_000):  # over Pillow's own limits too
        with pytest.raises(ValueError, match="more than 67,108,864 pixels"):
            decode_picture(b"P5 %d %d 255\n" % (width, width))
        with pytest.raises(ValueError, match="more than 67,108,864 pixels"):
            decode_picture(png(width, width, 8, 0, b""))
    with pytest.raises(OSError, match="truncated"):
        decode_picture(b"P5 8192 8192 255\n")  # as many as are allowed


def test_huge_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(Image.new("L", (9, 9)))
    monkeypatch.setattr(picture, "MAX_BYTES", len(raw))
    decode_picture(raw)
    with pytest.raises(ValueError, match="more than .* bytes"):
        decode_picture(raw + b"x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_cut_pictures_are_refused(
    part: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some library may set it
    raw = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    decode_picture(raw)
    with pytest.raises((OSError, ValueError)):  # UnidentifiedImageError is one of the first
        decode_picture(raw[: int(part * len(raw))])


@pytest.mark.parametrize("name", MODES)
def test_a_whole_picture_has_the_same_colours_in_its_own_size(name: str) -> None:
    raw, expected = MODES[name]
    whole = decode_whole(raw)
    with Image.open(io.BytesIO(raw)) as stored:
        assert (whole.mode, whole.size) == ("RGB", stored.size)
    assert np.abs(np.asarray(whole).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("turn", range(10))
def test_a_whole_picture_is_turned(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    raw = encoded(Image.fromarray(noise(7, 9, 3)), exif=exif)
    with Image.open(io.BytesIO(raw)) as stored:
        assert np.array_equal(decode_whole(raw), np.asarray(ImageOps.exif_transpose(stored)))


def test_a_whole_picture_that_is_huge_or_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="8193x8192 are more than 67,108,864 pixels"):
        decode_whole(b"P5 8193 8192 255\n")
    raw = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        decode_whole(raw[: len(raw) // 2])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto showpage\n%%EOF"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"hello", EPS, b"8BPS\0\1" + bytes(99), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(Image.new("P", (5, 5)), "GIF"), encoded(Image.new("L", (5, 5)), "TIFF"),
        encoded(Image.new("L", (16, 16)), "ICO"), encoded(Image.new("L", (16, 16)), "PDF"),
    ],
    ids=["empty", "text", "EPS", "PSD", "SVG", "GIF", "TIFF", "ICO", "PDF"],  # a PDF has its time
)
def test_other_kinds_are_not_tried(raw: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        decode_picture(raw)


def test_floats_have_no_scale() -> None:
    with pytest.raises(ValueError, match="no scale is known"):
        decode_picture(b"Pf 1 1 -1.0\n0000")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_counts(kind: str, options: dict[str, Any]) -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    raw = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert decode_picture(raw)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (encoded(Image.new("L", (600, 500)), "JPEG"), (600, 500, "L", "JPEG")),
        (encoded(Image.new("CMYK", (9, 8)), "JPEG"), (9, 8, "CMYK", "JPEG")),
        (encoded(Image.new("RGBA", (7, 8))), (7, 8, "RGBA", "PNG")),
        (encoded(BLUE), (9, 9, "P", "PNG")),
        (encoded(Image.new("I;16", (9, 9))), (9, 9, "I;16", "PNG")),
        (encoded(Image.new("RGB", (9, 9)), "WEBP"), (9, 9, "RGB", "WEBP")),
        (encoded(Image.new("RGB", (9, 9)), "BMP"), (9, 9, "RGB", "BMP")),
        (b"P5 2 1 65535\n" + bytes(4), (2, 1, "I", "PPM")),
        (
            encoded(Image.new("RGB", (9, 9)), "MPO", save_all=True,
                    append_images=[Image.new("RGB", (9, 9))]),
            (9, 9, "RGB", "JPEG"),
        ),
    ],
)
def test_what_is_known_without_pixels(raw: bytes, known: tuple[int, int, str, str]) -> None:
    width, height, mode, kind = known
    expected = Known(width, height, picture.MODES.index(mode), picture.FORMATS.index(kind))
    assert decode(raw).known == expected
