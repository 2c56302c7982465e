"""Pictures of one's own -> decoded: a folder, a zip or tar of one, or a CSV that lists them.

In a folder, `train/<class>/*` with `val/<class>/*` and `test/<class>/*` where there are such, or
`<class>/*` without a division. In an archive the same, with or without one folder around all of
it. A CSV is read by `table`. Pictures are jpg, jpeg, png, webp, bmp and ppm, in either case; names
that begin with `.` or `__` (as macOS packs them) and files of other kinds are passed over. What
a CSV lists is tried, whatever its name.

Chosen: an archive is gone through twice, for the names and for the pictures, so that no more than
names is held in memory; classes are in the order of their names. Links in a folder are followed:
it is the user's own. Left out: folders inside a class folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from alexnet_mlflow.data import archive, cache, table
from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.decoding import Job, decode_all
from alexnet_mlflow.data.picture import KINDS, MAX_BYTES, is_picture
from alexnet_mlflow.data.picture import to_pixels as to_pixels
from alexnet_mlflow.data.split import PARTS, DataError, Decoded, Ids

NAMES_BYTES = 1 << 31  # numpy keeps every name as long as the longest, four bytes a letter
ORDER = ("undivided", *PARTS)
ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip", ".csv", "_data.npy")


@dataclass(frozen=True)
class Listing:
    """Pictures that were found but not read yet, part by part."""

    classes: tuple[str, ...]
    ids: list[str]
    labels: list[int]
    division: Mapping[str, tuple[int, int]]  # part -> rows a..b
    groups: list[str] | None = None


@dataclass
class _Place:
    """What a folder holds, by name; it may be on disk or in an archive."""

    folders: set[str] = field(default_factory=set)
    pictures: list[str] = field(default_factory=list)


def find(path: Path, name: str) -> Source:
    """The pictures in this folder, archive or CSV; DataError where it is none of them.

    What an archive holds is only told when it is decoded.
    """
    if path.is_dir():
        listing = listed(path)
        stamp = cache.stamp(path, listing.ids)
        decode = partial(decoded_files, listing, path, name, _title(path) or name, str(path))
        return Source(name, path, stamp, decode)
    if archive.is_archive(path):
        stamp = cache.stamp(path.parent, [path.name])
        return Source(name, path.parent, stamp, partial(_decode_archive, path, name))
    if path.suffix.lower() == ".csv" and path.is_file():  # a pipe would block
        listing = _tabled(table.read(path), str(path))
        stamp = cache.stamp(path.parent, [path.name, *listing.ids])
        decode = partial(decoded_files, listing, path.parent, name, _title(path), str(path))
        return Source(name, path.parent, stamp, decode)
    raise DataError(
        f"{str(path)!r} is neither a folder, a zip, a tar or tar.gz of one, nor a .csv that lists "
        "pictures: give the path of one of these"
    )


def _title(path: Path) -> str:
    """Its name as it can be printed and drawn: what is not UTF-8 in it becomes `?`."""
    return path.name.encode("utf-8", "replace").decode()


def slug(path: str) -> str:
    """A path's last name, without .zip and the like, in small letters, digits and `-`: 60 at most.
    """
    name = os.path.basename(os.path.abspath(os.path.expanduser(path))).lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    name = re.sub(r"[^a-z0-9]+", "-", name.removesuffix(ending))
    return name.strip("-")[:60].strip("-") or "folder"


def listed(root: Path) -> Listing:
    """The pictures under this folder; DataError where they lie in neither of the two layouts."""
    top = _scanned(root, "")
    places = {"": top, **{name: _scanned(root, name) for name in top.folders}}
    for part in sorted(top.folders.intersection(PARTS)):
        for name in places[part].folders:
            places[f"{part}/{name}"] = _scanned(root, f"{part}/{name}")
    return _laid_out(places, str(root))


def pictures_in(root: Path) -> list[str]:
    """The names of the picture files in this very folder, sorted."""
    return sorted(_scanned(root, "").pictures)


def _scanned(root: Path, below: str) -> _Place:
    """A folder on disk; a dangling link counts as a picture, so that it is told of."""
    place = _Place()
    with os.scandir(root / below) as items:
        for item in items:
            if item.is_dir():
                if not item.name.startswith((".", "__")):
                    place.folders.add(item.name)
            elif is_picture(item.name) and (item.is_file() or item.is_symlink()):
                place.pictures.append(item.name)
    return place


def _laid_out(places: Mapping[str, _Place], source: str) -> Listing:
    """The pictures of these folders, keyed by their paths; the top one's is empty."""
    parts = {part: part for part in PARTS if part in places[""].folders} or {"undivided": ""}
    classes = _classes(places, parts, source)
    ids, labels, ends = list[str](), list[int](), [0]
    for below in parts.values():
        for label, kind in enumerate(classes):
            key = f"{below}/{kind}".lstrip("/")
            found = sorted(places[key].pictures)
            if not found:
                raise DataError(
                    f"{os.path.join(source, key)!r} holds no pictures "
                    f"({KINDS}): put some there or take the folder away"
                )
            ids.extend(f"{key}/{name}" for name in found)
            labels.extend([label] * len(found))
        ends.append(len(ids))
    return Listing(classes, ids, labels, dict(zip(parts, pairwise(ends), strict=True)))


