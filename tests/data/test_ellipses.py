"""FDDB's lists: read exactly or refused; ellipses against brute force."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_mlflow.data import DataError, ellipses
from alexnet_mlflow.data.ellipses import FOLDS, Ellipse

FACE = "30.5 20.25 -0.5 60 50.75  1"
ANGLES = [0.0, math.pi / 2, math.pi / 4, -math.pi / 4, math.pi, *np.linspace(-7, 7, 60).tolist()]


def one_list(fold: int = 1, face: str = FACE) -> str:
    return f"2002/08/11/big/img_{fold}\n1\n{face}\n"


def ten(first: bytes | str) -> dict[int, bytes]:
    """Ten lists of which the first is this one."""
    raw = first if isinstance(first, bytes) else first.encode("latin-1")
    return {1: raw, **{fold: one_list(fold).encode() for fold in FOLDS[1:]}}


def boundary(ellipse: Ellipse, times: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Many points of its edge, or of one so many times as large."""
    turn = np.linspace(0, 2 * np.pi, 20_001)
    along, beside = times * ellipse.major * np.cos(turn), times * ellipse.minor * np.sin(turn)
    cosine, sine = np.cos(ellipse.angle), np.sin(ellipse.angle)
    return ellipse.x + along * cosine - beside * sine, ellipse.y + along * sine + beside * cosine


# Geometry


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axes", [(80.0, 50.0), (50.0, 80.0), (90.5, 3.25), (40.0, 40.0)])
def test_box_is_that_of_the_boundary(axes: tuple[float, float], angle: float) -> None:
    ellipse = Ellipse(*axes, angle, 123.5, -7.25)
    x, y = boundary(ellipse)
    assert ellipse.box == pytest.approx((x.min(), y.min(), x.max(), y.max()), abs=1e-4)


@pytest.mark.parametrize(
    ("angle", "reach"),
    [(0.0, (5.0, 3.0)), (math.pi / 2, (3.0, 5.0)), (math.pi / 4, (math.sqrt(17),) * 2)],
)
def test_reach_by_hand(angle: float, reach: tuple[float, float]) -> None:
    assert Ellipse(5, 3, angle, 0, 0).reach == pytest.approx(reach, abs=1e-6)


def test_angle_turns_from_x_to_y_down() -> None:
    ellipse = Ellipse(10, 1, math.pi / 4, 0, 0)
    here = ellipse.contains(np.array([5.0, 5.0]), np.array([5.0, -5.0]))
    assert here.tolist() == [True, False]


@pytest.mark.parametrize("angle", ANGLES[:8])
def test_contains_up_to_the_boundary(angle: float) -> None:
    ellipse = Ellipse(30, 12, angle, 50, 40)
    assert ellipse.contains(*boundary(ellipse, 0.9999)).all()
    assert not ellipse.contains(*boundary(ellipse, 1.0001)).any()


def test_enlarged_keeps_the_centre() -> None:
    left, top, right, bottom = Ellipse(20, 10, 0, 100, 50).enlarged(1.2)
    assert (left, top, right, bottom) == pytest.approx((76, 38, 124, 62))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(5, 60), st.floats(5, 60), st.floats(-4, 4), st.floats(-40, 160), st.floats(-40, 140)
)
def test_shown_is_the_part_of_the_area(
    major: float, minor: float, angle: float, x: float, y: float
) -> None:
    ellipse = Ellipse(major, minor, angle, x, y)
    across, down = np.meshgrid(np.arange(-110, 230) + 0.5, np.arange(-110, 210) + 0.5)
    inside = ellipse.contains(across, down)
    there = inside & (across > 0) & (across < 120) & (down > 0) & (down < 100)
    assert ellipse.shown(120, 100) == pytest.approx(there.sum() / inside.sum(), abs=0.03)


@pytest.mark.parametrize(
    ("x", "y", "part"),
    [(60, 50, 1), (0, 50, 0.5), (60, 100, 0.5), (120, 0, 0.25), (-40, 50, 0), (60, 150, 0)],
)
def test_shown_by_hand(x: float, y: float, part: float) -> None:
    assert Ellipse(25, 15, 0.0, x, y).shown(120, 100) == pytest.approx(part, abs=1e-3)


