"""Copies are found however they were made, unrelated pictures are not, and the groups are right."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import duplicates, load, load_test
from alexnet_mlflow.data.duplicates import Pair
from alexnet_mlflow.data.split import Images

SIZE = 64  # pixels of a natural picture before it becomes a thumbnail
EDGE = 2  # pixels around it, for what a shifted copy shows: one of the thumbnail


def middle(piece: Image.Image, across: int = 0, down: int = 0) -> Image.Image:
    """The picture in a piece, shifted by pixels of the thumbnail."""
    left, top = EDGE * (1 + across), EDGE * (1 + down)
    return piece.crop((left, top, left + SIZE, top + SIZE))


@pytest.fixture(scope="module")
def pieces() -> list[Image.Image]:
    """Pieces of two photographs that do not overlap, those with something on them."""
    from sklearn.datasets import load_sample_images

    step = SIZE + 2 * EDGE
    found = [
        Image.fromarray(photo[top : top + step, left : left + step])
        for photo in load_sample_images().images
        for top in range(0, photo.shape[0] - step + 1, step)
        for left in range(0, photo.shape[1] - step + 1, step)
    ]
    return [piece for piece in found if np.asarray(piece.convert("L")).std() > 16]


@pytest.fixture(scope="module")
def naturals(pieces: list[Image.Image]) -> list[Image.Image]:
    return [middle(piece) for piece in pieces]


def recompressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file)


SHIFTS = [step for step in itertools.product((-1, 0, 1), repeat=2) if any(step)]
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda picture: picture,
    "recompressed": recompressed,
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.6),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    "grey": lambda picture: picture.convert("L"),
    "smaller": lambda picture: picture.resize((40, 40)),
    "turned by 1 degree": lambda picture: picture.rotate(1, Image.Resampling.BICUBIC),
}


def thumbs(pictures: list[Image.Image]) -> Images:
    return np.stack([duplicates.thumbnail(picture) for picture in pictures])


def rows(pairs: list[Pair]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in pairs]


@pytest.mark.parametrize("change", [*CHANGES, *SHIFTS], ids=str)
def test_changed_copies_are_found_and_nothing_else(
    pieces: list[Image.Image], naturals: list[Image.Image], change: str | tuple[int, int]
) -> None:
    if isinstance(change, str):
        changed = [CHANGES[change](picture) for picture in naturals]
    else:
        changed = [middle(piece, *change) for piece in pieces]
    found = duplicates.near_pairs(thumbs(changed), thumbs(naturals))
    right = [(row, row) for row in range(len(naturals))]
    assert len(naturals) > 50
    assert not set(rows(found)) - set(right)
    # a fine texture that is shifted along both axes has another hash
    assert len(found) >= (0.97 if isinstance(change, str) or 0 in change else 0.9) * len(right)
    assert all(duplicates.LIKENESS <= pair.correlation <= 1.00001 for pair in found)
    assert not any(pair.mirrored for pair in found)


def test_mirrored_copies_are_found_as_such(naturals: list[Image.Image]) -> None:
    flipped = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in naturals]
    found = duplicates.near_pairs(thumbs(flipped), thumbs(naturals))
    assert rows(found) == [(row, row) for row in range(len(naturals))]
    assert all(pair.mirrored for pair in found)


def test_of_two_ways_to_be_alike_the_better_is_told(naturals: list[Image.Image]) -> None:
    """Pictures that are nearly their own mirror images."""
    pictures = thumbs(naturals).astype(int)
    even = ((9 * pictures + 7 * pictures[:, :, ::-1]) // 16).astype(np.uint8)
    found = duplicates.near_pairs(even, even)
    same = [pair for pair in found if pair.first == pair.second]
    assert len(same) == len(even) and not any(pair.mirrored for pair in same)
    assert min(pair.correlation for pair in same) > 0.99999
    assert (duplicates.likeness(even[:, :, ::-1], even) > duplicates.LIKENESS).sum() > 40


@pytest.mark.parametrize("kind", ["natural", "noise", "smooth noise", "faces"])
def test_unrelated_pictures_are_no_pairs(naturals: list[Image.Image], kind: str) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (600, 32, 32), dtype=np.uint8)
    if kind == "natural":
        pictures = thumbs(naturals)
    elif kind == "noise":
        pictures = noise
    elif kind == "smooth noise":
        coarse = [Image.fromarray(picture[:6, :6]) for picture in noise]
        pictures = np.stack([np.asarray(picture.resize((32, 32))) for picture in coarse])
    else:
        pictures = duplicates.thumbnails(load(DataConfig(dataset="faces")).train.images)
    assert not duplicates.near_pairs(pictures)


def test_a_common_horizon_is_no_likeness() -> None:
    """Bright above and dark below in both, with different noise of little size on it."""
    rng = np.random.default_rng(0)
    slope = np.linspace(220, 30, 32)[:, None].astype(int)
    sea = (slope + rng.normal(0, 8, (100, 32, 32))).clip(0, 255).astype(np.uint8)
    assert np.corrcoef(sea[0].ravel(), sea[1].ravel())[0, 1] > 0.97
    assert not duplicates.near_pairs(sea)


def test_flat_pictures_are_not_all_one_picture() -> None:
    rng = np.random.default_rng(0)
    codec = (128 + rng.normal(0, 1, (300, 32, 32))).astype(np.uint8)
    even = np.repeat(np.arange(50, 250, dtype=np.uint8), 1024).reshape(200, 32, 32)
    stripes = np.repeat(rng.integers(0, 256, (100, 32, 1), dtype=np.uint8), 32, axis=2)
    assert not duplicates.near_pairs(np.concatenate([codec, even, stripes, even]))
    assert not duplicates.near_pairs(codec, codec)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 32), st.floats(12, 120))
def test_equal_thumbnails_are_always_a_pair(seed: int, side: int, contrast: float) -> None:
    rng = np.random.default_rng(seed)
    small = (128 + contrast * rng.choice([-1, 1], (3, side, side))).clip(0, 255).astype(np.uint8)
    pictures = np.stack([np.asarray(Image.fromarray(one).resize((32, 32))) for one in small])
    kept = [row for row in range(3) if duplicates._without_means(pictures[row][None]).std() >= 2]
    found = duplicates.near_pairs(pictures, pictures)
    equal = {pair.first: pair for pair in found if pair.first == pair.second}
    assert sorted(equal) == kept
    assert all(pair.correlation > 0.99999 for pair in equal.values())


def test_the_quick_steps_lose_none(pieces: list[Image.Image]) -> None:
    """Against `likeness` of every pair, mirrored or not."""
    pictures = thumbs([middle(piece, *step) for step in ((0, 0), (1, -1)) for piece in pieces[:40]])
    left, right = (side.ravel() for side in np.indices((80, 80)))
    plain = duplicates.likeness(pictures[left], pictures[right])
    mirrored = duplicates.likeness(pictures[left][:, :, ::-1], pictures[right])
    every = np.flatnonzero(np.maximum(plain, mirrored) >= duplicates.LIKENESS)
    across = duplicates.near_pairs(pictures, pictures)
    assert rows(across) == [(left[at], right[at]) for at in every]
    np.testing.assert_allclose(
        [pair.correlation for pair in across], np.maximum(plain, mirrored)[every], rtol=1e-5
    )
    within = duplicates.near_pairs(pictures)
    assert rows(within) == [(i, j) for i, j in rows(across) if i < j]
    assert len(within) >= 38


def test_likeness_does_not_depend_on_the_order(pieces: list[Image.Image]) -> None:
    pictures, moved = (
        thumbs([middle(piece, *step) for piece in pieces[:30]]) for step in ((0, 0), (-1, 1))
    )
    for first, second in ((pictures, moved), (pictures[:15], pictures[15:])):
        ahead, back = duplicates.likeness(first, second), duplicates.likeness(second, first)
        np.testing.assert_allclose(ahead, back, atol=1e-5)
    assert (duplicates.likeness(pictures, moved) > 0.8).all()


def test_a_lower_threshold_finds_more(naturals: list[Image.Image]) -> None:
    cut = [picture.crop((2, 2, SIZE - 2, SIZE - 2)) for picture in naturals]
    pictures = thumbs(cut), thumbs(naturals)
    found = [set(rows(duplicates.near_pairs(*pictures, least))) for least in (0.95, 0.85, 0.75)]
    assert found[0] < found[1] < found[2]


def test_the_search_ends_at_most(naturals: list[Image.Image]) -> None:
    same = np.repeat(thumbs(naturals[:1]), 60, axis=0)
    assert len(duplicates.near_pairs(same)) == 60 * 59 // 2
    assert 100 <= len(duplicates.near_pairs(same, most=100)) < 60 * 59 // 2


def test_thumbnails_are_pillows_grey() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3000, 3, 32, 32), dtype=np.uint8)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    grey = duplicates.thumbnails(images)
    assert grey.dtype == np.uint8 and grey.shape == (3000, 32, 32)
    assert (grey == np.stack([np.asarray(picture.convert("L")) for picture in pictures])).all()
    assert (grey[7] == duplicates.thumbnail(pictures[7])).all()


def test_hashes_agree_with_a_plain_implementation(naturals: list[Image.Image]) -> None:
    pictures = thumbs(naturals[:25])
    assert duplicates.hashes(pictures).tolist() == [plain_hash(one) for one in pictures]
    assert len(set(duplicates.hashes(pictures).tolist())) == 25


def plain_hash(thumb: Images) -> int:
    """One picture, one cosine wave after the other."""
    places = np.arange(32)
    waves = []
    for v, u in itertools.product(range(8), repeat=2):
        down, across = (np.cos(np.pi * k * (2 * places + 1) / 64) for k in (v, u))
        scale = (0.5 if u == 0 else np.sqrt(0.5)) * (0.5 if v == 0 else np.sqrt(0.5)) / 8
        waves.append(scale * float((np.outer(down, across) * thumb).sum()))
    # half of (1, sqrt 2): an orthonormal wave of no period is shorter by the square root of two
    middle = sorted(waves[1:])[31]
    return sum(1 << bit for bit, wave in enumerate(waves) if wave > middle)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_first_with_pixels(kinds: list[int]) -> None:
    images = np.zeros((len(kinds), 3, 32, 32), np.uint8)
    images[:, 1, 31, 30] = kinds
    first = duplicates.first_with_pixels(images)
    assert first.dtype == np.int64
    assert first.tolist() == [kinds.index(kind) for kind in kinds]


@settings(deadline=None)
@given(st.integers(1, 25), st.data())
def test_groups_are_the_union_of_their_pairs(count: int, data: st.DataObject) -> None:
    row = st.integers(0, count - 1)
    links = data.draw(st.lists(st.tuples(row, row), max_size=30))
    expected = list(range(count))
    for _, (a, b) in itertools.product(range(count), links):
        expected[a] = expected[b] = min(expected[a], expected[b])
    found = duplicates.groups(count, [Pair(a, b, 1.0) for a, b in links])
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_none_at_all() -> None:
    nothing = np.zeros((0, 32, 32), np.uint8)
    assert duplicates.near_pairs(nothing) == []
    assert duplicates.near_pairs(nothing, np.zeros((3, 32, 32), np.uint8)) == []
    assert duplicates.hashes(nothing).shape == (0,)
    assert duplicates.groups(0, []).shape == (0,)
    assert duplicates.thumbnails(np.zeros((0, 3, 32, 32), np.uint8)).shape == (0, 32, 32)


def test_the_two_known_copies_between_the_parts_of_fddbs_crops(shared_data: Path) -> None:
    config = DataConfig(dataset="fddb", data_dir=str(shared_data))
    splits, test = load(config), load_test(config)
    seen = np.concatenate([splits.train.images, splits.val.images])
    ids = np.concatenate([splits.train.ids, splits.val.ids])
    found = duplicates.near_pairs(duplicates.thumbnails(test.images), duplicates.thumbnails(seen))
    assert {(test.ids[pair.first], ids[pair.second]) for pair in found} == {
        ("test/face/Face-Image-75.jpg", "train/face/Face-Image-544.jpg"),
        ("test/nonface/Non-Face-Image-211.jpg", "train/nonface/Non-Face-Image-1998.jpg"),
    }
