"""CIFAR-10 from batches, parquet and decoded entries, with small copies of the same layout."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, cache, check, cifar10, load, load_test

N = 20  # pictures a batch: two of each class
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6 * N, 3, 32, 32), dtype=np.uint8)
LABELS = np.concatenate([RNG.permutation(np.repeat(np.arange(10), 2)) for _ in range(6)])


def config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(dataset="cifar10", data_dir=str(root), **options)


def pickled(part: int, protocol: int = 2) -> bytes:
    rows = slice(part * N, part * N + N)
    batch = {
        b"batch_label": b"training batch",
        b"labels": LABELS[rows].tolist(),
        b"data": PIXELS[rows].reshape(N, -1),
        b"filenames": [b"x.png"] * N,
    }
    return pickle.dumps(batch, protocol)


def write_batches(root: Path, protocol: int = 2) -> Path:
    place = root / cifar10.FOLDER
    place.mkdir(parents=True)
    for part, name in enumerate(cifar10.BATCHES):
        (place / name).write_bytes(pickled(part, protocol))
    return place


def write_archive(root: Path) -> Path:
    place = write_batches(root)
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as tar:
        tar.add(place, cifar10.FOLDER)
    shutil.rmtree(place)
    return root / cifar10.ARCHIVE


def write_parquet(root: Path, kind: str = "PNG", order: Any = None, **columns: Any) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    root.mkdir(parents=True, exist_ok=True)
    train = np.arange(5 * N) if order is None else order
    for rows, name in zip((train, np.arange(5 * N, 6 * N)), cifar10.PARQUET, strict=True):
        cells = []
        for row in rows:
            file = io.BytesIO()
            Image.fromarray(PIXELS[row].transpose(1, 2, 0)).save(file, kind)
            cells.append({"bytes": file.getvalue(), "path": f"{row}.png"})
        table = {"label": LABELS[rows], "img": cells, **columns}
        kept = {key: value for key, value in table.items() if value is not None}
        parquet.write_table(pa.table(kept), root / name)
    return [root / name for name in cifar10.PARQUET]


def assert_toy(root: Path, title: str = cifar10.UNVERIFIED) -> None:
    splits, test = load(config(root)), load_test(config(root))
    assert (splits.name, splits.title, splits.classes) == ("cifar10", title, cifar10.CLASSES)
    assert len(splits.train) == 90 and len(splits.val) == 10 and splits.skipped == 0
    for split in (splits.train, splits.val, test):
        start = 5 * N if split is test else 0
        rows = np.char.partition(split.ids, "/")[:, 2].astype(int) + start
        assert np.array_equal(split.images, PIXELS[rows])
        assert np.array_equal(split.labels, LABELS[rows])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("below", ["", "cifar10"])
def test_batches(protocol: int, below: str, tmp_path: Path) -> None:
    write_batches(tmp_path / below, protocol)
    assert_toy(tmp_path)


def test_archive(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "data")
    assert_toy(tmp_path / "data")
    assert list(archive.parent.iterdir()) == [archive]  # nothing is unpacked


@pytest.mark.parametrize("below", [".", "cifar10", "cifar10/plain_text", "plain_text"])
def test_parquet(below: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / below)
    assert_toy(tmp_path)


TOY = {"train": 10, "test": 2}  # pictures of each class


def test_jpeg_with_other_numbers_of_pictures_is_no_copy(tmp_path: Path) -> None:
    write_parquet(tmp_path, "JPEG")
    assert load(config(tmp_path)).title == "CIFAR-10 (unverified copy)"


def test_jpeg_parquet_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "EACH", TOY)
    write_parquet(tmp_path, "JPEG")
    assert load(config(tmp_path)).title == "CIFAR-10 (JPEG copy)"
    assert load(config(tmp_path)).title == "CIFAR-10 (JPEG copy)"  # from the cache


@pytest.mark.parametrize("title", [cifar10.UNVERIFIED, cifar10.JPEG])
@pytest.mark.parametrize("name", ["cifar10", "cifar10/cifar10-0123456789abcdef"])
def test_decoded_entry(
    title: str, name: str, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "EACH", TOY)
    write_parquet(tmp_path / "old", "PNG" if title == cifar10.UNVERIFIED else "JPEG")
    digest = load(config(tmp_path / "old")).digest
    (entry,) = cache_folder.iterdir()
    shutil.copytree(entry, tmp_path / "new" / name)
    splits = load(config(tmp_path / "new"))
    assert splits.digest == digest and splits.title == title
    assert splits.source.endswith(name)


def test_damaged_decoded_entry(tmp_path: Path, cache_folder: Path) -> None:
    write_batches(tmp_path)
    load(config(tmp_path))
    (entry,) = cache_folder.iterdir()
    (entry / "labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match="damaged .*: delete that folder"):
        load(config(shutil.copytree(entry, tmp_path / "new" / "cifar10").parent))


def test_entry_of_other_data(tmp_path: Path, cache_folder: Path) -> None:
    (tmp_path / "pets/a").mkdir(parents=True)
    (tmp_path / "pets/b").mkdir()
    for number in range(6):
        Image.new("RGB", (9, 9)).save(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png")
    load(DataConfig(dataset=str(tmp_path / "pets")))
    (entry,) = cache_folder.iterdir()
    with pytest.raises(DataError, match="holds 'pets', not CIFAR-10"):
        load(config(entry))


def test_a_forged_title_is_not_believed(tmp_path: Path, cache_folder: Path) -> None:
    write_batches(tmp_path)
    load(config(tmp_path))
    (entry,) = cache_folder.iterdir()
    forged = cache.read(entry)
    object.__setattr__(forged, "title", "CIFAR-10")
    cache.write(forged, tmp_path / "new" / "cifar10")
    assert load(config(tmp_path / "new")).title == "CIFAR-10 (unverified copy)"


@pytest.fixture
def official_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the toy's labels and pixels be the official ones."""
    for part, rows in (("train", slice(0, 5 * N)), ("test", slice(5 * N, None))):
        labels = hashlib.sha256(LABELS[rows].tobytes()).hexdigest()
        monkeypatch.setitem(cifar10.LABELS_SHA256, part, labels)
        monkeypatch.setitem(cifar10.PIXELS_MD5, part, cifar10.pixels_md5(PIXELS[rows]))


