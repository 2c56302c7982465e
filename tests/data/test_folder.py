"""Folders, archives and lists of pictures: all give the same; what is refused how."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, Split, check, folder, load, load_test, slug
from alexnet_mlflow.data.picture import decode_picture

Maker = Callable[..., Path]


def everything(path: Path) -> list[Split]:
    """The three splits of this data set."""
    config = DataConfig(dataset=str(path))
    splits = load(config)
    return [splits.train, splits.val, load_test(config)]


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below, out of order, as `a/b.png`."""
    files = [file for file in sorted(root.rglob("*"), reverse=True) if file.is_file()]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, raw in files.items():
            packed.writestr(name, raw)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as packed:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            packed.addfile(info, io.BytesIO(raw))
    return path


def write(path: Path, root: Path, around: str) -> Path:
    """Pack the folder, with `around` before every name."""
    files = {f"{around}{name}": raw for name, raw in files_of(root).items()}
    if around:
        files |= {f"__MACOSX/{around}a/._1.png": b"not a picture"}
    return (write_zip if path.name.endswith(".zip") else write_tar)(path, files)


FLAT = {"dog": 10, "cat": 12, ".hidden": 3, "__MACOSX": 3}
PARTED = {f"{part}/{kind}": 4 for part in ("train", "val", "test") for kind in ("dog", "cat")}
MADE = [("x.zip", ""), ("x.zip", "pets/"), ("x.tar", ""), ("x.tar", "./pets/"), ("x.tar.gz", ""),
        ("x.tgz", "pets/")]  # fmt: skip


@pytest.mark.parametrize(("name", "around"), MADE)
@pytest.mark.parametrize("counts", [FLAT, PARTED], ids=["flat", "parted"])
def test_every_form_gives_the_same(
    counts: dict[str, int], name: str, around: str, make_pictures: Maker, tmp_path: Path
) -> None:
    root = make_pictures(counts, side=40)
    path = write(tmp_path / name, root, around)
    ours, theirs = (load(DataConfig(dataset=str(place))) for place in (path, root))
    assert ours.classes == theirs.classes == ("cat", "dog") and ours.counts == theirs.counts
    assert (ours.name, ours.title) == ("x", name)
    assert_same(path, root)


def assert_same(path: Path, root: Path) -> None:
    """As each other, and as the folder's files are."""
    for one, other in zip(everything(path), everything(root), strict=True):
        for name, label, pixels in zip(one.ids, one.labels, one.images, strict=True):
            assert ("cat", "dog")[label] == name.split("/")[-2]
            assert np.array_equal(pixels, decode_picture((root / name).read_bytes()))
        assert len(one.ids) > 0 and np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("counts", [FLAT, PARTED], ids=["flat", "parted"])
def test_a_list_gives_the_same(counts: dict[str, int], make_pictures: Maker) -> None:
    """Beside its pictures, so that their names, and with them the division, are the same."""
    root = make_pictures(counts, side=40)
    rows = ["path,label" + ",split" * (counts is PARTED)]
    for name in files_of(root):
        *part, kind, _ = name.split("/")
        if not name.startswith((".", "__")):
            rows.append(",".join([name, kind, *part]))
    (root / "list.csv").write_text("\n".join(rows))
    assert load(DataConfig(dataset=str(root / "list.csv"))).classes == ("cat", "dog")
    assert_same(root / "list.csv", root)


def test_groups_of_a_list_stay_whole(make_pictures: Maker, tmp_path: Path) -> None:
    make_pictures({"a": 60, "b": 60})
    rows = [f"pets/{kind}/{n:03d}.png,{kind},g{n // 6}" for kind in "ab" for n in range(59)]
    rows += [f"pets/{kind}/059.png,{kind}," for kind in "ab"]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,group", *rows]))
    decoded = folder.find(tmp_path / "x.csv", "x").decode(False)
    assert decoded.groups is not None and decoded.ids[7] == "pets/a/007.png"
    assert decoded.groups[7] == "g1" and decoded.groups[59] == "pets/a/059.png"
    splits = everything(tmp_path / "x.csv")
    expected = {row.split(",")[0]: row.split(",")[2] or row.split(",")[0] for row in rows}
    assert sum(len(split.ids) for split in splits) == 120
    for split in splits:
        assert [expected[name] for name in split.ids] == split.groups.tolist()
    train, val, test = (set(split.groups.tolist()) for split in splits)
    assert train and val and test and not (train & val or train & test or val & test)


