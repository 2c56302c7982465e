"""CSV lists of pictures: what a row may say, and one sentence where it says something else."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_mlflow.data import DataError, table


def read(tmp_path: Path, text: str | bytes) -> table.Table:
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "x.csv").write_bytes(raw)
    return table.read(tmp_path / "x.csv")


def test_all_columns_in_any_order(tmp_path: Path) -> None:
    rows = "split, label,group ,path\nval, cat ,g1,a/1.png\ntrain,dog,,./b//2.png\n"
    found = read(tmp_path, rows)
    assert found == table.Table(
        ["a/1.png", "b/2.png"], ["cat", "dog"], ["g1", "b/2.png"], ["val", "train"]
    )


PLAIN = table.Table(["a.png", "b.png"], ["cat", "dög"], None, None)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_marks_and_line_ends(mark: str, end: str, last: bool, tmp_path: Path) -> None:
    text = end.join([f"{mark}path,label", "a.png,cat", "", "b.png,dög", *[""][: int(last)]])
    assert read(tmp_path, text) == PLAIN


def test_quotes(tmp_path: Path) -> None:
    found = read(tmp_path, '"path","label"\r\n"a, ""b""\r\n.png","black, white"\r\n c.png,"x"\r\n')
    assert found.paths == ['a, "b"\r\n.png', " c.png"]  # a path's spaces are its own
    assert found.labels == ["black, white", "x"]


TEXTS = st.text("aö ,\"'\n\r-", min_size=1, max_size=9)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(paths=st.lists(TEXTS, min_size=1, max_size=5, unique=True))
def test_what_csv_writes_comes_back(paths: list[str], tmp_path: Path) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("path", "label"), *((path, "a") for path in paths)])
    assert read(tmp_path, file.getvalue()).paths == paths


HEAD = "path,label\n"
LONG = "z" * 150_000
WRONG: dict[str, tuple[str | bytes, str]] = {
    "no header": ("", "line 0 .*names nothing"),
    "no label": ("path\na.png\n", "line 1 .*must name path and label.*names 'path'"),
    "a mistyped column": ("path,label,gruop\na,b,c\n", "line 1 .*no other, but .*'gruop'"),
    "a column twice": ("path,label,label\na,b,c\n", "line 1 .*each once"),
    "semicolons": ("path;label\na;b\n", "line 1 .*names 'path;label'"),
    "no rows": (HEAD, "line 1 .*ends the list before any picture"),
    "too few fields": (f"{HEAD}a.png,a\nb.png\n", "line 3 .*has 1 fields under a header of 2"),
    "too many fields": (f"{HEAD}a.png,a,b\n", "line 2 .*has 3 fields under a header of 2"),
    "a path twice": (f"{HEAD}a.png,a\n./a.png,b\n", "line 3 .*'a.png' is there already"),
    "no path": (f"{HEAD},a\n", "line 2 .*is empty or holds a NUL"),
    "a NUL": (f"{HEAD}a\0.png,a\n", "line 2 .*NUL"),
    "an absolute path": (f"{HEAD}/etc/x.png,a\n", "line 2 .*must be one below the list's folder"),
    "a drive": (f"{HEAD}C:x.png,a\n", "must be one below"),
    "a backslash": (f"{HEAD}a\\x.png,a\n", "must be one below"),
    "a way out": (f"{HEAD}a/../../x.png,a\n", "leads out of the list's folder"),
    "no class": (f"{HEAD}a.png, \n", "line 2 .*label '' is empty"),
    "a missing class": (f"{HEAD}a.png,NaN\n", "line 2 .*'NaN' is how a missing one is written"),
    "a long class": (f"{HEAD}a.png,{'z' * 101}\n", "has more than 100 letters"),
    "a class of two lines": (f'{HEAD}a.png,"a\nb"\n', "line 3 .*cannot be shown in one line"),
    "no such split": ("path,label,split\na,b,valid\n", "one of train, val, test, got 'valid'"),
    "an open quote": (f'{HEAD}"a.png,a\n', "line 2 .*is wrong, "),
    "an odd quote": (f'{HEAD}"a"b,a\n', "line 2 .*is wrong, "),
    "a huge field": (f"{HEAD}{LONG},a\n", "line 2 .*field larger than"),
    "not UTF-8": (HEAD.encode() + b"\xe9.png,a\n", "must be UTF-8, got 0xe9 .*save it as UTF-8"),
    "UTF-16": (f"{HEAD}a,b".encode("utf-16"), "must be UTF-8, got 0xff after line 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, text)
    told = str(raised.value)
    assert "\n" not in told and "x.csv" in told and len(told) < 600 + len(str(tmp_path))


def test_what_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        table.read(tmp_path / "nowhere.csv")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=60), headed=st.booleans())
def test_any_bytes_are_a_list_or_one_sentence(raw: bytes, headed: bool, tmp_path: Path) -> None:
    try:
        found = read(tmp_path, HEAD.encode() + raw if headed else raw)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.paths) == len(found.labels) > 0