@pytest.mark.parametrize("write", [write_batches, write_parquet])
def test_official_pixels_get_the_bare_title(
    write: Callable[..., Any], official_toy: None, tmp_path: Path
) -> None:
    write(tmp_path)
    assert_toy(tmp_path, "CIFAR-10")


def test_only_the_official_archive_gets_the_bare_title(
    official_toy: None, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(write_archive(tmp_path).read_bytes()).hexdigest()
    assert_toy(tmp_path, "CIFAR-10 (unverified copy)")
    shutil.rmtree(cache_folder)
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", digest)
    assert_toy(tmp_path, "CIFAR-10")


@pytest.mark.parametrize("at", [3, 5 * N + 3])
def test_one_wrong_pixel_costs_the_title(at: int, official_toy: None, tmp_path: Path) -> None:
    place, (part, row) = write_batches(tmp_path), divmod(at, N)
    batch = pickle.loads(pickled(part))
    batch[b"data"][row, 5] ^= 1
    (place / cifar10.BATCHES[part]).write_bytes(pickle.dumps(batch, 2))
    assert load(config(tmp_path)).title == "CIFAR-10 (unverified copy)"


def test_published_order_is_put_right() -> None:
    published = LABELS[: 5 * N].reshape(5, N)[[3, 2, 1, 4, 0]].ravel()  # batches 4, 3, 2, 5, 1
    known = hashlib.sha256(LABELS[: 5 * N].tobytes()).hexdigest()
    order = cifar10.official_order(published, known)
    assert order is not None and np.array_equal(published[order], LABELS[: 5 * N])
    assert cifar10.official_order(LABELS[: 5 * N], known) is None
    assert cifar10.official_order(LABELS[:7], known) is None


def test_pixels_md5_is_over_height_width_channels() -> None:
    theirs = np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1))
    assert cifar10.pixels_md5(PIXELS) == hashlib.md5(theirs.tobytes()).hexdigest()