def _classes(
    places: Mapping[str, _Place], parts: Mapping[str, str], source: str
) -> tuple[str, ...]:
    """The class folders' names, sorted; every part must have the same."""
    first, *others = parts.values()
    classes = places[first].folders
    if not classes:
        raise DataError(
            f"{os.path.join(source, first)!r} holds no class folders: put the pictures of each "
            "class in a folder of its own, as in cats/1.jpg and dogs/1.jpg"
        )
    for part in others:
        if different := classes ^ places[part].folders:
            raise DataError(
                f"the classes in {part} and {first} of {source!r} must be the same, but "
                f"{archive.short(min(different))} is only in one of them: add or remove that folder"
            )
    for stray in sorted(places[""].folders - set(parts)) if first else ():
        if classes & places[stray].folders:
            raise DataError(
                f"{archive.short(os.path.join(source, stray))} is neither train, val nor test, but "
                "holds class folders like train: rename it or move it away"
            )
    for kind in sorted(classes):
        if fault := table.class_fault(kind):
            raise DataError(f"the class {archive.short(kind)} of {source!r} {fault}: rename it")
    return tuple(sorted(classes))


def _tabled(rows: table.Table, source: str) -> Listing:
    """The pictures of a CSV in the order that a folder of them would have."""
    classes = tuple(sorted(set(rows.labels)))
    number = {kind: label for label, kind in enumerate(classes)}
    parts = rows.parts or ["undivided"] * len(rows.paths)

    def place(row: int) -> tuple[int, str, str]:
        return ORDER.index(parts[row]), rows.labels[row], rows.paths[row]

    order, counts = sorted(range(len(parts)), key=place), Counter(parts)
    there = [part for part in ORDER if counts[part]]
    ends = accumulate((counts[part] for part in there), initial=0)
    return Listing(
        classes=classes,
        ids=[rows.paths[row] for row in order],
        labels=[number[rows.labels[row]] for row in order],
        division=dict(zip(there, pairwise(ends), strict=True)),
        groups=rows.groups and [rows.groups[row] for row in order],
    )


def decoded_files(
    listing: Listing, root: Path, name: str, title: str, source: str, skip_corrupt: bool
) -> Decoded:
    """The listed files below this folder."""
    files = (os.path.join(root, below) for below in listing.ids)
    jobs = (
        Job(row, file, partial(archive.content, file, MAX_BYTES)) for row, file in enumerate(files)
    )
    return decoded(listing, jobs, name, title, source, skip_corrupt)


def _decode_archive(path: Path, name: str, skip_corrupt: bool) -> Decoded:
    found = list(archive.names(path, _is_wanted, MAX_BYTES))
    around = _around(found)
    listing = _laid_out(_places(found, around), str(path))
    return decoded_members(listing, path, around, name, _title(path), skip_corrupt)


def _is_wanted(name: str) -> bool:
    *folders, file = name.split("/")
    return is_picture(file) and not any(part.startswith((".", "__")) for part in folders)


def _around(names: Sequence[str]) -> str:
    """`pets/` where every picture lies in a class folder, or deeper, of the folder pets."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or tops <= set(PARTS) or any(name.count("/") == 1 for name in names):
        return ""
    return f"{tops.pop()}/"


def _places(names: Iterable[str], around: str) -> dict[str, _Place]:
    """The folders that these files are in, three levels of them."""
    places = defaultdict[str, _Place](_Place, {"": _Place()})
    for name in names:
        if not name.startswith(around):
            continue
        *folders, file = name.removeprefix(around).split("/", 3)
        for level, folder in enumerate(folders):
            places["/".join(folders[:level])].folders.add(folder)
        places["/".join(folders)].pictures.append(file)
    return places


def decoded_members(
    listing: Listing, path: Path, around: str, name: str, title: str, skip_corrupt: bool
) -> Decoded:
    """The listed members of an archive; their ids lack what is around them there."""
    rows = {f"{around}{below}": row for row, below in enumerate(listing.ids)}
    jobs = (
        Job(rows[member], f"{path}/{member}", partial(bytes, raw))
        for member, raw in archive.members(path, rows.__contains__, MAX_BYTES)
    )
    return decoded(listing, jobs, name, title, str(path), skip_corrupt)


def decoded(
    listing: Listing,
    jobs: Iterable[Job],
    name: str,
    title: str,
    source: str,
    skip_corrupt: bool,
) -> Decoded:
    """Read and decode what is listed; a corrupt picture raises DataError or is left out."""
    longest = max(map(len, listing.ids), default=0)
    if 4 * longest * len(listing.ids) > NAMES_BYTES:
        raise DataError(
            f"{source!r} names a picture with {longest} letters, too many for "
            f"{len(listing.ids)} pictures: shorten the longest names"
        )
    images, facts, rows = decode_all(jobs, len(listing.ids), skip_corrupt)
    ids: Ids = np.array(listing.ids, np.str_)[rows]
    return Decoded(
        name=name,
        title=title,
        classes=listing.classes,
        source=source,
        images=images,
        labels=np.array(listing.labels, np.int64)[rows],
        ids=ids,
        division={
            part: (int(np.searchsorted(rows, start)), int(np.searchsorted(rows, end)))
            for part, (start, end) in listing.division.items()
        },
        skipped=len(listing.ids) - len(rows),
        groups=None if listing.groups is None else np.array(listing.groups, np.str_)[rows],
        facts=facts,
    )
