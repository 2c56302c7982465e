"""Hostile and broken inputs through the public door: one sentence each, and no trace of them.

A case is what the refusal must say and a maker of the input in an empty folder, next to which lies
`canary`. Where a payload runs it would leave the file `harmed` there. All but the harm is valid, so
that nothing else can be the reason for a refusal. Headers that would need gigabytes to be believed
are checked against limits that are patched down.
"""

from __future__ import annotations

import builtins
import codecs
import gzip
import io
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from alexnet_mlflow.cli import main
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, archive, cache, cifar10, load
from alexnet_mlflow.data.split import Decoded

LONGEST = 700  # letters of a message, with pytest's long paths in it
EACH = 6  # pictures a class

Maker = Callable[[Path], DataConfig]
Files = Mapping[str, bytes]
CASES: dict[str, tuple[str, Maker]] = {}


def encoded(kind: str = "PNG", side: int = 8, seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


GOOD: Files = {
    f"{kind}/{number}.png": encoded(seed=number + EACH * (kind == "b"))
    for kind in "ab"
    for number in range(EACH)
}
DIVIDED_GOOD: Files = {
    f"{part}/{name}": raw for part in ("train", "test") for name, raw in GOOD.items()
}


def own(path: Path) -> DataConfig:
    return DataConfig(dataset=str(path))


def case(name: str, why: str, make: Maker) -> None:
    assert name not in CASES
    CASES[name] = (why, make)


# --- archives -------------------------------------------------------------------------------------


def zipped(
    path: Path, files: Files, change: Callable[[zipfile.ZipInfo], None] | None = None
) -> Path:
    """The good pictures and these; `change` sees each of these members' headers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, raw in {**GOOD, **files}.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            if change and name in files:
                change(info)
            packed.writestr(info, raw)
    return path


def tarred(path: Path, files: Files, mode: str = "w", **fields: Any) -> Path:
    """The good pictures and these, whose headers get these fields."""
    with tarfile.open(path, cast(Any, mode)) as packed:
        for name, raw in {**GOOD, **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            for field, value in (fields if name in files else {}).items():
                setattr(info, field, value)
            packed.addfile(info, io.BytesIO(raw) if info.type == tarfile.REGTYPE else None)
    return path


def gzipped(path: Path, files: Files, **fields: Any) -> Path:
    return tarred(path, files, "w:gz", **fields)


PACKERS: dict[str, Callable[..., Path]] = {"zip": zipped, "tar": tarred, "tar.gz": gzipped}


def packed(suffix: str, files: Files, **options: Any) -> Maker:
    return lambda folder: own(PACKERS[suffix](folder / f"x.{suffix}", files, **options))


def absolute(suffix: str) -> Maker:
    def make(folder: Path) -> DataConfig:
        return own(PACKERS[suffix](folder / f"x.{suffix}", {f"{folder.parent}/canary": b"!"}))

    return make


def rewritten(suffix: str, change: Callable[[bytes], bytes], files: Files | None = None) -> Maker:
    """A good archive, with its bytes changed."""

    def make(folder: Path) -> DataConfig:
        path = PACKERS[suffix](folder / f"x.{suffix}", files or {})
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before
        return own(path)

    return make


def raw_file(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> DataConfig:
        (folder / name).write_bytes(content)
        return own(folder / name)

    return make


for _suffix in PACKERS:
    case(f"{_suffix}: absolute path", "points out of it", absolute(_suffix))
    for _title, _name in {
        "dots": "../canary",
        "dots inside": "a/../../canary",
        "drive": "C:/canary",
        "drive without slash": "c:canary",
    }.items():
        case(f"{_suffix}: {_title}", "points out of it", packed(_suffix, {_name: b"!"}))
    case(f"{_suffix}: backslash", "backslash or a NUL", packed(_suffix, {"..\\canary": b"!"}))
    case(
        f"{_suffix}: unreadable member with a very long name",
        "cannot be read",
        packed(_suffix, {f"a/{'n' * 3000}.png": b"!"}),
    )
    case(
        f"{_suffix}: bad name of what takes ten letters each to show",
        "points out of it",
        packed(_suffix, {"../" + "\U000e0001" * 100: b"!"}),
    )
    case(
        f"{_suffix}: very long class in one part only",
        "only in one of them",
        packed(_suffix, {**DIVIDED_GOOD, f"test/{'c' * 3000}/1.png": b"!"}),
    )
    if _suffix != "tar":  # is not compressed
        case(
            f"{_suffix}: bomb by ratio",
            "more than 200 times",
            packed(_suffix, {"z": bytes(64 << 20)}),
        )
        case(
            f"{_suffix}: wanted bomb by ratio",
            "more than 200 times|over the",
            packed(_suffix, {"a/z.png": bytes(64 << 20)}),
        )
    case(
        f"{_suffix}: cut in the middle",
        "is not whole",
        rewritten(_suffix, lambda raw: raw[: len(raw) // 2]),
    )


for _title, _kind in {
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
}.items():
    for _suffix in ("tar", "tar.gz"):
        case(
            f"{_suffix}: {_title}",
            "a link, a device or sparse",
            packed(_suffix, {"a/9.png": b""}, type=_kind, linkname="../../canary"),
        )


def _typed(info: zipfile.ZipInfo, mode: int) -> None:
    info.external_attr = mode << 16


for _title, _mode in {
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "character device": stat.S_IFCHR,
    "socket": stat.S_IFSOCK,
}.items():
    case(
        f"zip: {_title}",
        "a link or a device",
        packed("zip", {"a/9.png": b"../../canary"}, change=partial(_typed, mode=_mode)),
    )


def central(at: int, value: bytes) -> Callable[[bytes], bytes]:
    """Changes the first member's entry in a zip's directory."""

    def change(raw: bytes) -> bytes:
        start = raw.index(b"PK\1\2") + at
        return raw[:start] + value + raw[start + len(value) :]

    return change


def encrypted(raw: bytes) -> bytes:
    raw = central(8, b"\1\0")(raw)
    return raw[:6] + b"\1\0" + raw[8:]


def tar_header(change: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    """Changes a tar's first header and puts its sum right."""

    def changed(raw: bytes) -> bytes:
        head = bytearray(raw[:512])
        change(head)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + raw[512:]

    return changed


def claims(field: bytes) -> Callable[[bytearray], None]:
    def change(head: bytearray) -> None:
        head[124:136] = field

    return change


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


case("zip: encrypted", "is encrypted", rewritten("zip", encrypted))
case(
    "zip: another compression",
    "neither stored nor deflated",
    rewritten("zip", central(10, b"\x0c\0")),
)
case("zip: claims fewer bytes", "is not whole", rewritten("zip", central(24, struct.pack("<I", 9))))
case(
    "zip: claims more bytes", "is not whole", rewritten("zip", central(24, struct.pack("<I", 999)))
)
case("zip: claims 4 GB", "more than 200 times", rewritten("zip", central(24, b"\xfe\xff\xff\xff")))
case("zip: bad sum", "is not whole .*CRC", rewritten("zip", central(16, b"\1\2\3\4")))
case(
    "zip: a name twice",
    "there twice",
    rewritten("zip", lambda raw: raw.replace(b"a/1.png", b"a/0.png")),
)
case(
    "zip: NUL in a name",
    "a NUL",
    rewritten("zip", lambda raw: raw.replace(b"a/1.png", b"a/\0.png")),
)
case("zip: directory elsewhere", "is not whole", rewritten("zip", central(0, b"PK\7\7")))
case(
    "zip: member starts elsewhere", "is not whole", rewritten("zip", central(42, b"\xff\xff\xff\0"))
)
case("tar: a name twice", "there twice", packed("tar", {"./a//0.png": b"!"}))
case("tar: sum of a header", "is not whole|neither", rewritten("tar", lambda raw: flipped(raw, 0)))
case("tar: negative size", "refused|not whole", rewritten("tar", tar_header(claims(b"\xff" * 12))))
case(
    "tar: claims 8 GB", "over the|not whole", rewritten("tar", tar_header(claims(b"77777777777\0")))
)
case(
    "tar: no end mark",
    "no end mark",
    rewritten("tar", lambda raw: raw[: raw.rindex(b"IEND") // 512 * 512 + 512]),
)
case("tar: NUL in a name", "a NUL", packed("tar", {"a/9.png": b""}, pax_headers={"path": "a\0b"}))
case(
    "tar: long header",
    "header over",
    packed("tar", {"a/9.png": b""}, pax_headers={"x": "y" * 99999}),
)
case(
    "tar.gz: bad sum",
    "is not whole .*CRC",
    rewritten("tar.gz", lambda raw: flipped(raw, len(raw) - 8)),
)
case(
    "tar.gz: bad inside",
    "is not whole",
    rewritten("tar.gz", lambda raw: flipped(raw, len(raw) // 2)),
)
case("gz: of nothing", "is not whole", raw_file("x.tar.gz", gzip.compress(b"")))
case("gz: of text", "is not whole", raw_file("x.tar.gz", gzip.compress(b"text" * 999)))
case(
    "gz: of a gz", "is not whole", raw_file("x.tar.gz", gzip.compress(gzip.compress(b"text" * 999)))
)
case("gz: header alone", "is not whole", raw_file("x.tar.gz", b"\x1f\x8b"))
case("7z", "neither a folder, a zip", raw_file("x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(999)))
case(
    "7z named zip", "neither a folder, a zip", raw_file("x.zip", b"7z\xbc\xaf\x27\x1c" + bytes(999))
)
case("rar", "neither a folder, a zip", raw_file("x.rar", b"Rar!\x1a\7\1\0" + bytes(999)))
case("empty zip", "neither a folder, a zip", raw_file("x.zip", b""))
case("zip of nothing", "no class folders", raw_file("x.zip", b"PK\5\6" + bytes(18)))
case("zip: magic alone", "is not whole", raw_file("x.zip", b"PK\3\4"))
case("program named csv.exe", "neither a folder, a zip", raw_file("x.exe", b"MZ" + bytes(999)))

# --- pictures -------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(99999))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def pictures(files: Files) -> Maker:
    """A folder of good pictures with these among them."""

    def make(folder: Path) -> DataConfig:
        for name, raw in {**GOOD, **files}.items():
            (folder / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "pets" / name).write_bytes(raw)
        return own(folder / "pets")

    return make


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch harmed) system\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(999)
for _title, _name, _raw in (
    ("PNG that claims 60000x60000", "9.png", png(60000, 60000)),
    ("PNG over the limit", "9.png", png(8193, 8192)),
    ("PNG without pixels", "9.png", png(999, 0)),
    (
        "BMP that claims 60000x60000",
        "9.bmp",
        encoded("BMP")[:18] + struct.pack("<ii", 60000, 60000) + bytes(99),
    ),
    ("PPM that claims 60000x60000", "9.ppm", b"P6 60000 60000 255\n" + bytes(99)),
    ("cut JPEG", "9.jpg", encoded("JPEG", 64)[:-400]),
    ("cut PNG", "9.png", encoded("PNG", 64)[:-400]),
    ("cut WebP", "9.webp", encoded("WEBP", 64)[:-400]),
    ("EPS", "9.png", EPS),
    ("SVG", "9.png", SVG),
    ("PSD", "9.png", PSD),
    ("GIF", "9.png", encoded("GIF")),
    ("TIFF", "9.png", encoded("TIFF")),
    ("ICO", "9.png", encoded("ICO", 16)),
    ("zero bytes", "9.png", b""),
    ("text", "9.jpg", b"hello\n"),
    ("HTML", "9.jpg", b"<!DOCTYPE html><title>404</title>"),
    ("python", "9.png", b"import os; os.system('touch harmed')\n"),
    ("NULs", "9.bmp", bytes(9999)),
):
    case(f"picture: {_title}", rf"9\.{_name[2:]}' cannot be read", pictures({f"a/{_name}": _raw}))

# --- folders --------------------------------------------------------------------------------------


def arranged(change: Callable[[Path], object], divided: bool = False) -> Maker:
    """A good folder, changed."""

    def make(folder: Path) -> DataConfig:
        for part in ("train", "test") if divided else (".",):
            for name, raw in GOOD.items():
                file = folder / "pets" / part / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(raw)
        change(folder / "pets")
        return own(folder / "pets")

    return make


for _title, _why, _change, _parts in (
    ("class without pictures", "holds no pictures", lambda root: (root / "c").mkdir(), False),
    ("dangling link", "cannot be read", lambda root: (root / "a/9.png").symlink_to("no"), False),
    ("link loop", "cannot be read", lambda root: (root / "a/9.png").symlink_to("9.png"), False),
    (
        "link to a device",
        "cannot be read",
        lambda root: (root / "a/9.png").symlink_to("/dev/zero"),
        False,
    ),
    (
        "folder that links to itself",
        "holds no pictures",
        lambda root: (root / "c").symlink_to("."),
        False,
    ),
    ("only test", "none to learn from", lambda root: shutil.rmtree(root / "train"), True),
    (
        "a class only in train",
        "must be the same",
        lambda root: shutil.rmtree(root / "test/b"),
        True,
    ),
    (
        "class folders beside train",
        "neither train, val nor test",
        lambda root: shutil.copytree(root / "test", root / "Test"),
        True,
    ),
    (
        "empty test class",
        "holds no pictures",
        lambda root: [file.unlink() for file in (root / "test/b").iterdir()],
        True,
    ),
    ("one class", "has one class only", lambda root: shutil.rmtree(root / "b"), False),
    (
        "no class",
        "holds no class folders",
        lambda root: list(map(shutil.rmtree, root.iterdir())),
        False,
    ),
    (
        "too few pictures",
        "b",
        lambda root: [(root / f"b/{number}.png").unlink() for number in range(1, EACH)],
        False,
    ),
    (
        "class of two lines",
        "cannot be shown",
        lambda root: (root / "b").rename(root / "b\nError: b"),
        False,
    ),
    (
        "class of what takes ten letters each",
        "cannot be shown",
        lambda root: (root / "b").rename(root / ("\U000e0001" * 60)),
        False,
    ),
):
    case(f"folder: {_title}", _why, arranged(_change, _parts))

# --- lists ----------------------------------------------------------------------------------------


def csv_of(text: str | bytes) -> Maker:
    """A list next to a good folder's class folders."""

    def make(folder: Path) -> DataConfig:
        root = Path(pictures({})(folder).dataset)
        (root / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return own(root / "list.csv")

    return make


def fifo(folder: Path) -> DataConfig:
    os.mkfifo(folder / "list.csv")
    return own(folder / "list.csv")


ROWS = "".join(f"{name},{name[0]}\n" for name in GOOD)
LIST = f"path,label\n{ROWS}"
for _title, _why, _text in (
    ("dots", "leads out", LIST + "../../canary,a\n"),
    ("dots inside", "leads out", LIST + "a/../../../canary,a\n"),
    ("absolute", "below the list's folder", LIST + "/etc/passwd,a\n"),
    ("drive", "below the list's folder", LIST + "C:/x.png,a\n"),
    ("backslash", "below the list's folder", LIST + "..\\canary,a\n"),
    ("missing file", "cannot be read", LIST + "a/99.png,a\n"),
    ("a folder", "cannot be read", LIST + "a,a\n"),
    ("itself", "cannot be read", LIST + "list.csv,a\n"),
    ("duplicate path", "is there already", LIST + "./a//0.png,a\n"),
    ("NUL", "NUL", LIST + "a/\0.png,a\n"),
    ("huge field", "field", LIST + "a" * 200_000 + ",a\n"),
    ("huge line", "field", "a" * 3_000_000),
    ("no header", "header must name", ROWS),
    ("unknown column", "header must name", "path,label,gruop\n" + ROWS.replace("\n", ",1\n")),
    ("column twice", "header must name", "path,label,label\n" + ROWS.replace("\n", ",a\n")),
    ("header of long names", "header must name", ",".join(f"{at}{'h' * 110}" for at in range(20))),
    ("empty", "header must name", ""),
    ("header alone", "before any picture", "path,label\n"),
    ("empty path", "is empty", LIST + ",a\n"),
    ("empty label", "is empty", LIST + "a/9.png, \n"),
    ("missing label", "missing one", LIST + "a/9.png,NaN\n"),
    ("label of two lines", "cannot be shown", LIST + 'a/9.png,"a\nError: b"\n'),
    ("label that takes ten letters each", "cannot be shown", LIST + "a/9.png," + "\U000e0001" * 99),
    ("long label", "more than 100 letters", LIST + f"a/9.png,{'a' * 9999}\n"),
    ("long path", "cannot be read", LIST + f"a/{'p' * 9999}.png,a\n"),
    ("one class only", "class", "path,label\n" + ROWS.replace(",b", ",a")),
    ("wrong number of columns", "3 fields", LIST + "a/9.png,a,b\n"),
    ("not UTF-8", "must be UTF-8", LIST.encode() + "é.png,a\n".encode("latin1")),
    ("UTF-16", "must be UTF-8", LIST.encode("utf-16")),
    ("unbalanced quote", "is wrong", LIST + '"a/9.png,a\n'),
    ("unknown split", "must be one of train", "path,label,split\n" + ROWS.replace("\n", ",dev\n")),
    (
        "only test",
        "none to learn from",
        "path,label,split\n" + ROWS.replace("\n", ",test\n"),
    ),
):
    case(f"csv: {_title}", _why, csv_of(_text))
case("csv: a pipe", "neither a folder, a zip", fifo)

# --- CIFAR-10 -------------------------------------------------------------------------------------

N = 20  # pictures a batch: two of each class
LABELS = [row % 10 for row in range(N)]
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 3072), dtype=np.uint8)
BATCH: dict[bytes, Any] = {b"labels": LABELS, b"data": PIXELS}


class Harm:
    """Pickles to a call."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.call, self.arguments


def batches(first: Callable[[Path], bytes]) -> Maker:
    """A good copy but for its first batch; the function sees the file that must not be made."""

    def make(folder: Path) -> DataConfig:
        place = folder / "data" / cifar10.FOLDER
        place.mkdir(parents=True)
        for name in cifar10.BATCHES:
            (place / name).write_bytes(pickle.dumps(BATCH, 2))
        (place / cifar10.BATCHES[0]).write_bytes(first(folder.parent / "harmed"))
        return DataConfig(dataset="cifar10", data_dir=str(place.parent))

    return make


def calls(call: Any, *arguments: str) -> Callable[[Path], bytes]:
    """A batch with a call in the place of its labels; %s is the file that must not be made."""
    return lambda harmed: pickle.dumps(
        {**BATCH, b"labels": Harm(call, *(text.replace("%s", str(harmed)) for text in arguments))},
        2,
    )


def memo_bomb(harmed: Path) -> bytes:
    """Lists of lists, each ten times the one before: 10 ** 30 leaves for whoever walks them."""
    return (
        b"\x80\x02]q\0"
        + b"".join(b"](" + b"h%c" % at * 10 + b"eq" + bytes([at + 1]) for at in range(30))
        + b"."
    )


MADE = "__import__('os').system('touch %s')"
for _title, _why, _first in (
    ("os.system", "asks for", calls(os.system, "touch %s")),
    ("eval", "asks for", calls(builtins.eval, MADE)),
    ("exec", "asks for", calls(builtins.exec, MADE)),
    ("numpy.load", "asks for", calls(np.load, "%s")),
    ("numpy.save", "asks for", calls(np.save, "%s", "x")),
    ("Popen", "asks for", calls(subprocess.Popen, "touch %s")),
    ("getattr", "asks for", calls(getattr, "%s", "join")),
    ("open", "asks for", calls(open, "%s", "w")),
    ("another codec", "is not a CIFAR-10 batch", calls(codecs.encode, "%s", "zlib_codec")),
    ("in protocol 0", "asks for", lambda harmed: b"cos\nsystem\n(S'touch %s'\ntR." % bytes(harmed)),
    ("by INST", "asks for", lambda harmed: b"(S'touch %s'\nios\nsystem\n." % bytes(harmed)),
    ("after a stand-in", "is not a CIFAR-10", lambda _: b"cnumpy\ndtype\n(S'u1'\ntR(S'x'\ntR."),
    ("memo bomb", "is not a CIFAR-10 batch", memo_bomb),
    ("unknown memo", "is not a CIFAR-10 batch", lambda _: b"\x80\x02h\7."),
    ("deep nesting", "is not a CIFAR-10 batch", lambda _: b"(" * 99999 + b"t" * 99999 + b"."),
    (
        "claims 2 ** 62 bytes",
        "is not a CIFAR-10",
        lambda _: b"\x80\5\x96" + struct.pack("<Q", 1 << 62),
    ),
    ("persistent name", "is not a CIFAR-10", lambda _: b"Pos.system\n."),
    ("cut", "is not a CIFAR-10 batch", lambda _: pickle.dumps(BATCH, 2)[:9999]),
    ("empty", "is not a CIFAR-10 batch", lambda _: b""),
    ("text", "is not a CIFAR-10 batch", lambda _: b"<html>404</html>"),
    ("a list", "is not a CIFAR-10 batch", lambda _: pickle.dumps([1], 2)),
    ("too few rows", "need as many", lambda _: pickle.dumps({**BATCH, b"data": PIXELS[1:]}, 2)),
    (
        "labels out of range",
        "has labels 0 to 10",
        lambda _: pickle.dumps({**BATCH, b"labels": [10] + LABELS[1:]}, 2),
    ),
    (
        "huge label",
        "is not a CIFAR-10",
        lambda _: pickle.dumps({**BATCH, b"labels": [2**70] + LABELS[1:]}, 2),
    ),
    ("labels of text", "need as many", lambda _: pickle.dumps({**BATCH, b"labels": ["1"] * N}, 2)),
    (
        "objects",
        "single bytes",
        lambda _: pickle.dumps({**BATCH, b"data": np.array([None] * N)}, 2),
    ),
    ("floats", "single bytes", lambda _: pickle.dumps({**BATCH, b"data": PIXELS / 1.0}, 2)),
    (
        "rows too short",
        "is not a CIFAR-10 batch",
        lambda _: pickle.dumps({**BATCH, b"data": PIXELS[:, 1:]}, 2),
    ),
):
    case(f"pickle: {_title}", _why, batches(_first))


def parquet_of(
    change: Callable[[dict[str, Any]], None] = lambda columns: None,
    damage: Callable[[bytes], bytes] = lambda raw: raw,
) -> Maker:
    """A good copy in parquet but for its train file."""

    def make(folder: Path) -> DataConfig:
        import pyarrow as pa
        from pyarrow import parquet

        for name in cifar10.PARQUET:
            cells = [{"bytes": encoded(seed=row), "path": f"{row}.png"} for row in range(N)]
            columns: dict[str, Any] = {"label": LABELS.copy(), "img": cells}
            if name == cifar10.PARQUET[0]:
                change(columns)
            parquet.write_table(pa.table(columns), folder / name)
        first = folder / cifar10.PARQUET[0]
        first.write_bytes(damage(first.read_bytes()))
        return DataConfig(dataset="cifar10", data_dir=str(folder))

    return make


for _title, _why, _column, _values in (
    ("no label", "must have the columns", "label", None),
    ("no pictures", "must have the columns", "img", None),
    ("pictures of numbers", "must have the columns", "img", LABELS),
    ("labels of text", "must have the columns", "label", ["cat"] * N),
    ("label out of range", "labels 0 to 9, got 10", "label", [10] * N),
    ("negative label", "labels 0 to 9, got -1", "label", [-1] * N),
    ("null label", "labels 0 to 9, got None", "label", [None] + LABELS[1:]),
    ("null picture", "row 19' cannot be read", "img", [{"bytes": encoded()}] * (N - 1) + [None]),
    ("pictures of text", "row 0' cannot be read", "img", [{"bytes": b"touch harmed"}] * N),
):

    def _change(columns: dict[str, Any], column: str = _column, values: Any = _values) -> None:
        columns.update({column: values}) if values else columns.pop(column)

    case(f"parquet: {_title}", _why, parquet_of(_change))
case("parquet: cut", "is not whole", parquet_of(damage=lambda raw: raw[: len(raw) // 2]))
case("parquet: text", "is not whole", parquet_of(damage=lambda raw: b"label,img\n"))
case(
    "parquet: footer of 4 GB",
    "is not whole",
    parquet_of(damage=lambda raw: raw[:-8] + b"\xff" * 4 + b"PAR1"),
)

# --- a decoded entry that somebody made up --------------------------------------------------------


def toy() -> Decoded:
    return Decoded(
        name="cifar10",
        title=cifar10.UNVERIFIED,
        classes=cifar10.CLASSES,
        source="toy",
        images=np.concatenate([PIXELS, PIXELS ^ 1]).reshape(-1, 3, 32, 32),
        labels=np.array(LABELS * 2, np.int64),
        ids=np.array([f"train/{row}" for row in range(2 * N)], np.str_),
        division={"train": (0, N), "test": (N, 2 * N)},
    )


def forged(change: Callable[[Path, dict[str, Any]], object], sealed: bool = True) -> Maker:
    """An entry, changed, and sealed as if it had been written so."""

    def make(folder: Path) -> DataConfig:
        entry = folder / "cifar10" / "cifar10-0123456789abcdef"
        cache.write(toy(), entry)
        body = json.loads((entry / cache.MANIFEST).read_bytes())
        del body["sha256"]
        change(entry, body)
        for name in set(cache.FILES) & set(body["files"]) if sealed else ():
            body["files"][name] = cache._sha256(entry / name)
        (entry / cache.MANIFEST).write_text(json.dumps({**body, "sha256": cache._seal(body)}))
        return DataConfig(dataset="cifar10", data_dir=str(folder))

    return make


class Touch:
    """Unpickles to a command; the current folder is the one of the canary."""

    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def npy(name: str, array: Any, pickled: bool = False) -> Maker:
    return forged(lambda entry, body: np.save(entry / name, array, allow_pickle=pickled))


def moved_out(entry: Path, body: dict[str, Any]) -> None:
    (entry / "images.npy").rename(entry.parent / "images.npy")
    body["files"]["../images.npy"] = body["files"].pop("images.npy")


def npy_header(entry: Path, body: dict[str, Any]) -> None:
    raw = (entry / "images.npy").read_bytes()
    (entry / "images.npy").write_bytes(raw.replace(b"(40, 3, 32, 32)", b"(4" + b"0" * 11 + b",)"))


DAMAGED = "damaged .*delete that folder"
OBJECTS = np.array([Touch()] * 2 * N, object)
case("entry: pictures of 31x31", DAMAGED, npy("images.npy", np.zeros((2 * N, 3, 31, 31), np.uint8)))
case("entry: floats", DAMAGED, npy("images.npy", np.zeros((2 * N, 3, 32, 32), np.float32)))
case("entry: fewer labels", DAMAGED, npy("labels.npy", np.zeros(N, np.int64)))
case("entry: labels out of range", DAMAGED, npy("labels.npy", np.full(2 * N, 10, np.int64)))
case("entry: pickled pictures", DAMAGED, npy("images.npy", OBJECTS, True))
case("entry: pickled labels", DAMAGED, npy("labels.npy", OBJECTS, True))
case(
    "entry: pickled facts",
    DAMAGED,
    forged(lambda entry, _: np.savez(entry / "facts.npz", width=OBJECTS)),
)
case(
    "entry: bare pickle",
    DAMAGED,
    forged(lambda entry, _: (entry / "labels.npy").write_bytes(pickle.dumps(Touch()))),
)
case("entry: file elsewhere", DAMAGED, forged(moved_out))
case("entry: claims terabytes", DAMAGED, forged(npy_header))
case(
    "entry: other sum",
    DAMAGED,
    forged(lambda entry, _: np.save(entry / "labels.npy", [1]), sealed=False),
)
case(
    "entry: file is gone",
    DAMAGED,
    forged(lambda entry, _: (entry / "labels.npy").unlink(), sealed=False),
)
case(
    "entry: other classes", "not CIFAR-10", forged(lambda _, body: body.update(classes=["a"] * 10))
)
case("entry: other format", DAMAGED, forged(lambda _, body: body.update(format=1)))
case("entry: unknown field", DAMAGED, forged(lambda _, body: body.update(harm="../canary")))
case(
    "entry: rows out of order",
    DAMAGED,
    forged(lambda _, body: body.update(division=[["train", [1, 9]]])),
)
case(
    "entry: two names alike",
    DAMAGED,
    forged(lambda entry, _: (entry / "ids.json").write_text(json.dumps(["x"] * 2 * N))),
)


case(
    "entry: rows that are not there",
    "division|divided|damaged",
    forged(lambda _, body: body.update(division=[["train", [0, 50]], ["test", [50, 40]]])),
)
case(
    "entry: endless rows",
    DAMAGED,
    forged(lambda _, body: body.update(division=[["train", [0, float("inf")]]])),
)
case(
    "entry: title of two lines",
    DAMAGED,
    forged(lambda _, body: body.update(title="CIFAR\nError: x", division=[["train", [0, 9]]])),
)
case(
    "entry: long title",
    "not CIFAR-10",
    forged(lambda _, body: body.update(title="x" * 9999, classes=["a"] * 10)),
)
case(
    "entry: deep names",
    DAMAGED,
    forged(lambda entry, _: (entry / "ids.json").write_text("[" * 99999 + "]" * 99999)),
)
case(
    "pickle: name of two lines",
    "is not a CIFAR-10",
    batches(lambda _: b"\x80\4\x8c\4os\nx\x8c\1x\x93."),
)
case(
    "pickle: long name",
    "is not a CIFAR-10",
    batches(lambda _: b"\x80\4X" + struct.pack("<I", 9999) + b"x" * 9999 + b"\x8c\1x\x93."),
)
case(
    "parquet: many columns",
    "must have the columns",
    parquet_of(
        lambda columns: (
            (columns.pop("label"), columns.update({f"c{at}": LABELS for at in range(999)})) and None
        )
    ),
)
case(
    "parquet: column of two lines",
    "must have the columns",
    parquet_of(lambda columns: columns.update({"a\nb": columns.pop("label")})),
)
DIVIDED = (
    "folder: one class", "folder: too few pictures", "folder: only test", "csv: one class only",
    "csv: only test",
)
# their pictures are whole and may be kept: it is the division that is refused

# --- the tests ------------------------------------------------------------------------------------


def tree(root: Path) -> dict[str, bytes]:
    """Everything below, but for the cache and MLflow's store: links by where they lead."""
    found = {}
    for place, folders, files in os.walk(root):
        if Path(place) == root:
            folders[:] = [name for name in folders if name != "cache"]
            files = [name for name in files if not name.startswith("mlflow.db")]
        for name in [*folders, *files]:
            path = Path(place, name)
            found[str(path.relative_to(root))] = _content(path)
    return found


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return b"-> " + os.fsencode(os.readlink(path))
    return path.read_bytes() if path.is_file() else b"no file"


def entries(folder: Path) -> list[Path]:
    return list(folder.rglob(cache.MANIFEST))


@pytest.fixture
def pen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the input, below the current one and beside the canary."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary").write_bytes(b"alive")
    (tmp_path / "pen").mkdir()
    return tmp_path / "pen"


def test_enough_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    "make",
    [
        packed("zip", {}),
        packed("tar", {}),
        packed("tar.gz", {}),
        pictures({}),
        arranged(lambda root: None, True),
        csv_of(LIST),
        parquet_of(),
        forged(lambda *_: 0),
        batches(lambda _: pickle.dumps(BATCH, 2)),
    ],
)
def test_without_the_harm_it_loads(make: Maker, pen: Path) -> None:
    before, splits = tree(pen.parent), load(make(pen))
    assert len(splits.train) and set(before) <= set(tree(pen.parent))


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_sentence(name: str, pen: Path, cache_folder: Path) -> None:
    why, make = CASES[name]
    config = make(pen)
    before = tree(pen.parent)
    with pytest.raises(DataError, match=why) as refusal:
        load(config)
    message = str(refusal.value)
    assert message.isprintable() and len(message) < LONGEST, f"{len(message)}: {message[:2000]}"
    assert tree(pen.parent) == before and not (pen.parent / "harmed").exists()
    assert not entries(cache_folder) or name in DIVIDED


LIMITS = {"MEMBERS": 5, "TOTAL_BYTES": 1000, "DIRECTORY_BYTES": 100, "HEADER_BYTES": 100}


@pytest.mark.parametrize(
    ("suffix", "limit"),
    [
        (suffix, limit)
        for suffix in PACKERS
        for limit in LIMITS
        if limit != ("HEADER_BYTES" if suffix == "zip" else "DIRECTORY_BYTES")
    ],
)
def test_limits_that_would_need_gigabytes(
    limit: str, suffix: str, pen: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = packed(suffix, {})(pen)
    before = tree(pen.parent)
    monkeypatch.setattr(archive, limit, LIMITS[limit])
    with pytest.raises(DataError, match="is refused, since .*(more than|over) 1?,?[05]"):
        load(config)
    assert tree(pen.parent) == before and not entries(cache_folder)


TYPED = [
    "zip: dots",
    "tar: symlink",
    "tar.gz: bomb by ratio",
    "zip: encrypted",
    "empty zip",
    "picture: PNG that claims 60000x60000",
    "folder: class of two lines",
    "csv: dots",
    "csv: label of two lines",
    "pickle: os.system",
    "parquet: cut",
    "entry: pickled labels",
]


@pytest.mark.parametrize("name", TYPED)
def test_at_the_command_line(
    name: str, store: Path, pen: Path, cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CASES[name][1](pen)
    before = tree(pen.parent)
    arguments = [f"--dataset={config.dataset}", f"--data-dir={config.data_dir}", "--offline=true"]
    assert main(["sanity", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("Error: ") and told.err.count("\n") == 1, told
    assert "Traceback" not in told.err
    assert tree(pen.parent) == before and not entries(cache_folder)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("file", [*cache.FILES, cache.MANIFEST])
def test_a_flipped_bit_in_the_cache_is_noticed(
    file: str, part: float, pen: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = pictures({})(pen)
    first = load(config)
    (place,) = entries(cache_folder)
    whole, path = tree(place.parent), place.with_name(file)
    path.write_bytes(flipped(path.read_bytes(), int(part * path.stat().st_size)))
    again = load(config)
    assert "decoding anew" in caplog.text and again.digest == first.digest
    for one, other in ((first.train, again.train), (first.val, again.val)):
        assert np.array_equal(one.images, other.images) and np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.labels, other.labels)
    assert entries(cache_folder) == [place] and tree(place.parent).keys() == whole.keys()
    caplog.clear()
    assert load(config).digest == first.digest and not caplog.text