class Harm:
    """Pickles to a call with an effect that can be seen."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("where", ["whole", "data", "labels"])
@pytest.mark.parametrize("call", [os.mkdir, eval, getattr, np.load])
def test_malicious_pickle_has_no_effect(where: str, call: Any, tmp_path: Path) -> None:
    place, victim = write_batches(tmp_path), tmp_path / "harm"
    code = f"__import__('os').mkdir({str(victim)!r})"
    harm = Harm(call, code if call is eval else str(victim))
    batch = pickle.loads(pickled(0))
    bad = harm if where == "whole" else {**batch, where.encode(): harm}
    (place / "data_batch_3").write_bytes(pickle.dumps(bad))
    with pytest.raises(DataError, match="data_batch_3' is not a CIFAR-10 batch .*it asks for"):
        load(config(tmp_path))
    assert not victim.exists()


GLOBALS = [b"numpy\ndtype", b"numpy\nndarray", b"numpy.core.multiarray\n_reconstruct"]


@pytest.mark.parametrize("name", [*GLOBALS, b"_codecs\nencode"])
def test_stand_ins_cannot_be_changed(name: bytes, tmp_path: Path) -> None:
    place = write_batches(tmp_path)
    state = b"(N(S'__code__'\nS'harm'\nS'values'\nS'harm'\ndt"  # (None, {...}): BUILD sets these
    (place / "data_batch_1").write_bytes(b"c" + name + b"\n" + state + b"b.")
    with pytest.raises(DataError, match="is not a CIFAR-10 batch"):
        load(config(tmp_path))
    (place / "data_batch_1").write_bytes(pickled(0))
    assert_toy(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {b"data": np.zeros((N, 3072), np.float32)},
        {b"data": np.array([None] * N)},
        {b"data": np.zeros((N, 3000), np.uint8)},
        {b"data": "text"},
        {b"labels": [0] * (N - 1)},
        {b"labels": [0.5] * N},
        {b"labels": None},
        {b"labels": [10] * N},
        {b"labels": [-1] * N},
        {b"labels": [2**70] * N},
    ],
)
def test_wrong_batch(change: dict[bytes, Any], tmp_path: Path) -> None:
    place = write_batches(tmp_path)
    batch = {**pickle.loads(pickled(0)), **change}
    (place / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match="is not a CIFAR-10 batch|has labels") as raised:
        load(config(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9])
def test_cut_files(kept: float, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "tar")
    files = [archive, *write_parquet(tmp_path / "parquet")]
    files.append(write_batches(tmp_path / "folder") / "test_batch")
    for file in files:
        raw = file.read_bytes()
        file.write_bytes(raw[: int(kept * len(raw)) if 0 < kept < 1 else int(kept)])
        root = file.parent.parent if file.name == "test_batch" else file.parent
        with pytest.raises(DataError, match="not |lacks|neither") as raised:
            load(config(root))
        assert "\n" not in str(raised.value)
        file.write_bytes(raw)


def test_broken_inside(tmp_path: Path) -> None:
    file = write_parquet(tmp_path)[0]
    raw = bytearray(file.read_bytes())
    raw[100:4000] = bytes(3900)
    file.write_bytes(raw)
    with pytest.raises(DataError, match="not whole parquet|cannot be read"):
        load(config(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, "must have the columns img .* got img.bytes, img.path: get"),
        ({"img": None, "image": [1] * 20}, "must have the columns img .* got image, label"),
        ({"label": ["cat"] * 20}, "must have the columns .*whole numbers"),
        ({"label": [3] * 19 + [None]}, "must have labels 0 to 9, got None"),
        ({"label": [3] * 19 + [10]}, "must have labels 0 to 9, got 10"),
        ({"label": [3] * 19 + [-1]}, "must have labels 0 to 9, got -1"),
        ({"img": [{"bytes": b"x", "path": ""}] * 19 + [None]}, "row 0' cannot be read"),
        ({"img": [{"bytes": "text"}] * 20}, "row 0' cannot be read"),
    ],
)
def test_wrong_parquet(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path, order=np.arange(20), **columns)
    with pytest.raises(DataError, match=message):
        load(config(tmp_path))


def test_corrupt_row_is_skipped(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    file = write_parquet(tmp_path)[0]
    rows = parquet.read_table(file).to_pylist()
    rows[7]["img"], rows[9]["img"]["bytes"] = None, b"broken"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(DataError, match="row 7' cannot be read .*--skip-corrupt"):
        load(config(tmp_path))
    splits = load(config(tmp_path, skip_corrupt=True))
    assert splits.skipped == 2 and not {"train/00007", "train/00009"} & set(splits.train.ids)
    rows = np.char.partition(splits.train.ids, "/")[:, 2].astype(int)
    assert np.array_equal(splits.train.images, PIXELS[rows])


def test_archive_members_are_chosen(tmp_path: Path) -> None:
    archive = write_archive(tmp_path)
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member)) for member in tar.getmembers()]
        with tarfile.open(tmp_path / "new.tgz", "w:gz") as new:
            for member, content in members:
                new.addfile(member, content)
            new.addfile(tarfile.TarInfo(f"{cifar10.FOLDER}/readme.html"))
            new.addfile(tarfile.TarInfo("data_batch_1"))
    shutil.move(tmp_path / "new.tgz", archive)
    assert_toy(tmp_path)


def test_lost_batch(tmp_path: Path) -> None:
    (write_batches(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks data_batch_4: get a whole copy"):
        load(config(tmp_path))


def test_missing(tmp_path: Path) -> None:
    write_parquet(tmp_path)[1].unlink()
    message = "no CIFAR-10 .*cifar-10-python.tar.gz.*test-00000.*--data-dir or ALEXNET_DATA"
    with pytest.raises(DataError, match=message):
        check(config(tmp_path))


def test_real(shared_data: Path) -> None:
    splits, test = load(config(shared_data)), load_test(config(shared_data))
    assert splits.title == "CIFAR-10 (JPEG copy)"
    assert [len(splits.train), len(splits.val), len(test)] == [45_000, 5_000, 10_000]
    assert set(splits.counts["val"].values()) == {500}
    limited = load(config(shared_data, limit=5_000))
    assert len(limited.train) == 4_500
    assert set(limited.train.ids) < {*splits.train.ids, *splits.val.ids}
