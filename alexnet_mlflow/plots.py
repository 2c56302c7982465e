"""Figures from plain values: what every stage shows. No file, no run, no global state.

Figures are made without pyplot, so that nothing stays open and no display is needed. Colours are
viridis or blue and orange, which people who see no red or green can tell apart.
"""

from __future__ import annotations

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


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def augmentation(images: torch.Tensor, chosen: Draw, title: str) -> Figure:
    """Pictures before, after augmentation, and after augmentation + normalisation.

    images: (N, 3, 32, 32) uint8, one column each; chosen: their draw.
    Normalised values are shown clipped to 0..1, as the report shows them.
    """
    augmented = apply(images, chosen)
    rows = [to_pixels(images), augmented, normalise(augmented).clamp(0, 1)]
    names = ["stored", "augmented", "augmented +\nnormalised\n(clipped)"]
    figure = _figure(0.62 * len(images) + 1.2, 2.9)
    axes = figure.subplots(len(rows), 1)
    for axis, name, row in zip(axes, names, rows, strict=True):
        _show(axis, make_grid(row, nrow=len(images), padding=2, pad_value=1.0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes[0].set_title(title, fontsize=9)
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
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = [result.epoch for result in history]
    for axis, name in ((left, "loss"), (right, "accuracy")):
        for split, colour in (("train", TRAIN), ("val", VAL)):
            values = [result.figures[f"{split}_{name}"] for result in history]
            axis.plot(epochs, values, marker=".", color=colour, label=split)
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    left.axhline(np.log(classes), color="grey", linestyle=":", label=f"ln {classes}")
    best = max(history, key=lambda result: (result.val_accuracy, -result.val_loss))
    right.axvline(best.epoch, color="grey", linestyle=":", label=f"best: {best.epoch}")
    right.set_ylim(-0.02, 1.02)
    left.legend()
    right.legend(loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def search(
    coarse: Sequence[Outcome], fine: Sequence[Outcome], spaces: Sequence[Space], title: str
) -> Figure:
    """Learning rate against weight decay, both on log axes, coloured by validation accuracy.

    Diverged trials are crosses; the rectangles are the spaces that were searched.
    """
    figure = _figure(8, 4.6)
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
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="weight decay", title=title)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=3, frameon=False)
    if dots is not None:
        figure.colorbar(dots, ax=axis, label="best validation accuracy")
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Rows are the true classes, columns the predicted; (C, C) counts."""
    size = max(3.6, 0.55 * len(classes) + 2)
    figure = _figure(size + 0.6, size)
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        ink = "white" if shares[row, column] > 0.6 else "black"
        axis.text(column, row, str(matrix[row, column]), ha="center", va="center", color=ink)
    places = range(len(classes))
    axis.set_xticks(places, labels=classes, rotation=45, ha="right")
    axis.set_yticks(places, labels=classes)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    return figure


def roc_and_pr(labels: np.ndarray, positive: np.ndarray, name: str, title: str) -> Figure:
    """ROC and precision-recall of two classes; positive: (N,) probability of class `name`.

    labels: (N,) bool, whether the picture is of that class.
    """
    from sklearn import metrics

    figure = _figure(9, 4.2)
    left, right = figure.subplots(1, 2)
    false_rate, true_rate, _ = metrics.roc_curve(labels, positive)
    left.plot(false_rate, true_rate, color=TRAIN)
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    area = metrics.roc_auc_score(labels, positive)
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    left.set_title(f"ROC, area {area:.4f}")
    precision, recall, _ = metrics.precision_recall_curve(labels, positive)
    right.plot(recall, precision, color=TRAIN)
    average = metrics.average_precision_score(labels, positive)
    right.axhline(labels.mean(), color="grey", linestyle=":")
    right.set(xlabel="recall", ylabel="precision", title=f"PR, average precision {average:.4f}")
    for axis in (left, right):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    figure.suptitle(f"{title}: {name}", fontsize=10)
    return figure


def mistakes(images: np.ndarray, captions: Sequence[str], title: str, columns: int = 8) -> Figure:
    """A grid of pictures with a caption each. images: (N, 3, 32, 32) uint8, N >= 0."""
    rows = max(1, -(-len(images) // columns))
    figure = _figure(1.35 * columns, 1.55 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, picture, caption in zip(axes, images, captions, strict=False):
        axis.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(caption, fontsize=7)
    figure.suptitle(title if len(images) else f"{title}: none", fontsize=10)
    return figure