def test_a_corrupt_picture_takes_its_group_along(make_pictures: Maker, tmp_path: Path) -> None:
    root = make_pictures({"a": 9, "b": 9})
    rows = [f"pets/{kind}/{n:03d}.png,{kind},{kind}{n}" for kind in "ab" for n in range(9)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,group", *rows]))
    (root / "a/004.png").write_bytes(b"broken")
    decoded = folder.find(tmp_path / "x.csv", "x").decode(True)
    assert decoded.skipped == 1 and decoded.groups is not None
    assert decoded.groups.tolist() == [row.split(",")[2] for row in rows if "a4" not in row]


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_corrupt_picture_in_an_archive(
    name: str, make_pictures: Maker, tmp_path: Path
) -> None:
    root = make_pictures({"a": 9, "b": 9})
    (root / "a/004.png").write_bytes(b"broken")
    path = write(tmp_path / name, root, "pets/")
    with pytest.raises(DataError, match=rf"{name}/pets/a/004.png' cannot be read \(not one of"):
        load(DataConfig(dataset=str(path)))
    assert load(DataConfig(dataset=str(path), skip_corrupt=True)).skipped == 1


def test_what_a_list_names_but_is_not_there(make_pictures: Maker, tmp_path: Path) -> None:
    make_pictures({"a": 4, "b": 4})
    rows = [f"pets/{kind}/{n:03d}.png,{kind}" for kind in "ab" for n in range(4)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows, "pets/b/gone.png,b"]))
    with pytest.raises(DataError, match=r"pets/b/gone.png' cannot be read \(.*No such") as raised:
        load(DataConfig(dataset=str(tmp_path / "x.csv")))
    assert "\n" not in str(raised.value)


def test_a_list_without_train(make_pictures: Maker, tmp_path: Path) -> None:
    make_pictures({"a": 1})
    (tmp_path / "x.csv").write_text("path,label,split\npets/a/000.png,a,test")
    with pytest.raises(DataError, match="has test pictures but none to learn from"):
        load(DataConfig(dataset=str(tmp_path / "x.csv")))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("path,label\na,b\n")
    with pytest.raises(DataError, match="x.txt' is neither a folder, a zip, .*give the path"):
        load(DataConfig(dataset=str(tmp_path / "x.txt")))


def test_what_changes_is_read_again(make_pictures: Maker, tmp_path: Path) -> None:
    make_pictures({"a": 9, "b": 9})
    rows = [f"pets/{kind}/{n:03d}.png,{kind}" for kind in "ab" for n in range(9)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["path,label", *rows]))
    assert load(DataConfig(dataset=str(path))).classes == ("a", "b")
    path.write_text(path.read_text().replace(".png,a", ".png,aa"))  # the order stays
    assert load(DataConfig(dataset=str(path))).classes == ("aa", "b")


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
    [
        ("digits", "digits"), ("./digits", "digits-folder"), ("/a/B C/", "b-c"), ("/", "folder"),
        ("x/Pets.tar.gz", "pets"), ("pets.zip", "pets"), ("my.list.csv", "my-list"),
        ("a" * 99, "a" * 60),
    ],
)  # fmt: skip
def test_slug(dataset: str, name: str) -> None:
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
        ({"test/a": 9, "test/b": 9}, "has test pictures but none to learn from: put those"),
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
    file.write_bytes({"cut": whole[: len(whole) // 2], "bomb": b"P5 60000 60000 255\n"}[kind])


@pytest.mark.parametrize("kind", ["cut", "bomb", "dangling link"])
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