# Lists


def test_what_stands_there_is_read() -> None:
    text = f"2002/08/11/big/img_591\n2\n{FACE}\n1 2 3 4 -5.5 1\n2003/01/02/big/img_7\n1\n{FACE}\n"
    first, second, *others = ellipses.parse(ten(text)).photos
    assert (first.name, first.fold) == ("2002/08/11/big/img_591", 1)
    assert first.faces == (Ellipse(30.5, 20.25, -0.5, 60, 50.75), Ellipse(1, 2, 3, 4, -5.5))
    assert (second.name, second.faces) == ("2003/01/02/big/img_7", first.faces[:1])
    assert [photo.fold for photo in others] == list(FOLDS)[1:]


def test_line_ends_do_not_matter() -> None:
    unix = ellipses.parse(ten(one_list()))
    assert ellipses.parse(ten(one_list().replace("\n", "\r\n"))) == unix
    unfinished = ellipses.parse(ten(one_list().removesuffix("\n")))
    assert unfinished.photos == unix.photos and unfinished.sha256 != unix.sha256


def test_one_space_or_two_before_the_last_field() -> None:
    single = ellipses.parse(ten(one_list(face=FACE.replace("  ", " "))))
    assert single.photos == ellipses.parse(ten(one_list())).photos


@pytest.mark.parametrize("placeholder", ["1 1 0 0 0 1", "1.000000 1.000000 0.000000 0.0 0.0  1"])
def test_placeholder_is_dropped_and_counted(placeholder: str) -> None:
    text = f"2002/07/24/big/img_67\n2\n{placeholder}\n{FACE}\n"
    lists = ellipses.parse(ten(text))
    assert lists.placeholders == 1
    assert lists.photos[0].faces == ellipses.parse(ten(one_list())).photos[0].faces


def test_a_longer_minor_axis_is_taken() -> None:
    lists = ellipses.parse(ten(one_list(face="41.050194 41.678314 1.566713 68.5 291.1  1")))
    assert lists.photos[0].faces[0].minor == 41.678314


