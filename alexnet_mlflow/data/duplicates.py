"""Pictures that are the same picture: pixel for pixel, or recompressed, shifted, recoloured.

Exact copies are found by the SHA-256 of their pixels. Near-duplicates are found in three steps,
each for the few pairs that the step before left, on grey thumbnails of 32x32:

1. Perceptual hash: the 64 slowest cosine waves, each above their median or not (Zauner 2010,
   "Implementation and Benchmarking of Perceptual Image Hash Functions"; without its blur, for a
   thumbnail is smooth). Pairs that differ in HAMMING bits or fewer go on.
2. The sizes of these waves, weighted by frequency, correlate by COARSE or more.
3. `likeness`: the thumbnails correlate by LIKENESS or more in two ways at once, shifted by up to
   one pixel: without the mean of each row and column, and with each wave weighted by frequency.

Chosen: the plain correlation of the thumbnails calls any two ships under a bright sky the same.
Mirror images tell how often a measure errs, since few pictures are truly there mirrored: where it
finds a near-duplicate in train for 250 test pictures of CIFAR-10 (JPEG copy), the plain correlation
finds 99 mirrored, `likeness` 27, most of them true. Mirrored copies count, because nets are trained
on mirrored pictures. Every threshold was measured on that set, all 500,000,000 pairs, and on FDDB.

Left out: crops by 3 % or more, turns by 3 degrees or more, other poses of one scene, and flat
pictures (FLAT), of which only exact copies are told. Pictures without detail look alike by nature:
by this measure four of five test pictures of `digits`, 8x8 each, stand in train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_mlflow.data import memory
from alexnet_mlflow.data.split import SIDE, Images, Integers

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]

# Of the pairs of CIFAR-10 that LIKENESS accepts, HAMMING keeps 99 % and one in 500 of the others,
# COARSE keeps all of these (the least has 0.73) and one other in 40. With both, 250 test pictures
# have a near-duplicate in train; all pairs compared, in twenty times as long, one more has.
HAMMING = 18  # of 64 bits
COARSE = 0.7
# By eye: of the 120 test pictures of CIFAR-10 just above it, one or two have no near-duplicate; of
# the 110 just below, down to 0.78, seven in eight have one. FDDB's ready crops are more alike: four
# of their 17 pairs are wrong (edges of cloth, two men). No two of 200 FDDB photos reach 0.66.
LIKENESS = 0.85
# Grey levels, standard deviation without the means of rows and columns: codec noise has 1 or less.
FLAT = 2.0

MOST = 100_000  # pairs

WAVES = 8  # the hash sees 8 x 8 of the 32 x 32 cosine waves
BLUR = 16.0  # waves a thumbnail: faster ones are noise of the codec
GREY = (19595, 38470, 7471)  # ITU-R 601 in 1/65536, rounded as Pillow rounds
ROWS, COLUMNS = 8, 8192  # hashes compared at once: half a MiB, which stays in a core's cache
BLOCK = 2048  # pictures or pairs worked on at once


class Pair(NamedTuple):
    """Two rows that show the same picture."""

    first: int
    second: int
    correlation: float  # LIKENESS to 1
    mirrored: bool = False


def thumbnail(picture: Image.Image) -> Images:
    """An RGB or grey picture of any size -> (32, 32) uint8 grey."""
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def thumbnails(images: Images) -> Images:
    """(N, 3, 32, 32) uint8 -> (N, 32, 32) uint8 grey, as Pillow turns colours into grey."""
    grey = np.empty((len(images), *images.shape[2:]), np.uint8)
    for start in range(0, len(images), BLOCK):
        red, green, blue = images[start : start + BLOCK].astype(np.uint32).transpose(1, 0, 2, 3)
        mixed = GREY[0] * red + GREY[1] * green + GREY[2] * blue + (1 << 15)
        grey[start : start + BLOCK] = mixed >> 16
    return grey


def hashes(thumbs: Images) -> Hashes:
    """(N, 32, 32) uint8 grey -> (N,) uint64; bit 8 v + u is the wave of u, v half periods."""
    parts = [_bits(waves) for _, waves in _waves(thumbs)]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def first_with_pixels(*sets: Images) -> Integers:
    """(N, ...) uint8 each -> for every picture the first with the same pixels, by SHA-256.

    Rows go on from one set to the next: those of the second begin at the length of the first.
    """
    first: dict[bytes, int] = {}
    rows = list[int]()
    for images in sets:
        for start in range(0, len(images), BLOCK):
            for image in images[start : start + BLOCK]:
                digest = hashlib.sha256(image.tobytes()).digest()
                rows.append(first.setdefault(digest, len(rows)))
            memory.let_go(images)
    return np.array(rows, np.int64)


def near_pairs(
    first: Images, second: Images | None = None, least: float = LIKENESS, most: int = MOST
) -> list[Pair]:
    """Pairs of near-duplicates between two sets of thumbnails, by row; or within one, i < j.

    first, second: (N, 32, 32) uint8 grey; least: the `likeness` that makes a pair. Sorted by rows.
    Two thumbnails that are equal and not flat are always a pair, of correlation 1. The search ends
    once it has found `most` pairs or more, so that a set of one scene takes no hours.
    """
    found: dict[tuple[int, int], Pair] = {}
    other = first if second is None else second
    known = _signs(other)
    for mirrored in (False, True):
        thumbs = first[:, :, ::-1] if mirrored else first
        for left, right in _candidates(_signs(thumbs), known, second is None):
            like = likeness(thumbs[left], other[right])
            for row in np.flatnonzero(like >= least):
                pair = Pair(int(left[row]), int(right[row]), float(like[row]), mirrored)
                found[pair[:2]] = max(found.get(pair[:2], pair), pair, key=lambda one: one[2])
            if len(found) >= most:
                return sorted(found.values())
    return sorted(found.values())


def likeness(first: Images, second: Images) -> Floats:
    """How alike the thumbnails of two lists are, pair by pair: (N, 32, 32) uint8 -> (N,), -1 to 1.

    The smaller of two correlations, at the shift of up to one pixel where it is largest; it does
    not depend on which list comes first.
    """
    like = np.empty(len(first), np.float32)
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        left, right = _views(first[rows]), _views(second[rows])
        shifts = product((-1, 0, 1), repeat=2)
        like[rows] = np.max([_correlation(left, right, *shift) for shift in shifts], axis=0)
    return like


def groups(count: int, pairs: list[Pair]) -> Integers:
    """(count,): each row's group, which is the smallest row it is linked to by these pairs."""
    from scipy.sparse import coo_array, csgraph

    first, second = ([pair[at] for pair in pairs] for at in (0, 1))
    links = coo_array((np.ones(len(pairs), np.int8), (first, second)), shape=(count, count))
    _, group = csgraph.connected_components(links, directed=False)
    _, smallest, place = np.unique(group, return_index=True, return_inverse=True)
    return smallest[place].astype(np.int64)


