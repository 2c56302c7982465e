"""Two small data sets that come with scikit-image and scikit-learn, so that all runs unloaded.

`faces`: lfw_subset, 100 faces and 100 pieces of background, 25x25 grey. `digits`: 1,797 digits
written by hand, 8x8 in 17 levels of grey. Both are enlarged to 32x32, in three equal channels.

Chosen: values are scaled to 0..255 and rounded first, as if the pictures had come in files.
Left out: a cache, since decoding takes less than reading it would.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_mlflow.data.cache import Source
from alexnet_mlflow.data.picture import to_pixels
from alexnet_mlflow.data.split import Decoded, Integers


def faces(root: Path) -> Source:
    """Faces and background from scikit-image; the root is not looked at."""
    return Source("faces", root, "", _faces)


def digits(root: Path) -> Source:
    """Digits from scikit-learn; the root is not looked at."""
    return Source("digits", root, "", _digits)


def _faces(skip_corrupt: bool) -> Decoded:
    from skimage import data

    fetch: Callable[[], Any] = data.lfw_subset  # from the installed package, not from the net
    grey = np.asarray(fetch(), np.float64)  # (200, 25, 25), 0..1: first all the faces
    labels = np.repeat(np.arange(2), 100)
    source = f"scikit-image {version('scikit-image')}, lfw_subset"
    return _decoded("faces", "LFW subset", ("face", "nonface"), source, grey, labels)


def _digits(skip_corrupt: bool) -> Decoded:
    from sklearn import datasets

    bunch = datasets.load_digits()
    grey = bunch.images / 16  # (1797, 8, 8), 0..16
    source = f"scikit-learn {version('scikit-learn')}, load_digits"
    return _decoded("digits", "Digits 8x8", tuple("0123456789"), source, grey, bunch.target)


def _decoded(
    name: str,
    title: str,
    classes: tuple[str, ...],
    source: str,
    grey: npt.NDArray[np.float64],  # (N, H, W), 0..1
    labels: Integers,
) -> Decoded:
    levels = np.rint(grey * 255).astype(np.uint8)
    return Decoded(
        name=name,
        title=title,
        classes=classes,
        source=source,
        images=np.stack([to_pixels(Image.fromarray(picture)) for picture in levels]),
        labels=labels.astype(np.int64),
        ids=np.array([f"{name}/{row:05d}" for row in range(len(levels))]),
        division={"undivided": (0, len(levels))},
    )
