"""A CSV that lists pictures: `path,label`, and where wanted `group` and `split`.

Chosen: UTF-8 (with or without a byte order mark), commas, RFC 4180's quotes, any line end, a
header. Paths are written with `/` and lie below the CSV's own folder: absolute ones, `..` and
drive letters are refused, since a list from somebody else must not name files elsewhere, and a
data set that is moved stays the same. Pictures of one group (a photo, a person) stay in one split;
an empty group is a group of its own. With `split` (train, val, test) the list says the division.
A column of any other name is refused: `gruop`, if it were passed over, would let groups leak.

Left out: other separators and encodings. Nothing but the list is read here.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from alexnet_mlflow.data.archive import short
from alexnet_mlflow.data.split import PARTS, DataError

NEEDED, COLUMNS = ("path", "label"), ("path", "label", "group", "split")
MISSING = ("nan", "null", "none", "n/a", "<na>")  # how programs write a label that they lack
LONGEST_CLASS = 100  # letters
LONGEST_LINE = 1 << 20  # letters: more than the fields that csv takes could fill


class Table(NamedTuple):
    """The rows of a list, a column each."""

    paths: list[str]  # below the list's folder, without `./` and the like
    labels: list[str]
    groups: list[str] | None
    parts: list[str] | None


class _Wrong(Exception):
    """What a line must be and is not."""


def read(path: Path) -> Table:
    """The whole list; DataError where it breaks a rule, OSError where it cannot be read."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(_lines(file), strict=True)
        try:
            return _table(lines)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{str(path)!r} must be UTF-8, got {error.object[error.start]:#04x} after line "
                f"{lines.line_num}: save it as UTF-8"
            ) from None
        except (_Wrong, csv.Error) as error:
            raise DataError(
                f"line {lines.line_num} of {str(path)!r} is wrong, {error}: put it right"
            ) from None


def class_fault(name: str) -> str:
    """What speaks against a class of this name; empty where nothing does."""
    if not name:
        return "is empty"
    if len(name) > LONGEST_CLASS:
        return f"has more than {LONGEST_CLASS} letters"
    return "" if name.isprintable() else "has letters that cannot be shown in one line"


def _lines(file: TextIO) -> Iterator[str]:
    return iter(lambda: file.readline(LONGEST_LINE), "")


def _table(lines: Iterator[list[str]]) -> Table:
    names = _header(next(lines, []))
    columns: Mapping[str, list[str]] = {name: [] for name in names}
    seen, same = set[str](), dict[str, str]()  # equal labels become one object
    for row in lines:
        if not row:
            continue
        if len(row) != len(names):
            raise _Wrong(f"for it has {len(row)} fields under a header of {len(names)}")
        for name, text in zip(names, row, strict=True):
            value = CHECKS[name](text)
            columns[name].append(value if name == "path" else same.setdefault(value, value))
        if (path := columns["path"][-1]) in seen:
            raise _Wrong(f"for the path {short(path)} is there already")
        seen.add(path)
    if not seen:
        raise _Wrong("for it ends the list before any picture")
    groups = columns.get("group")
    if groups is not None:
        groups = [group or path for group, path in zip(groups, columns["path"], strict=True)]
    return Table(columns["path"], columns["label"], groups, columns.get("split"))


def _header(row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    shown = ", ".join(map(repr, names[:9]))[:250] or "nothing"
    if not set(NEEDED) <= set(names) <= set(COLUMNS) or len(set(names)) != len(names):
        raise _Wrong(
            f"for the header must name {' and '.join(NEEDED)}, may name group and split, each once "
            f"and no other, but names {shown}"
        )
    return names


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise _Wrong(f"for the path {short(text)} is empty or holds a NUL")
    if text.startswith("/") or "\\" in text or re.match("[A-Za-z]:", text):
        raise _Wrong(f"for the path {short(text)} must be one below the list's folder, as a/b.png")
    if ".." in text.split("/"):
        raise _Wrong(f"for the path {short(text)} leads out of the list's folder")
    return posixpath.normpath(text)


def _label(text: str) -> str:
    label = text.strip()
    if label.lower() in MISSING:
        raise _Wrong(f"for the label {short(label)} is how a missing one is written")
    if fault := class_fault(label):
        raise _Wrong(f"for the label {short(label)} {fault}")
    return label


def _part(text: str) -> str:
    part = text.strip()
    if part not in PARTS:
        raise _Wrong(f"for the split must be one of {', '.join(PARTS)}, got {short(part)}")
    return part


def _group(text: str) -> str:
    return text.strip()


CHECKS: Mapping[str, Callable[[str], str]] = {
    "path": _path, "label": _label, "group": _group, "split": _part,
}