class _Signs(NamedTuple):
    """What step 1 and 2 know of the pictures that are not flat."""

    rows: Integers
    hash: Hashes
    coarse: Floats  # (N, 63), of length 1


def _signs(thumbs: Images) -> _Signs:
    weight = _frequency()[:WAVES, :WAVES].ravel()[1:]
    rows, bits, coarse = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [
        np.zeros((0, len(weight)), np.float32)
    ]
    for start, waves in _waves(thumbs):
        block = thumbs[start : start + BLOCK]
        kept = np.flatnonzero(_without_means(block).std(axis=(1, 2)) >= FLAT)
        sizes = waves[kept, 1:] * weight
        rows.append(start + kept)
        bits.append(_bits(waves[kept]))
        coarse.append(sizes / np.linalg.norm(sizes, axis=1, keepdims=True))
    return _Signs(np.concatenate(rows), np.concatenate(bits), np.concatenate(coarse))


def _waves(thumbs: Images) -> Iterator[tuple[int, Floats]]:
    """Start of each block and its 64 slowest waves, (N, 64); the first is the mean."""
    from scipy import fft

    for start in range(0, len(thumbs), BLOCK):
        block = thumbs[start : start + BLOCK].astype(np.float32)
        waves = fft.dctn(block, axes=(1, 2), norm="ortho")[:, :WAVES, :WAVES]
        yield start, waves.reshape(len(waves), -1)


def _bits(waves: Floats) -> Hashes:
    """Signs about the median; the mean, which is no wave, takes no part in it."""
    signs = waves > np.median(waves[:, 1:], axis=1, keepdims=True)
    return np.packbits(signs, axis=1, bitorder="little").view("<u8").ravel().astype(np.uint64)


def _candidates(
    first: _Signs, second: _Signs, within: bool
) -> Iterator[tuple[Integers, Integers]]:
    """Rows of the pairs that pass steps 1 and 2, in blocks."""
    for start in range(0, len(first.hash), ROWS):
        block = first.hash[start : start + ROWS, None]
        for begin in range(0, len(second.hash), COLUMNS):
            if within and second.rows[begin:][:COLUMNS][-1] <= first.rows[start]:
                continue
            differ = np.bitwise_count(block ^ second.hash[begin : begin + COLUMNS])
            left, right = np.nonzero(differ <= HAMMING)
            left, right = left + start, right + begin
            like = np.einsum("nk,nk->n", first.coarse[left], second.coarse[right]) >= COARSE
            if within:
                like &= first.rows[left] < second.rows[right]
            if like.any():
                yield first.rows[left[like]], second.rows[right[like]]


def _views(thumbs: Images) -> list[Floats]:
    """The two ways in which step 3 looks at a thumbnail, (N, 32, 32) each."""
    from scipy import fft

    weight = _frequency() * np.exp(-((_frequency() / BLUR) ** 2))
    waves = fft.dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho") * weight
    return [_without_means(thumbs), fft.idctn(waves, axes=(1, 2), norm="ortho")]


def _without_means(thumbs: Images) -> Floats:
    """Without the means of rows and columns, so that a horizon is nothing to have in common."""
    grey = thumbs.astype(np.float32)
    grey -= grey.mean(axis=1, keepdims=True)
    grey -= grey.mean(axis=2, keepdims=True)
    return grey


def _frequency() -> Floats:
    """(32, 32): half periods a thumbnail of each wave. Natural pictures have waves of a size that
    falls with it (Field 1987), so that this weight makes all of them count alike."""
    return np.hypot.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.float32)


def _correlation(first: list[Floats], second: list[Floats], down: int, across: int) -> Floats:
    """The smaller correlation of the two views where the shifted pictures overlap, (N,)."""
    left = (slice(None), _overlap(down), _overlap(across))
    right = (slice(None), _overlap(-down), _overlap(-across))
    both = (_cosine(a[left], b[right]) for a, b in zip(first, second, strict=True))
    return np.minimum(*both)


def _overlap(shift: int) -> slice:
    return slice(max(shift, 0), SIDE + min(shift, 0))


def _cosine(first: Floats, second: Floats) -> Floats:
    """Of two views, which have means of zero; 0 where one has nothing in it."""
    dot, one, two = (
        np.einsum("nij,nij->n", a, b) for a, b in ((first, second), (first, first),
                                                   (second, second))
    )
    squares = one * two
    cosine: Floats = np.where(squares > 0, dot / np.sqrt(np.maximum(squares, 1e-12)), 0)
    return cosine
