"""Figures from plain values: what every stage shows. No file, no run, no global state.

Figures are made without pyplot, so that nothing stays open and no display is needed. Colours are
viridis or blue and orange, which people who see no red or green can tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torchvision.utils import make_grid

from alexnet_mlflow.augment import Draw, apply, normalise, to_pixels
from alexnet_mlflow.space import Outcome, Space
from alexnet_mlflow.train import EpochResult

TRAIN, VAL = "#1f77b4", "#ff7f0e"
DPI = 110
SHEET_COLUMNS = 24
SHOWN = 24  # pairs or suspects of a data check
GAP = 2  # white pixels between the two pictures of a pair
INCHES = 1.35  # width of a picture in a grid
COUNTED_CLASSES = 30  # a confusion matrix of more shows colours only: its counts are unreadable
EXPLODED = 10.0  # a loss of more than this many times ln C needs a logarithmic axis


def _figure(width: float, height: float, title: str) -> Figure:
    """An empty figure (inches) with a title as broad as it is."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(_lines(title, int(13 * width)), fontsize=10)
    return figure


def _lines(text: str, width: int, most: int = 2) -> str:
    """Text in lines of at most `width` characters, cut after `most`; a `$` is no mathematics."""
    text = text.encode("utf-8", "replace").decode()  # names of files need not be UTF-8
    wrapped = textwrap.wrap(text, width, max_lines=most, placeholder=" ...")
    return "\n".join(wrapped).replace("$", r"\$")