HEAD = "2002/08/11/big/img_1\n"
HOSTILE = {
    "nan": (one_list(face="nan 20 0 60 50 1"), "line 3: a face's fields must be decimal"),
    "inf": (one_list(face="30 inf 0 60 50 1"), "line 3: .* got 'inf'"),
    "minus inf": (one_list(face="30 20 0 -Infinity 50 1"), "line 3: .*decimal numbers"),
    "1e999": (one_list(face="30 20 0 1e999 50 1"), "line 3: .* got '1e999'"),
    "huge number": (one_list(face="30 20 0 60 123456 1"), "line 3: .*below 100,000"),
    "endless digits": (one_list(face=f"30 20 0 60 {'9' * 9999} 1"), r"line 3: .*9999\.\.\.: get"),
    "underscore": (one_list(face="3_0 20 0 60 50 1"), "line 3: .* got '3_0'"),
    "hexadecimal": (one_list(face="0x1p3 20 0 60 50 1"), "line 3: .* got '0x1p3'"),
    "words": (one_list(face="thirty 20 0 60 50 1"), "line 3: .* got 'thirty'"),
    "expression": (one_list(face="__import__('os') 20 0 60 50 1"), "line 3: .*decimal"),
    "negative axis": (one_list(face="30 -20 0 60 50 1"), "line 3: .*half axes must be above 0"),
    "axis of zero": (one_list(face="0.000 20 0 60 50 1"), "line 3: .*half axes must be above 0"),
    "five fields": (one_list(face="30 20 0 60 1"), "line 3: a face must be 'major minor"),
    "seven fields": (one_list(face="30 20 0 60 50 1 1"), "line 3: a face must be 'major"),
    "last field 0": (one_list(face="30 20 0 60 50  0"), "line 3: a face must be 'major"),
    "last field 1.0": (one_list(face="30 20 0 60 50  1.0"), "line 3: a face must be 'major"),
    "two spaces elsewhere": (one_list(face="30  20 0 60 50 1"), "line 3: a face must be"),
    "tabs": (one_list(face="30\t20\t0\t60\t50\t1"), "line 3: a face must be 'major"),
    "trailing space": (one_list(face="30 20 0 60 50 1 "), "line 3: a face must be 'major"),
    "lone carriage return": (one_list(face="30 20 0 60 50\r1"), "line 3: a face must be"),
    "count in words": (f"{HEAD}one\n{FACE}\n", "line 2: the number of faces .* got 'one'"),
    "count below zero": (f"{HEAD}-1\n{FACE}\n", "line 2: the number of faces .* got '-1'"),
    "count of zero": (f"{HEAD}0\n", "line 2: the number of faces must be 1 to 1000"),
    "count of 1001": (f"{HEAD}1001\n" + f"{FACE}\n" * 1001, "line 2: .* got '1001'"),
    "count of billions": (f"{HEAD}9999999999\n{FACE}\n", "line 2: the number of faces"),
    "count as a fraction": (f"{HEAD}1.0\n{FACE}\n", "line 2: the number of faces"),
    "count too high": (f"{HEAD}2\n{FACE}\n", "line 2: 2 faces must follow .* got 1"),
    "count too high inside": (f"{HEAD}2\n{FACE}\n{one_list(99)}", "line 4: a face must be"),
    "count too low": (f"{HEAD}1\n{FACE}\n{FACE}\n", "line 4: a photo's name must be like"),
    "no count": (HEAD, "line 2: the number of faces .* got ''"),
    "blank line": (f"{one_list()}\n", "line 4: a photo's name must be like .* got ''"),
    "blank first line": (f"\n{one_list()}", "line 1: a photo's name must be like"),
    "empty": ("", "line 1: a list must have 1 to 10,485,760 bytes, got 0"),
    "too long": ("x" * (10 << 20) + "x", "line 1: a list must have 1 to 10,485,760 bytes"),
    "absolute name": (f"/{one_list()}", "line 1: a photo's name .* got '/2002/08/11"),
    "name that leads out": (f"../../{one_list()}", r"line 1: a photo's name .* got '\.\./\.\./2"),
    "dots in the name": (one_list().replace("08", ".."), "line 1: a photo's name must be"),
    "backslash": (one_list().replace("/", "\\"), "line 1: a photo's name must be like"),
    "NUL": (one_list().replace("big", "b\0g"), "line 1: a photo's name must be like"),
    "suffix": (one_list().replace("img_1", "img_1.jpg"), "line 1: a photo's name must be"),
    "name of another set": ("0_Parade_marchingband_1_849.jpg\n1\n", "line 1: a photo's name"),
    "name twice": (one_list() + one_list(), "line 4: a photo must be named once, and this was in "
                   "FDDB-fold-01-ellipseList.txt, line 1"),
    "name twice in two lists": (one_list(7), "line 1: a photo must be named once, and this was in "
                                "FDDB-fold-01-ellipseList.txt, line 1, got '2002/08/11/big/img_7'"),
    "latin-1": (f"{one_list()}2002/08/11/big/img_\xe9\n", "line 4: .*ASCII text, got b'.xe9'"),
    "utf-16": (one_list().encode("utf-16").decode("latin-1"), "line 1: a list must be ASCII"),
    "utf-8 mark": ("\xef\xbb\xbf" + one_list(), "line 1: a list must be ASCII"),
    "other digits": (one_list(face="30 20 0 60 5\xb2 1"), "line 3: a list must be ASCII"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_lists_are_refused(case: str) -> None:
    text, told = HOSTILE[case]
    with pytest.raises(DataError, match=f"^FDDB-fold-0.-ellipseList.txt, .*{told}") as refused:
        ellipses.parse(ten(text))
    sentence = str(refused.value)
    assert sentence.endswith(": get FDDB-folds.tgz again")
    assert "\n" not in sentence and "\0" not in sentence and len(sentence) < 300


@pytest.mark.parametrize("fold", FOLDS)
def test_missing_list(fold: int) -> None:
    files = ten(one_list())
    del files[fold]
    with pytest.raises(DataError, match=f"list FDDB-fold-{fold:02d}-ellipseList.txt is missing"):
        ellipses.parse(files)


def folder_of(files: dict[int, bytes], place: Path) -> Path:
    place.mkdir(parents=True)
    for fold, raw in files.items():
        (place / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_bytes(raw)
    return place


def test_other_lists_are_refused_by_their_hash(tmp_path: Path) -> None:
    place = folder_of(ten(one_list()), tmp_path / "lists")
    sha256 = ellipses.parse(ten(one_list())).sha256
    with pytest.raises(DataError, match=f"SHA-256 06726e01.* got {sha256}: get FDDB-folds.tgz"):
        ellipses.read(place)


def test_a_list_twice_is_refused(tmp_path: Path) -> None:
    folder_of(ten(one_list()), tmp_path / "both" / "a")
    folder_of(ten(one_list()), tmp_path / "both" / "b")
    with pytest.raises(DataError, match="must be in .*both' once, got FDDB-fold-01-ell.* twice"):
        ellipses.read(tmp_path / "both")


def test_a_place_without_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none of the ellipse lists FDDB-fold-01-ell"):
        ellipses.read(tmp_path)
    with pytest.raises(DataError, match="cannot be read .*: name FDDB-folds.tgz or the folder"):
        ellipses.read(tmp_path / "nowhere")


# FDDB's own


@pytest.fixture(scope="module")
def real(shared_data: Path) -> ellipses.Lists:
    return ellipses.read(shared_data / "fddb" / "FDDB-folds.tgz")


def test_real_counts(real: ellipses.Lists) -> None:
    assert real.verified and real.sha256 == ellipses.SHA256
    faces = sum(len(photo.faces) for photo in real.photos)
    assert (len(real.photos), faces, real.placeholders) == (2845, 5170, 1)
    folds = Counter(photo.fold for photo in real.photos)
    assert [folds[fold] for fold in FOLDS] == [290, 285, 274, 302, 298, 302, 279, 276, 259, 280]
    (first, *_) = real.photos
    assert first.name == "2002/08/11/big/img_591"
    assert first.faces == (Ellipse(123.5833, 85.5495, 1.265839, 269.6934, 161.7812),)


def test_real_quirks(real: ellipses.Lists, shared_data: Path) -> None:
    """As counted in public, less the placeholder, which leaves its photo and is small."""
    sizes = json.loads((shared_data / "fddb" / "fddb_photo_sizes.json").read_text())
    found: Counter[str] = Counter()
    for photo in real.photos:
        width, height = sizes[photo.name]
        for face in photo.faces:
            left, top, right, bottom = face.box
            found["leaves"] += left < 0 or top < 0 or right > width or bottom > height
            found["centre outside"] += not (0 <= face.x < width and 0 <= face.y < height)
            found["small"] += min(right - left, bottom - top) < 20
            found["minor longer"] += face.minor > face.major
    assert found == {"leaves": 487, "centre outside": 6, "small": 102, "minor longer": 1}
    (crowd,) = (photo for photo in real.photos if photo.name == "2002/07/24/big/img_67")
    assert crowd.fold == 8 and len(crowd.faces) == 6


@pytest.mark.parametrize("kind", ["folder", "zip", "deeper"])
def test_real_lists_in_other_forms(kind: str, shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "fddb" / "FDDB-folds.tgz") as packed:
        packed.extractall(tmp_path / "a", filter="data")
    place = tmp_path / "a"
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "lists.zip", "w") as packed_again:
            for file in place.rglob("*.txt"):
                packed_again.writestr(f"lists/{file.name}", file.read_bytes())
        place = tmp_path / "lists.zip"
    if kind == "deeper":
        shutil.move(place, tmp_path / "b" / "c")
        place = tmp_path / "b"
    assert ellipses.read(place).verified


def test_one_digit_of_the_real_lists(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "fddb" / "FDDB-folds.tgz") as packed:
        packed.extractall(tmp_path, filter="data")
    (file,) = tmp_path.rglob("FDDB-fold-10-ellipseList.txt")
    raw = bytearray(file.read_bytes())
    at = raw.index(b".") + 1
    raw[at] = ord("7") if raw[at] != ord("7") else ord("3")
    file.write_bytes(raw)
    with pytest.raises(DataError, match="must have the SHA-256 06726e01"):
        ellipses.read(tmp_path)
