"""Archives and folders: what is in them comes out, byte for byte, and what is wrong is told."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_mlflow.data import DataError, archive

LARGEST = 1 << 20
FILES = {"b/2.txt": b"two", "a/1.txt": b"one" * 999, "c.txt": b"", "b/10.bin": bytes(range(256))}


def everything(name: str) -> bool:
    return True


def contents(path: Path, wanted: Callable[[str], bool] = everything) -> dict[str, bytes]:
    found = list(archive.members(path, wanted, LARGEST))
    assert [name for name, _ in found] == list(archive.names(path, wanted, LARGEST))
    return dict(found)


def write_zip(path: Path, files: Mapping[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as packed:
        for name, raw in files.items():
            packed.writestr(name, raw)
    return path


def tar_info(name: str, raw: bytes = b"", **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_tar(path: Path, files: Mapping[str, bytes], mode: Any = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as packed:
        for name, raw in files.items():
            packed.addfile(tar_info(name, raw), io.BytesIO(raw))
    return path


def write_tgz(path: Path, files: Mapping[str, bytes], **options: Any) -> Path:
    return write_tar(path, files, "w:gz", **options)


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, raw in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    return path


WRITERS: list[Callable[..., Path]] = [write_zip, write_tar, write_tgz, write_folder]
PACKERS = WRITERS[:3]


@pytest.mark.parametrize("write", WRITERS)
def test_what_goes_in_comes_out(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "any name", FILES)
    assert contents(path) == FILES
    assert contents(path, lambda name: name.startswith("b/")) == {
        name: raw for name, raw in FILES.items() if name.startswith("b/")
    }
    assert os.listdir(tmp_path) == ["any name"]


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_sorted_by_name(write: Callable[..., Path], tmp_path: Path) -> None:
    assert list(contents(write(tmp_path / "x", FILES))) == sorted(FILES)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(kind: int, tmp_path: Path) -> None:
    files = {**FILES, f"{'long/' * 15}ö.png": b"long", "é/1.png": b"accent"}
    assert contents(write_tar(tmp_path / "x", files, format=kind)) == files
    if kind != tarfile.USTAR_FORMAT:
        files[f"{'very/' * 200}long.png"] = b"longer"
        assert contents(write_tar(tmp_path / "x", files, format=kind)) == files


NAMES = st.lists(st.text("aä._- 1\n", min_size=1, max_size=9), min_size=1, max_size=3).map("/".join)
NAMES = NAMES.filter(lambda name: not {".", ".."} & set(name.split("/")))
PACKED = st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=PACKED, write=st.sampled_from(PACKERS))
def test_any_files(files: dict[str, bytes], write: Callable[..., Path], tmp_path: Path) -> None:
    assert contents(write(tmp_path / "x", files)) == files


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), write=st.sampled_from(PACKERS))
def test_a_damaged_archive_is_one_sentence(
    data: st.DataObject, write: Callable[..., Path], tmp_path: Path
) -> None:
    raw = bytearray(write(tmp_path / "x", FILES).read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "x").write_bytes(raw)
    try:
        found = dict(archive.members(tmp_path / "x", everything, LARGEST))
    except DataError as error:
        assert "\n" not in str(error) and "get it again" in str(error)
    else:  # a byte that does not matter, or one of a plain tar's contents, which has no sums
        assert write is write_tar or all(FILES.get(name, raw) == raw for name, raw in found.items())


@pytest.mark.parametrize("write", PACKERS)
@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_archive_is_refused(part: float, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "x", FILES)
    raw = path.read_bytes()
    end = len(raw.rstrip(b"\0")) // 512 * 512 + 1024 if write is write_tar else len(raw)
    path.write_bytes(raw[: int(part * end)])
    with pytest.raises(DataError, match="is not whole|neither a zip"):
        contents(path)


def test_a_tar_that_ends_between_two_files_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x", {"a": b"1" * 512, "b": b"2" * 512})
    path.write_bytes(path.read_bytes()[: 4 * 512])
    with pytest.raises(DataError, match="not whole .*no end mark"):
        contents(path)


def test_a_tar_with_a_broken_header_inside_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x", {"a": b"1" * 512, "b": b"2" * 512})
    raw = bytearray(path.read_bytes())
    raw[2 * 512] ^= 1  # tarfile would take this for the end
    path.write_bytes(raw)
    with pytest.raises(DataError, match="not whole .*no end mark"):
        contents(path)


def test_the_sum_at_the_end_of_gzip_is_checked(tmp_path: Path) -> None:
    path = write_tgz(tmp_path / "x", FILES)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="not whole .*CRC"):
        contents(path)


@pytest.mark.parametrize("write", PACKERS)
@pytest.mark.parametrize(
    "name", ["/etc/x.png", "../x.png", "a/../../x.png", "C:/x.png", "c:x", "a\\x.png", "\\\\a\\b"]
)
def test_names_that_lead_out(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"good.png": b"", name: b""})
    for wanted in (everything, "good.png".__eq__):  # though nobody asks for the other
        with pytest.raises(DataError, match="refused, since its member .*source you trust"):
            contents(path, wanted)


def test_a_name_with_a_nul(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x", {"a\0b": b""}, format=tarfile.PAX_FORMAT, pax_headers={})
    with tarfile.open(tmp_path / "x", "w", format=tarfile.PAX_FORMAT) as packed:
        packed.addfile(tar_info("a", pax_headers={"path": "a\0b"}))
    with pytest.raises(DataError, match="backslash or a NUL"):
        contents(path)
    path = write_zip(tmp_path / "y", {"aXb": b""})
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    with pytest.raises(DataError, match="backslash or a NUL"):
        contents(path)


TYPES = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"M"]


@pytest.mark.parametrize("kind", TYPES)
def test_links_and_devices_in_a_tar(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as packed:
        packed.addfile(tar_info("y", type=kind, linkname="/etc/passwd"))
    with pytest.raises(DataError, match="'y' is a link, a device or sparse: get it again"):
        contents(tmp_path / "x", "z".__eq__)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("y")
    info.external_attr = (kind | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "x", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="'y' is a link or a device: get it again"):
        contents(tmp_path / "x", "z".__eq__)


def test_folders_in_archives_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as packed:
        packed.addfile(tar_info(".", type=tarfile.DIRTYPE))
        packed.addfile(tar_info("./a/", type=tarfile.DIRTYPE))
        packed.addfile(tar_info("./a//b.png", b"1"), io.BytesIO(b"1"))
    assert contents(tmp_path / "x") == {"a/b.png": b"1"}
    with zipfile.ZipFile(tmp_path / "y", "w") as zipped:
        zipped.mkdir("a")
        zipped.writestr("./a//b.png", b"1")
    assert contents(tmp_path / "y") == {"a/b.png": b"1"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["a/b.png", "./a/b.png", "a//b.png"])
def test_a_name_twice(again: str, tmp_path: Path) -> None:
    for kind in (zipfile.ZipFile, tarfile.TarFile):
        with kind(tmp_path / "x", "w") as packed:
            for name in ("a/b.png", again):
                if isinstance(packed, zipfile.ZipFile):
                    packed.writestr(name, b"")
                else:
                    packed.addfile(tar_info(name))
        with pytest.raises(DataError, match="'a/b.png' is there twice"):
            contents(tmp_path / "x")
        assert contents(tmp_path / "x", "c".__eq__) == {}  # asked for by nobody


@pytest.mark.parametrize("write", PACKERS)
def test_a_file_over_the_limit(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"a": os.urandom(LARGEST), "b": os.urandom(LARGEST + 1)})
    assert list(contents(path, "a".__eq__)) == ["a"]
    with pytest.raises(DataError, match="'b' in it has 1,048,577 bytes, over the 1,048,576"):
        contents(path)


def test_a_file_over_the_limit_in_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": bytes(LARGEST), "b": bytes(LARGEST + 1)})
    assert list(contents(tmp_path, "a".__eq__)) == ["a"]
    with pytest.raises(DataError, match="b' must not be over 1,048,576 bytes"):
        dict(archive.members(tmp_path, everything, LARGEST))


@pytest.mark.parametrize("write", [write_zip, write_tgz])
@pytest.mark.parametrize("name", ["wanted", "unwanted"])
def test_bombs_by_ratio(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / "x", {name: bytes(64 << 20)})
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        dict(archive.members(path, "wanted".__eq__, 1 << 30))


def test_one_colour_is_not_a_bomb(tmp_path: Path) -> None:
    files = {str(number): bytes(5000) for number in range(20)}
    for write in (write_zip, write_tgz):
        assert contents(write(tmp_path / "x", files)) == files


@pytest.mark.parametrize("write", PACKERS)
def test_bombs_by_size(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x", {str(number): os.urandom(9000) for number in range(20)})
    monkeypatch.setattr(archive, "TOTAL_BYTES", 100_000)
    with pytest.raises(DataError, match="unpacks to more than 100,000 bytes"):
        contents(path, "0".__eq__)


@pytest.mark.parametrize("write", PACKERS)
def test_too_many_members(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x", {str(number): b"" for number in range(20)})
    monkeypatch.setattr(archive, "MEMBERS", 20)
    assert len(contents(path)) == 20
    monkeypatch.setattr(archive, "MEMBERS", 19)
    with pytest.raises(DataError, match="has more than 19 members"):
        contents(path)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    """Overlapping members unpack to more than the file could hold, each with an honest ratio."""
    raw = write_zip(tmp_path / "x", {"0": os.urandom(1 << 15) * 30}).read_bytes()
    start = raw.index(b"PK\1\2")
    end = raw.index(b"PK\5\6")
    count = 3000
    entries = [raw[start : end - 1] + b"%04d" % number for number in range(count)]
    entries = [entry[:28] + b"\4\0" + entry[30:] for entry in entries]  # the name's length
    directory = b"".join(entries)
    tail = bytearray(raw[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    (tmp_path / "x").write_bytes(raw[:start] + directory + tail)
    assert len(zipfile.ZipFile(tmp_path / "x").infolist()) == count
    with pytest.raises(DataError, match="it unpacks to more than 200 times its size"):
        contents(tmp_path / "x")


@pytest.mark.parametrize("claimed", [1, 999_999])
def test_a_size_that_lies_in_a_zip(claimed: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x", {"a": b"12345" * 99})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\1\2") + 24
    raw[at : at + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="is not whole"):
        contents(path)


@pytest.mark.parametrize("size", [-1, -(2**40), 10**12])
def test_a_size_that_lies_in_a_tar(size: int, tmp_path: Path) -> None:
    header = tar_info("a", size=size).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x").write_bytes(header + bytes(10240))
    for wanted in (everything, "b".__eq__):
        with pytest.raises(DataError, match="is refused|is not whole"):
            dict(archive.members(tmp_path / "x", wanted, 1 << 62))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_never_ends(kind: bytes, tmp_path: Path) -> None:
    info = tar_info("././@LongLink", type=kind, size=1 << 34)
    with gzip.open(tmp_path / "x", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + b"a" * (1 << 22))
    with pytest.raises(DataError, match="has a header over 16384 bytes"):
        contents(tmp_path / "x")


def test_sparse_tars(tmp_path: Path) -> None:
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a",
           "GNU.sparse.realsize": "99"}
    body = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    with tarfile.open(tmp_path / "x", "w") as packed:
        packed.addfile(tar_info("a", body, pax_headers=pax), io.BytesIO(body))
    with pytest.raises(DataError, match="sparse"):
        contents(tmp_path / "x")
    endless = b"9999999999\n" + b"1\n" * 20_000
    with tarfile.open(tmp_path / "x", "w") as packed:
        packed.addfile(tar_info("a", endless, pax_headers=pax), io.BytesIO(endless))
    with pytest.raises(DataError, match="header over"):
        contents(tmp_path / "x")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x", {"a": b"secret", "b": b"open"})
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        raw[raw.index(magic) + offset] |= 1
    path.write_bytes(raw)
    assert contents(path, "b".__eq__) == {"b": b"open"}
    with pytest.raises(DataError, match="'a' is encrypted"):
        dict(archive.members(path, everything, LARGEST))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_unpack_without_bound(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", method) as packed:
        packed.writestr("a", b"1" * 99)
    with pytest.raises(DataError, match="'a' is neither stored nor deflated"):
        dict(archive.members(tmp_path / "x", everything, LARGEST))


def test_a_directory_that_claims_to_be_huge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "DIRECTORY_BYTES", 300)
    path = write_zip(tmp_path / "x", {str(number): b"" for number in range(9)})
    with pytest.raises(DataError, match="its directory claims .* bytes, over 300"):
        contents(path)


@pytest.mark.parametrize("raw", [b"", b"hello", b"x" * 2000, b"BZh91AY&SY", b"Rar!\x1a\x07\1\0"])
def test_neither(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(raw)
    assert not archive.is_archive(tmp_path / "x.zip")
    with pytest.raises(DataError, match="is refused|is not whole") as raised:
        contents(tmp_path / "x.zip")
    assert "\n" not in str(raised.value)


def test_gzip_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(b"hello" * 999))
    with pytest.raises(DataError, match="is not whole"):
        contents(tmp_path / "x")


def test_what_is_an_archive(tmp_path: Path) -> None:
    for write in PACKERS:
        assert archive.is_archive(write(tmp_path / "x", FILES))
    assert not archive.is_archive(tmp_path) and not archive.is_archive(tmp_path / "nowhere")


def test_an_archive_in_an_archive_is_a_file(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner", FILES).read_bytes()
    assert contents(write_zip(tmp_path / "outer", {"inner.zip": inner})) == {"inner.zip": inner}


def test_links_in_a_folder_are_followed_once(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", {"a/1": b"1"})
    outside = write_folder(tmp_path / "outside", {"2": b"2"})
    (root / "far").symlink_to(outside)
    (root / "file").symlink_to(outside / "2")
    (root / "a" / "loop").symlink_to(root)
    assert contents(root) == {"a/1": b"1", "far/2": b"2", "file": b"2"}


def test_a_pipe_in_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    assert list(archive.names(tmp_path, everything, LARGEST)) == ["x.png"]
    with pytest.raises(DataError, match="must be a regular file"):
        dict(archive.members(tmp_path, everything, LARGEST))
    with pytest.raises(DataError, match="neither a file nor a folder"):
        contents(tmp_path / "x.png")


def test_what_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contents(tmp_path / "nowhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        dict(archive.members(tmp_path, everything, LARGEST))


def test_memory_of_a_tar_does_not_grow_with_its_members(tmp_path: Path) -> None:
    import tracemalloc

    write_tgz(tmp_path / "x", {f"{number:06}": b"" for number in range(5_000)})
    tracemalloc.start()
    try:
        assert sum(1 for _ in archive.names(tmp_path / "x", "".__eq__, LARGEST)) == 0
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
