"""The files in a zip, a tar, a tar.gz or a plain folder, one at a time in memory; nothing unpacked.

The kind is told by the content, not by the suffix. An archive is somebody else's: it is refused for
any member, wanted or not, whose name leads out of it (absolute, drive letter, backslash, `..`,
NUL), for links, devices and sparse files, and for what a bomb needs: more than TOTAL_BYTES
unpacked, more than RATIO times its own size, more than MEMBERS members. A wanted file must not be
larger than its reader allows, encrypted, or there twice. This is measured on the bytes that come
out; a header's size is believed only when it forbids. An archive without its end mark is cut off.

A folder is the user's own: links in it are followed (data sets are often made of links), each
folder once, so that a loop ends. Only regular files are opened, since a pipe would block.

Left out: other compressions, archives in archives (files like any other), split and encrypted zips.
tarfile keeps a kilobyte of every member and reads headers of any length at once, so its list is
cleared and it reads through a gate.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from alexnet_mlflow.data.split import DataError

TOTAL_BYTES = 64 << 30
MEMBERS = 2_000_000  # zipfile needs about 500 bytes of memory for each
RATIO = 200  # pictures are compressed already; deflate can do 1,032
RATIO_FREE_BYTES = 1 << 20  # small files of one colour may be any ratio
HEADER_BYTES = 1 << 14  # of one tar member: long names and pax records
DIRECTORY_BYTES = 1 << 28  # of a zip: MEMBERS with names of 88 characters
CHUNK = 1 << 16

Found = tuple[str, Callable[[], bytes]]  # name, and its content as long as it is the last found


def members(
    path: Path, wanted: Callable[[str], bool], largest: int
) -> Iterator[tuple[str, bytes]]:
    """Name (`a/b.png`) and content of the wanted files: sorted by name, but in a tar as they come.

    Raises DataError for a broken or hostile archive, at the latest when all have been taken, and
    OSError where the path cannot be opened. `wanted` sees each regular file's name.
    """
    with _told(path):
        for name, read in _found(path, wanted, largest):
            yield name, read()


def names(path: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[str]:
    """The names alone, in the same order and under the same rules but for the content's."""
    with _told(path):
        for name, _ in _found(path, wanted, largest):
            yield name


def is_archive(path: Path) -> bool:
    """Whether this is a file that begins like a zip, a tar or something gzipped."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    return head.startswith((b"PK\3\4", b"PK\5\6", b"\x1f\x8b")) or head[257:262] == b"ustar"


class _Refused(Exception):
    """What is wrong with the archive; never seen outside of this file."""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except _Refused as error:
        raise DataError(
            f"{str(path)!r} is refused, since {error}: get it again from a source you trust"
        ) from None
    except Exception as error:  # zipfile, tarfile and zlib raise a dozen types for broken files
        if getattr(error, "filename", None) is not None:
            raise  # an OSError that says which file: it could not be opened
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{str(path)!r} is not whole ({reason}): get it again") from None


def _found(path: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[Found]:
    if path.is_dir():
        yield from _in_folder(path, wanted, largest)
        return
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise _Refused("it is neither a file nor a folder")
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(0)
        if head in (b"PK\3\4", b"PK\5\6"):
            yield from _in_zip(file, wanted, largest)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as plain:
                yield from _in_tar(_Gate(plain, file), wanted, largest)
        else:
            yield from _in_tar(_Gate(file, file), wanted, largest)


def _in_folder(root: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[Found]:
    for name in sorted(filter(wanted, _walked(root))):
        yield name, partial(content, os.path.join(root, name), largest)


def _walked(root: Path) -> Iterator[str]:
    """The regular files and the dangling links below, as `a/b.png`."""
    seen = set()
    for place, folders, files in os.walk(root, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below = os.path.relpath(place, root)
        for file in files:
            yield posixpath.normpath(posixpath.join(*below.split(os.sep), file))


def content(path: str, largest: int) -> bytes:
    """A regular file's bytes; DataError where it is another thing or larger than allowed."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(f"{short(path)} must be a regular file: take it away")
    with open(path, "rb") as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        raise DataError(f"{short(path)} must not be over {largest:,} bytes: take it away")
    return raw


