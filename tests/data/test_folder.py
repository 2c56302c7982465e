"""Picture folders and picture files: what is decoded to what, and what is refused how."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, check, folder, load, load_test

Maker = Callable[..., Path]


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int, top: int = 256, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
def test_32_pixels_keep_every_bit(kind: str) -> None:
    pixels = noise(32, 32, 3)
    decoded = folder.decode_picture(encoded(Image.fromarray(pixels), kind))
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1)) and decoded.flags.c_contiguous


@pytest.mark.parametrize("size", [(20, 20), (64, 48), (97, 250), (33, 31)])
def test_resize_agrees_with_torchvision(size: tuple[int, int]) -> None:
    import torch
    from torchvision.transforms.v2 import functional

    pixels = noise(*size, 3)
    decoded = folder.decode_picture(encoded(Image.fromarray(pixels)))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = functional.resize(tensor, [32, 32], antialias=True).numpy()
    assert np.abs(decoded.astype(int) - theirs.astype(int)).max() <= 1


def test_shrinking_smooths() -> None:
    board = np.indices((128, 128)).sum(0) % 2 * 255
    decoded = folder.decode_picture(encoded(Image.fromarray(board.astype(np.uint8))))
    assert np.abs(decoded[:, 1:-1, 1:-1].astype(int) - 128).max() <= 1


BLUE = Image.new("RGB", (9, 9), (0, 0, 255)).quantize()
CLEAR_COLOUR = encoded(BLUE, transparency=BLUE.getpixel((0, 0)))


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("grey", encoded(Image.new("L", (9, 9), 77)), (77, 77, 77)),
        ("two levels", encoded(Image.new("1", (9, 9), 1)), (255, 255, 255)),
        ("palette", encoded(Image.new("RGB", (9, 9), (9, 8, 7)).quantize()), (9, 8, 7)),
        ("clear", encoded(Image.new("RGBA", (9, 9), (9, 8, 7, 0))), (255, 255, 255)),
        ("half clear", encoded(Image.new("RGBA", (9, 9), (0, 0, 255, 51))), (204, 204, 255)),
        ("grey and clear", encoded(Image.new("LA", (9, 9), (0, 0))), (255, 255, 255)),
        ("clear colour", CLEAR_COLOUR, (255, 255, 255)),
        ("clear grey", encoded(Image.new("L", (9, 9), 3), transparency=3), (255, 255, 255)),
        (
            "16 bits",
            encoded(Image.fromarray(np.full((9, 9), 300 * 100, np.uint16))),
            (117, 117, 117),
        ),
        ("16 bits ppm", b"P5 2 2 65535\n" + b"\x80\x80" * 4, (128, 128, 128)),
        ("ten bits ppm", b"P5 2 2 1023\n" + b"\x03\xff" * 4, (255, 255, 255)),
        ("cmyk", encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
        ("webp", encoded(Image.new("RGB", (9, 9), (9, 8, 7)), "WEBP", lossless=True), (9, 8, 7)),
    ],
)
def test_modes(name: str, raw: bytes, expected: tuple[int, int, int]) -> None:
    decoded = folder.decode_picture(raw)
    assert decoded.dtype == np.uint8 and decoded.shape == (3, 32, 32)
    assert np.abs(decoded.astype(int) - np.reshape(expected, (3, 1, 1))).max() <= 1, decoded[:, 0]


def test_16_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)
    decoded = folder.decode_picture(encoded(Image.fromarray(ramp)))
    assert np.array_equal(decoded[0], np.rint(ramp / 257).astype(np.uint8))


def test_huge_pictures_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(Image.DecompressionBombWarning):
        folder.decode_picture(b"P5 10000 10000 255\n")


def test_exif_turns() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    decoded = folder.decode_picture(encoded(Image.fromarray(pixels), exif=exif))
    assert decoded[:, -1].min() == 255 and decoded[:, 0].max() == 0


def test_layout_without_division(make_pictures: Maker) -> None:
    root = make_pictures({"dog": 10, "cat": 20, ".hidden": 3, "__MACOSX": 3})
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "cat" / "._000.png").write_text("not a picture")
    (root / "readme.md").write_text("not a class")
    splits = load(DataConfig(dataset=str(root)))
    assert splits.classes == ("cat", "dog") and splits.name == splits.title == "pets"
    assert splits.counts == {
        "train": {"cat": 14, "dog": 7},
        "val": {"cat": 2, "dog": 1},
        "test": {"cat": 4, "dog": 2},
    }
    assert all(name.split("/")[0] in ("cat", "dog") for name in splits.train.ids)


def test_layout_with_division(make_pictures: Maker) -> None:
    root = make_pictures({f"{part}/{c}": 4 for part in ("train", "val", "test") for c in "ab"})
    splits = load(DataConfig(dataset=str(root)))
    test = load_test(DataConfig(dataset=str(root)))
    for split in (splits.train, splits.val, test):
        assert [name.split("/")[0] for name in split.ids] == [split.name] * 8


def test_suffixes_in_either_case(make_pictures: Maker) -> None:
    root = make_pictures({"a": 1, "b": 1}, suffix="PNG")
    for suffix in ("jpg", "JPEG", "webp", "Bmp", "ppm"):
        for name in "ab":
            Image.new("RGB", (5, 5)).save(root / name / f"x.{suffix}")
    assert sum(map(sum, (c.values() for c in load_counts(root)))) == 12


def load_counts(root: Path) -> list[dict[str, int]]:
    return [dict(found) for found in load(DataConfig(dataset=str(root))).counts.values()]


def test_any_file_name(make_pictures: Maker) -> None:
    root = make_pictures({"a": 5, "b": 5}, name="Häuser & Co")
    for number, name in enumerate([b"new\nline.png", b"bad\xff.png", b"semi;$(x).png"]):
        shutil.copy(root / "a" / f"00{number}.png", root / "a" / os.fsdecode(name))
    first, second = (load(DataConfig(dataset=str(root))) for _ in range(2))
    assert first.name == "h-user-co" and first.digest == second.digest
    assert sum(first.counts["train"].values()) == len(first.train)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("digits", "digits"), ("./digits", "digits-folder"), ("/a/B C/", "b-c"), ("/", "folder")],
)
def test_slug(dataset: str, name: str) -> None:
    from alexnet_mlflow.data import slug

    assert slug(dataset) == name


TWO = {"a": 9, "b": 9}
DIVIDED = {"train/a": 9, "train/b": 9, "test/a": 9}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({".": 0}, "holds no class folders: put the pictures"),
        ({".": 3}, "holds no class folders: put the pictures"),
        ({"train": 0}, "train' holds no class folders"),
        ({"a": 9}, "has one class only .'a'"),
        ({"a": 9, "b": 0}, "b' holds no pictures .*put some there or take the folder away"),
        ({"a": 9, "b": 2}, "class 'b' must have 3 or more .* got 2"),
        (DIVIDED, "must be the same, but 'b' is only in one of them: add or remove"),
        ({**DIVIDED, "test/b": 9, "test/c": 9}, "must be the same, but 'c' is only in one"),
        ({**DIVIDED, "test/b": 9, "val/a": 9}, "val and train .* 'b' is only in one"),
        ({**DIVIDED, "test/b": 9, "valid/a": 9}, "valid' is neither train, val nor test"),
        ({"test/a": 9, "test/b": 9}, "has a test folder but no train folder"),
    ],
)
def test_wrong_folders(counts: dict[str, int], message: str, make_pictures: Maker) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load(DataConfig(dataset=str(make_pictures(counts))))
    assert "\n" not in str(raised.value)


def corrupt(kind: str, file: Path) -> None:
    whole = file.read_bytes()
    file.unlink()
    if kind == "dangling link":
        file.symlink_to("nowhere.png")
        return
    gif = encoded(Image.new("P", (5, 5)), "GIF")
    bomb = b"P5 60000 60000 255\n"
    kinds = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello", "gif": gif}
    file.write_bytes({**kinds, "bomb": bomb, "float": b"Pf 1 1 -1.0\n0000"}[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "gif", "bomb", "float", "dangling link"])
def test_corrupt_picture(kind: str, make_pictures: Maker) -> None:
    root = make_pictures(TWO)
    corrupt(kind, root / "a/004.png")
    with pytest.raises(DataError, match=r"a/004.png' cannot be read \(.*--skip-corrupt") as raised:
        load(DataConfig(dataset=str(root)))
    assert "\n" not in str(raised.value)
    splits = load(DataConfig(dataset=str(root), skip_corrupt=True))
    assert splits.skipped == 1 and sum(c["a"] for c in splits.counts.values()) == 8
    assert load(DataConfig(dataset=str(root), skip_corrupt=True)).skipped == 1  # from the cache


def test_all_corrupt(make_pictures: Maker) -> None:
    root = make_pictures({**DIVIDED, "test/b": 1})
    (root / "test/b/000.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'b' must have 1 or more readable .*test part"):
        load(DataConfig(dataset=str(root), skip_corrupt=True))


def test_check_finds_the_layout_only(make_pictures: Maker) -> None:
    root = make_pictures(TWO)
    (root / "a/000.png").write_bytes(b"")
    check(DataConfig(dataset=str(root)))  # nothing is decoded
    shutil.rmtree(root / "b")
    (root / "b").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        check(DataConfig(dataset=str(root)))
