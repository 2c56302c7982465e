"""The manifest of FDDB's patches: what each is cut of and how it looks, written and read back.

Chosen: `manifest.csv` is a line of JSON after `# `, then a CSV line a patch: train, val and test in
order. The JSON holds the version of the protocol, name, seed and rotation, the SHA-256 of the
ellipse lists and of the photos, and a seal over all the rest. The file's own SHA-256 is the
identity of the data set: the same photos, lists and options give the same file to the last bit, as
long as Pillow decodes JPEG the same. `patches.npy` holds the pixels beside it. Both are written
under another name, flushed and renamed, the manifest last; every reading checks every hash.

Left out: pixels in the manifest. It may be shared where photos of people may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_mlflow.data.picture import FORMATS
from alexnet_mlflow.data.split import PARTS, SIDE, DataError, Decoded, Facts, Images
from alexnet_mlflow.disk import replaced

MANIFEST, PIXELS = "manifest.csv", "patches.npy"
PROTOCOL = 1  # of these files and of all that decides which patches are in them
LARGEST_BYTES = 10 << 20  # the official size has 500,000
CLASSES = ("face", "nonface")
TITLES = {
    "fddb": "FDDB (paired patches)",
    "fddb-hard": "FDDB (paired patches, half of the background drawn next to faces)",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A patch."""

    photo: str
    width: int  # of the photo
    height: int
    mode: str  # Pillow's: "RGB", "L"
    format: str
    x: int  # left, top and side of the square in the photo
    y: int
    side: int
    label: str
    fold: int
    split: str
    group: str  # the first photo that looks like this one
    sha256: str  # of its 32x32x3 bytes: rows, columns, colours


FIELDS = tuple(field.name for field in dataclasses.fields(Row))
NUMBERS = tuple(field.name for field in dataclasses.fields(Row) if field.type == "int")


def text(origin: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The manifest of these rows, which stand in the order of their splits."""
    lines = [",".join(str(getattr(row, name)) for name in FIELDS) for row in rows]
    body = "\n".join([",".join(FIELDS), *lines, ""])
    head = {**origin, "protocol": PROTOCOL, "patches": len(rows)}
    seal = sha256(f"{json.dumps(head, sort_keys=True)}\n{body}".encode())
    return f"# {json.dumps({**head, 'seal': seal}, sort_keys=True)}\n{body}"


def sha256(raw: bytes) -> str:
    """In hex."""
    return hashlib.sha256(raw).hexdigest()


def pixels_sha256(pixels: Images) -> str:
    """Of a patch, (3, 32, 32), as `Row` has it."""
    return sha256(pixels.transpose(1, 2, 0).tobytes())


def write(manifest: str, pixels: Images, folder: Path) -> None:
    """Put both files into this folder, in place of older ones. May raise OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PIXELS, MANIFEST):
        with replaced(folder / name) as draft, open(draft, "xb") as file:
            if name == PIXELS:
                np.save(file, pixels, allow_pickle=False)
            else:
                file.write(manifest.encode())


def read(folder: Path) -> Decoded:
    """The patches in this folder; DataError unless every byte is as it was written."""
    try:
        raw = _bytes(folder / MANIFEST, LARGEST_BYTES)
        head, rows = _parsed(raw.decode())
        return _decoded(folder, head, rows, _pixels(folder / PIXELS, rows), sha256(raw))
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, MemoryError, RecursionError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)[:200]
        raise DataError(
            f"the patches in {str(folder)!r} are not whole ({reason}): build them again with "
            "alexnet-mlflow data get fddb"
        ) from None


def _bytes(path: Path, largest: int) -> bytes:
    with open(path, "rb") as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        raise ValueError(f"{path.name} has more than {largest:,} bytes")
    return raw


def _parsed(manifest: str) -> tuple[dict[str, Any], list[Row]]:
    """What stands in it. Written again, it must be the same."""
    first, _, *lines = manifest.split("\n")
    head = dict(json.loads(first.removeprefix("# ")))
    if head["protocol"] != PROTOCOL:
        raise ValueError(f"its protocol is {str(head['protocol'])[:20]}, not {PROTOCOL}")
    rows = [_row(line) for line in lines[:-1]]
    origin = {name: head[name] for name in head if name not in ("protocol", "patches", "seal")}
    if text(origin, rows) != manifest:
        raise ValueError(f"{MANIFEST} is not as it was written")
    return head, rows


def _row(line: str) -> Row:
    values = dict[str, Any](zip(FIELDS, line.split(","), strict=True))
    return Row(**{**values, **{name: int(values[name]) for name in NUMBERS}})


def _pixels(path: Path, rows: Sequence[Row]) -> Images:
    """The patches of these rows, (N, 3, 32, 32) uint8."""
    shape = len(rows), 3, SIDE, SIDE
    raw = _bytes(path, math.prod(shape) + 4096)
    try:
        pixels = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except Exception as error:  # numpy raises half a dozen types for a broken header
        raise ValueError(f"{PIXELS}: {' '.join(str(error).split())[:100]}") from None
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"{PIXELS} holds {pixels.dtype} of shape {pixels.shape}, not {shape}")
    for row, patch in zip(rows, pixels, strict=True):
        if pixels_sha256(patch) != row.sha256:
            raise ValueError(f"the {row.label} of {row.photo} is not as it was written")
    return np.ascontiguousarray(pixels)


def _decoded(
    folder: Path, head: Mapping[str, Any], rows: Sequence[Row], pixels: Images, identity: str
) -> Decoded:
    order = [PARTS.index(row.split) for row in rows]
    if order != sorted(order):
        raise ValueError(f"{MANIFEST} is not in the order of {', '.join(PARTS)}")
    ends = [0, *np.cumsum(np.bincount(order, minlength=len(PARTS))).tolist()]
    return Decoded(
        name=head["name"],
        title=TITLES[head["name"]],
        classes=CLASSES,
        source=str(folder),
        images=pixels,
        labels=np.array([CLASSES.index(row.label) for row in rows], np.int64),
        ids=np.array([f"{row.photo}/{row.label}" for row in rows], np.str_),
        division=dict(zip(PARTS, zip(ends[:-1], ends[1:], strict=True), strict=True)),
        groups=np.array([row.group for row in rows], np.str_),
        facts=_facts(rows),
        identity=identity,
    )


def _facts(rows: Sequence[Row]) -> Facts:
    """What is known of a patch without looking at its pixels; places in parts of the photo."""
    table = {
        "photo_width": [row.width for row in rows],
        "photo_height": [row.height for row in rows],
        "grey": [row.mode == "L" for row in rows],
        "format": [FORMATS.index(row.format) for row in rows],
        "x": [row.x / row.width for row in rows],
        "y": [row.y / row.height for row in rows],
        "side": [row.side / row.width for row in rows],
    }
    return {name: np.array(column, np.float32) for name, column in table.items()}