def _in_zip(file: BinaryIO, wanted: Callable[[str], bool], largest: int) -> Iterator[Found]:
    directory = _Directory(file)
    with zipfile.ZipFile(directory) as archive:
        directory.opening = False
        packed = os.fstat(file.fileno()).st_size
        _check_total(sum(member.file_size for member in archive.infolist()), packed)
        chosen: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = _checked_name(member.orig_filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"its member {short(name)} is a link or a device")
            if not member.is_dir() and wanted(name):
                _check_new(name, chosen)
                _check_size(name, member.file_size, largest)
                chosen[name] = member
        for name in sorted(chosen):
            yield name, partial(_unzipped, archive, chosen[name])


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    name = member.orig_filename
    if member.flag_bits & 1:
        raise _Refused(f"its member {short(name)} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Refused(f"its member {short(name)} is neither stored nor deflated")
    _check_ratio(f"its member {short(name)}", member.file_size, member.compress_size)
    with archive.open(member) as stream:
        raw = stream.read(member.file_size)
        if len(raw) != member.file_size or stream.read(1):
            raise EOFError(f"{short(name)} has not the {member.file_size} bytes it claims")
    return raw


class _Directory:
    """A zip file whose directory may be neither huge nor of too many members."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.opening, self.headers = file, True, 0
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.opening and size > DIRECTORY_BYTES:
            raise _Refused(f"its directory claims {size} bytes, over {DIRECTORY_BYTES}")
        data = self.file.read(size)
        self.headers += data.count(b"PK\1\2") if self.opening else 0
        _check_count(self.headers)
        return data


def _in_tar(gate: _Gate, wanted: Callable[[str], bool], largest: int) -> Iterator[Found]:
    seen: set[str] = set()
    archive, count = _opened(gate), 0
    while member := _next(archive, gate):
        count += 1
        _check_count(count)
        name = _checked_name(member.name)
        if not (member.isdir() or member.isfile()) or member.issparse():
            raise _Refused(f"its member {short(name)} is a link, a device or sparse")
        if member.size < 0:
            raise _Refused(f"its member {short(name)} claims {member.size} bytes")
        if member.isfile() and wanted(name):
            _check_new(name, seen)
            seen.add(name)
            _check_size(name, member.size, largest)
            yield name, partial(gate.content, member.size)
    gate.end()


def _opened(gate: _Gate) -> tarfile.TarFile:
    gate.header()
    try:
        return tarfile.TarFile(fileobj=cast(Any, gate), mode="r")
    except tarfile.ReadError as error:
        if gate.at <= tarfile.BLOCKSIZE and not gate.zipped:
            raise _Refused("it is neither a zip, a tar, a tar.gz nor a folder") from error
        raise


def _next(archive: tarfile.TarFile, gate: _Gate) -> tarfile.TarInfo | None:
    gate.header()
    member = archive.next()
    cast(Any, archive).members.clear()
    return member


class _Gate:
    """A tar's bytes for tarfile: forwards only, counted, and headers not longer than allowed."""

    def __init__(self, plain: Any, file: BinaryIO) -> None:
        self.plain, self.file, self.zipped = plain, file, plain is not file
        self.at, self.left, self.block = 0, 0, b""

    def header(self) -> None:
        """From here on a header is read."""
        self.left = HEADER_BYTES

    def tell(self) -> int:
        return self.at

    def seek(self, to: int) -> None:
        if to < self.at:
            raise _Refused("a member in it claims to lie before another")
        if not self.zipped:
            self.plain.seek(to)
            self._move(to - self.at)
        while self.at < to and self._taken(min(CHUNK, to - self.at)):
            pass

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise _Refused(f"a member in it has a header over {HEADER_BYTES} bytes")
        self.block = self._taken(size)
        return self.block

    def content(self, size: int) -> bytes:
        """The bytes of the member whose header was read last."""
        end, chunks = self.at + size, list[bytes]()
        while self.at < end:
            chunks.append(self._taken(min(CHUNK, end - self.at)))
            if not chunks[-1]:
                raise EOFError("it ends inside a file")
        return b"".join(chunks)

    def end(self) -> None:
        """To the end, so that gzip checks its sum; tarfile takes a broken header for the mark."""
        if self.block != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it is cut off or damaged, for it has no end mark")
        while self._taken(CHUNK):
            pass

    def _taken(self, size: int) -> bytes:
        data: bytes = self.plain.read(size)
        self._move(len(data))
        return data

    def _move(self, count: int) -> None:
        self.at += count
        if self.zipped:
            _check_total(self.at, self.file.tell())
        elif self.at > TOTAL_BYTES:
            _check_total(self.at, self.at)


def _checked_name(name: str) -> str:
    """The name without `./` and the like; refused where it leads out of the archive."""
    parts = name.split("/")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts:
        raise _Refused(f"its member {short(name)} points out of it")
    if "\\" in name or "\0" in name:
        raise _Refused(f"its member {short(name)} has a backslash or a NUL in its name")
    return posixpath.normpath(name)


def _check_new(name: str, seen: dict[str, Any] | set[str]) -> None:
    if name in seen:
        raise _Refused(f"its member {short(name)} is there twice")


def _check_count(count: int) -> None:
    if count > MEMBERS:
        raise _Refused(f"it has more than {MEMBERS:,} members")


def _check_size(name: str, size: int, largest: int) -> None:
    if size > largest:
        raise _Refused(f"{short(name)} in it has {size:,} bytes, over the {largest:,} allowed")


def _check_total(size: int, packed: int) -> None:
    if size > TOTAL_BYTES:
        raise _Refused(f"it unpacks to more than {TOTAL_BYTES:,} bytes")
    _check_ratio("it", size, packed)


def _check_ratio(what: str, size: int, packed: int) -> None:
    if size > RATIO_FREE_BYTES + RATIO * packed:
        raise _Refused(f"{what} unpacks to more than {RATIO} times its size")


def short(name: str) -> str:
    """A name as it may stand in a sentence: its start and end where it is long."""
    shown = repr(name)
    return shown if len(shown) <= 250 else f"{shown[:100]}...{shown[-100:]}"