def augmentation(images: torch.Tensor, chosen: Draw, title: str) -> Figure:
    """Pictures before, after augmentation, and after augmentation + normalisation.

    images: (N, 3, 32, 32) uint8, one column each; chosen: their draw.
    Normalised values are shown clipped to 0..1, as the report shows them.
    """
    augmented = apply(images, chosen)
    rows = [to_pixels(images), augmented, normalise(augmented).clamp(0, 1)]
    names = ["stored", "augmented", "augmented,\nnormalised,\nclipped"]
    figure = _figure(max(4.0, 0.62 * len(images) + 1.2), 2.6, title)
    axes = figure.subplots(len(rows), 1)
    for axis, name, row in zip(axes, names, rows, strict=True):
        _show(axis, make_grid(row, nrow=len(images), padding=2, pad_value=1.0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _show(axis: Axes, picture: torch.Tensor) -> None:
    axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def curves(history: Sequence[EpochResult], title: str, classes: int) -> Figure:
    """Loss and accuracy over epochs, training and validation, the best epoch marked.

    history: every epoch's result, in order.
    """
    figure = _figure(9, 3.6, title)
    left, right = figure.subplots(1, 2)
    epochs = [result.epoch for result in history]
    for axis, name in ((left, "loss"), (right, "accuracy")):
        for split, colour in (("train", TRAIN), ("val", VAL)):
            values = [result.figures[f"{split}_{name}"] for result in history]
            axis.plot(epochs, values, marker=".", color=colour, label=split)
        axis.set(xlabel="epoch", ylabel=name, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    left.axhline(np.log(classes), color="grey", linestyle=":", label=f"ln {classes}")
    losses = np.array([(result.train_loss, result.val_loss) for result in history])
    if losses[np.isfinite(losses)].max(initial=0.0) > EXPLODED * np.log(classes):
        left.set_yscale("symlog", linthresh=1.0)
        left.set_ylim(bottom=0.0)
        left.yaxis.get_major_locator().set_params(numticks=7)
    _mark_epochs(right, history)
    right.set_ylim(-0.02, 1.02)
    left.legend()
    right.legend()
    return figure


def _mark_epochs(axis: Axes, history: Sequence[EpochResult]) -> None:
    """The best epoch on validation, which is never a diverged one, and where it diverged."""
    sound = [result for result in history if not result.diverged]
    if sound:
        best = max(sound, key=lambda result: (result.val_accuracy, -result.val_loss))
        axis.axvline(best.epoch, color="grey", linestyle=":", label=f"best: {best.epoch}")
    if len(sound) < len(history):
        end = history[-1].epoch
        axis.axvline(end, color="black", linestyle="--", label=f"diverged: {end}")


def search(
    coarse: Sequence[Outcome], fine: Sequence[Outcome], spaces: Sequence[Space], title: str
) -> Figure:
    """Learning rate against weight decay, both on log axes, coloured by validation accuracy.

    Diverged trials are crosses; the rectangles are the spaces that were searched.
    """
    figure = _figure(8, 4.6, title)
    axis = figure.subplots()
    trials = [(item.point, item.val_accuracy) for item in (*coarse, *fine)]
    found = [accuracy for _, accuracy in trials if accuracy is not None]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    dots = None
    for outcomes, marker, name in ((coarse, "o", "coarse"), (fine, "D", "fine")):
        kept = [(item.point, item.val_accuracy) for item in outcomes]
        shades = [accuracy for _, accuracy in kept if accuracy is not None]
        places = [point for point, accuracy in kept if accuracy is not None]
        if places:
            dots = axis.scatter(
                [point.lr for point in places], [point.weight_decay for point in places],
                c=shades, vmin=low, vmax=high,
                marker=marker, s=48, edgecolors="black", linewidths=0.5, label=name,
            )
    lost = [point for point, accuracy in trials if accuracy is None]
    if lost:
        axis.scatter([point.lr for point in lost], [point.weight_decay for point in lost],
                     marker="x", color="#888888", s=36, label="diverged")
    for space in spaces:
        lr, decay = space.lr, space.weight_decay
        corner, width, height = (lr.low, decay.low), lr.high - lr.low, decay.high - decay.low
        axis.add_patch(Rectangle(corner, width, height, fill=False, linestyle="--", color="grey"))
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="weight decay")
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=3, frameon=False)
    if dots is not None:
        figure.colorbar(dots, ax=axis, label="best validation accuracy")
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Rows are the true classes, columns the predicted; (C, C) counts."""
    size = min(max(3.6, 0.55 * len(classes) + 2), 0.55 * COUNTED_CLASSES + 2)
    figure = _figure(size + 1.0, size, title)
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    every = -(-len(classes) // COUNTED_CLASSES)
    if every == 1:
        _write_counts(axis, matrix, shares)
    places = range(0, len(classes), every)
    names = [_lines(classes[place], 20) for place in places]
    axis.set_xticks(places, labels=names, rotation=45, ha="right")
    axis.set_yticks(places, labels=names)
    axis.set(xlabel="predicted", ylabel="true")
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    return figure


def _write_counts(axis: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    """The number of pictures in each cell, smaller where one has many digits."""
    size = 10 if matrix.max(initial=0) < 10_000 else 7
    for row, column in np.ndindex(*matrix.shape):
        ink, count = "white" if shares[row, column] > 0.6 else "black", str(matrix[row, column])
        axis.text(column, row, count, ha="center", va="center", color=ink, fontsize=size)


def roc_and_pr(labels: np.ndarray, positive: np.ndarray, name: str, title: str) -> Figure:
    """ROC and precision-recall of two classes; positive: (N,) probability of class `name`.

    labels: (N,) bool, whether the picture is of that class.
    """
    from sklearn import metrics

    figure = _figure(9, 4.2, f"{title}: {name}")
    left, right = figure.subplots(1, 2)
    false_rate, true_rate, _ = metrics.roc_curve(labels, positive)
    left.plot(false_rate, true_rate, color=TRAIN)
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    area = metrics.roc_auc_score(labels, positive)
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    left.set_title(f"ROC, area {area:.4f}")
    precision, recall, _ = metrics.precision_recall_curve(labels, positive)
    right.plot(recall, precision, color=TRAIN, drawstyle="steps-post")
    average = metrics.average_precision_score(labels, positive)
    right.axhline(labels.mean(), color="grey", linestyle=":")
    right.set(xlabel="recall", ylabel="precision", title=f"PR, average precision {average:.4f}")
    for axis in (left, right):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    return figure


def mistakes(images: np.ndarray, captions: Sequence[str], title: str, columns: int = 8) -> Figure:
    """A grid of pictures with a caption each. images: (N, 3, 32, width) uint8, N >= 0."""
    breadth = images.shape[3] / images.shape[2]
    texts = ["\n".join(_lines(line, int(21 * breadth)) for line in text.splitlines())
             for text in captions]
    lines = max((text.count("\n") + 1 for text in texts), default=0)
    rows = max(1, -(-len(images) // columns))
    figure = _figure(INCHES * breadth * columns, (1.3 + 0.12 * lines) * rows + 0.4, title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, picture, text in zip(axes, images, texts, strict=False):
        axis.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(text, fontsize=7)
    if not len(images):
        figure.text(0.5, 0.5, "none", ha="center", va="center")
    return figure


def pairs(
    left: np.ndarray, right: np.ndarray, captions: Sequence[str], title: str, columns: int = 4
) -> Figure:
    """A grid of pairs of pictures with a caption each. left, right: (N, 3, 32, 32) uint8."""
    gap = np.full((*left.shape[:3], GAP), 255, np.uint8)
    return mistakes(np.concatenate([left, gap, right], axis=3), captions, title, columns)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]], title: str, columns: int = SHEET_COLUMNS
) -> Figure:
    """Labelled rows of pictures, (N, 3, 32, 32) uint8 each; what is over `columns` is not shown."""
    figure = _figure(0.42 * columns + 2.2, 0.47 * max(1, len(rows)) + 0.5, title)
    axes = figure.subplots(max(1, len(rows)), 1, squeeze=False).ravel()
    for axis, (label, images) in zip(axes, rows, strict=False):
        strip = np.full((columns, 3, 32, 32), 255, np.uint8)
        strip[: len(images)] = images[:columns]
        _show(axis, make_grid(torch.from_numpy(strip), nrow=columns, padding=1, pad_value=255))
        axis.set_ylabel(_lines(label, 26), rotation=0, ha="right", va="center", fontsize=7)
    return figure
