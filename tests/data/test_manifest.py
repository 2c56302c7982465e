"""The manifest and its patches: what is written comes back, and damage is noticed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.data import DataError, manifest
from alexnet_mlflow.data.manifest import MANIFEST, PIXELS, Row

HASHES = {"lists_sha256": "a" * 64, "photos_sha256": "b" * 64}
ORIGIN = {"name": "fddb", "seed": 3, "rotate": 0, **HASHES}
PATCHES = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)


def row(number: int) -> Row:
    """Of each of four photos a face, then a background; two look alike, the last is grey."""
    photo, label = divmod(number, 2)
    return Row(
        photo=f"2002/07/19/big/img_{photo}",
        width=300,
        height=200,
        mode="L" if photo == 3 else "RGB",
        format="JPEG",
        x=30 * label,
        y=10,
        side=60,
        label=("face", "nonface")[label],
        fold=photo + 1,
        split=("train", "train", "val", "test")[photo],
        group=f"2002/07/19/big/img_{0 if photo == 1 else photo}",
        sha256=manifest.pixels_sha256(PATCHES[number]),
    )


ROWS = [row(number) for number in range(len(PATCHES))]
TEXT = manifest.text(ORIGIN, ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight patches, written."""
    manifest.write(TEXT, PATCHES, tmp_path / "new" / "patches")
    return tmp_path / "new" / "patches"


def test_what_is_written_comes_back(folder: Path) -> None:
    data = manifest.read(folder)
    assert np.array_equal(data.images, PATCHES)
    assert (data.name, data.title) == ("fddb", "FDDB (paired patches)")
    assert data.classes == ("face", "nonface") and data.labels.tolist() == [0, 1] * 4
    assert data.ids[:2].tolist() == ["2002/07/19/big/img_0/face", "2002/07/19/big/img_0/nonface"]
    assert data.division == {"train": (0, 4), "val": (4, 6), "test": (6, 8)}
    assert data.groups is not None
    assert [name[-1] for name in data.groups] == list("00002233")
    assert data.identity == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert data.source == str(folder) and data.images.flags.c_contiguous


def test_facts(folder: Path) -> None:
    facts = {name: column.tolist() for name, column in manifest.read(folder).facts.items()}
    assert facts.pop("x") == pytest.approx([0, 0.1] * 4)
    assert facts.pop("y") == pytest.approx([0.05] * 8)
    assert facts.pop("side") == pytest.approx([0.2] * 8)
    assert facts == {
        "photo_width": [300] * 8, "photo_height": [200] * 8, "grey": [0] * 6 + [1, 1],
        "format": [0] * 8,
    }


def test_hash_is_of_rows_columns_colours() -> None:
    picture = Image.fromarray(PATCHES[0].transpose(1, 2, 0))
    assert ROWS[0].sha256 == hashlib.sha256(picture.tobytes()).hexdigest()


def test_text_is_a_line_of_json_and_a_csv() -> None:
    first, fields, face, *others = TEXT.split("\n")
    head = json.loads(first.removeprefix("# "))
    assert head.pop("seal") and head == {**ORIGIN, "protocol": 1, "patches": 8}
    assert fields == "photo,width,height,mode,format,x,y,side,label,fold,split,group,sha256"
    start = "2002/07/19/big/img_0,300,200,RGB,JPEG,0,10,60,face,1,train,2002/07/19/big/img_0,"
    assert face == start + ROWS[0].sha256
    assert len(others) == 8 and others[-1] == ""


def test_everything_is_in_the_identity() -> None:
    others = [manifest.text({**ORIGIN, name: "other"}, ROWS) for name in ORIGIN]
    others += [manifest.text(ORIGIN, ROWS[:-1]), manifest.text(ORIGIN, ROWS[::-1])]
    for name, value in (("x", 1), ("side", 61), ("fold", 9), ("group", "g"), ("sha256", "0")):
        others.append(manifest.text(ORIGIN, [replace(ROWS[0], **{name: value}), *ROWS[1:]]))
    assert len({TEXT, *others}) == 1 + len(others)


def test_older_patches_are_replaced(folder: Path) -> None:
    turned = PATCHES[:2, ::-1]
    some = [replace(ROWS[at], split=part, sha256=manifest.pixels_sha256(turned[at]))
            for at, part in enumerate(("train", "test"))]
    manifest.write(manifest.text(ORIGIN, some), turned, folder)
    assert np.array_equal(manifest.read(folder).images, turned)
    assert sorted(file.name for file in folder.iterdir()) == [MANIFEST, PIXELS]


def test_writing_cut_off_between_the_files_is_noticed(folder: Path) -> None:
    old = (folder / MANIFEST).read_bytes()
    manifest.write(TEXT, np.roll(PATCHES, 1), folder)
    (folder / MANIFEST).write_bytes(old)
    with pytest.raises(DataError, match="the face of 2002/07/19/big/img_0 is not as it was"):
        manifest.read(folder)


def test_failed_writing_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / PIXELS).mkdir()
    with pytest.raises(OSError):
        manifest.write(TEXT, PATCHES, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [PIXELS]


REFUSED = r"^the patches in '.*' are not whole \(.*\): build them again with alexnet-mlflow data "


@pytest.mark.parametrize("name", [MANIFEST, PIXELS])
def test_a_flipped_bit_anywhere_is_noticed(name: str, folder: Path) -> None:
    raw = (folder / name).read_bytes()
    step = max(1, len(raw) // 400)
    for at in [*range(0, 160), *range(160, len(raw), step), len(raw) - 1]:
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        (folder / name).write_bytes(changed)
        if name == PIXELS and _same(bytes(changed)):
            continue  # a blank of numpy's header
        with pytest.raises(DataError, match=REFUSED):
            manifest.read(folder)


def _same(raw: bytes) -> bool:
    try:
        return np.array_equal(np.load(io.BytesIO(raw)), PATCHES)
    except Exception:
        return False


@pytest.mark.parametrize("name", [MANIFEST, PIXELS])
@pytest.mark.parametrize("kept", [0, 1, 100, 128, 500, -1])
def test_cut_files(name: str, kept: int, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    with pytest.raises(DataError, match=REFUSED):
        manifest.read(folder)


def saved(array: Any, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


class Canary:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("canary", "w")


def sealed(**changes: Any) -> bytes:
    return manifest.text({**ORIGIN, **changes}, ROWS).encode()


HOSTILE = {
    "other pixels": (PIXELS, saved(PATCHES[::-1])),
    "fewer": (PIXELS, saved(PATCHES[:-1])),
    "more": (PIXELS, saved(np.concatenate([PATCHES, PATCHES]))),
    "other shape": (PIXELS, saved(PATCHES.reshape(8, 32, 32, 3))),
    "other type": (PIXELS, saved(PATCHES.astype(np.int8))),
    "objects": (PIXELS, saved(np.array([Canary()], object), allow_pickle=True)),
    "a zip": (PIXELS, b"PK\3\4" + bytes(1000)),
    "a sum for a shape": (PIXELS, saved(PATCHES).replace(b"(8, 3, 32, 32)", b"(8, 3, 1<<40,)")),
    "a petabyte": (PIXELS, saved(PATCHES).replace(b"(8, 3, 32, 32)", b"(9999999999, )")),
    "bytes behind": (PIXELS, saved(PATCHES) + bytes(5000)),
    "no JSON": (MANIFEST, b"hello\n" + TEXT.encode()),
    "JSON alone": (MANIFEST, b"# {}"),
    "a list": (MANIFEST, b"# [1, 2]\n\n"),
    "nested": (MANIFEST, b"# " + b"[" * 200_000 + b"\n\n"),
    "other protocol": (MANIFEST, sealed(protocol=1).replace(b'"protocol": 1', b'"protocol": 2')),
    "other name": (MANIFEST, sealed(name="cifar10")),
    "name that is none": (MANIFEST, sealed(name=["fddb"])),
    "no name": (MANIFEST, manifest.text({"seed": 1}, ROWS).encode()),
    "a field more": (MANIFEST, TEXT.replace("face,1,", "face,1,1,").encode()),
    "numbers in words": (MANIFEST, TEXT.replace(",300,", ",wide,").encode()),
    "other digits": (MANIFEST, TEXT.replace(",300,", ",\u0663\u0660\u0660,").encode()),
    "bytes that are no text": (MANIFEST, b"\xff\xfe" + TEXT.encode()),
    "Windows line ends": (MANIFEST, TEXT.replace("\n", "\r\n").encode()),
    "endless": (MANIFEST, TEXT.encode() + b"x" * (10 << 20)),
    "unknown split": (MANIFEST, manifest.text(
        ORIGIN, [*ROWS[:-1], replace(ROWS[-1], split="dev")]).encode()),
    "unknown label": (MANIFEST, manifest.text(
        ORIGIN, [*ROWS[:-1], replace(ROWS[-1], label="car")]).encode()),
    "unknown format": (MANIFEST, manifest.text(
        ORIGIN, [*ROWS[:-1], replace(ROWS[-1], format="GIF")]).encode()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    name, raw = HOSTILE[case]
    (folder / name).write_bytes(raw)
    with pytest.raises(DataError) as refused:
        manifest.read(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert not (tmp_path / "canary").exists()


def test_splits_in_disorder(tmp_path: Path) -> None:
    manifest.write(manifest.text(ORIGIN, ROWS[::-1]), PATCHES[::-1], tmp_path)
    with pytest.raises(DataError, match="not in the order of train, val, test"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, PIXELS])
def test_missing_files(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=r"not whole \(No such file or directory\)"):
        manifest.read(folder)
