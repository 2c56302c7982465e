"""Figures from plain values: what every stage shows. No file, no run, no global state.

Figures are made without pyplot, so that nothing stays open and no display is needed. Colours are
viridis or blue and orange, which people who see no red or green can tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from alexnet_mlflow.augment import normalise, to_pixels
from alexnet_mlflow.compare import wilson
from alexnet_mlflow.score import Bin, calibration_error
from alexnet_mlflow.space import Narrowed, Outcome, Space
from alexnet_mlflow.train import EpochResult

TRAIN, VAL, LOST = "#1f77b4", "#ff7f0e", "#888888"
DPI = 110
SHEET_COLUMNS = 24
SHOWN = 24  # pairs or suspects of a data check
GAP = 2  # white pixels between the two pictures of a pair
INCHES = 1.35  # width of a picture in a grid
COUNTED_CLASSES = 30  # a confusion matrix of more shows colours only: its counts are unreadable
TRIAL_LOOKS = {  # outcome: colour, opacity, mark at the curve's end
    "diverged": (LOST, 0.8, "x"), "pruned": (TRAIN, 0.3, "o"), "completed": (TRAIN, 0.9, "."),
}
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


def augmentation(images: torch.Tensor, augmented: torch.Tensor, title: str) -> Figure:
    """Pictures before, after augmentation, and after augmentation + normalisation.

    images: (N, 3, 32, 32) uint8, one column each; augmented: the same as float32, 0..1.
    Normalised values are shown clipped to 0..1, as the report shows them.
    """
    rows = [to_pixels(images), augmented, normalise(augmented).clamp(0, 1)]
    names = ["stored", "augmented", "augmented,\nnormalised,\nclipped"]
    figure = _figure(max(4.0, 0.62 * len(images) + 1.2), 2.6, title)
    axes = figure.subplots(len(rows), 1)
    for axis, name, row in zip(axes, names, rows, strict=True):
        _show(axis, _grid(row, len(images), 2, 1.0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _grid(pictures: torch.Tensor, columns: int, padding: int, value: float) -> torch.Tensor:
    """One picture of these (N, 3, H, W), with frames of this value."""
    from torchvision.utils import make_grid  # two seconds of imports, with torch's compiler

    grid: torch.Tensor = make_grid(pictures, nrow=columns, padding=padding, pad_value=value)
    return grid


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

    Cut trials are hollow, diverged ones crosses; the rectangles are the spaces that were searched.
    """
    figure = _figure(8, 4.8, title)
    axis = figure.subplots()
    found = [item.val_accuracy for item in (*coarse, *fine) if item.val_accuracy is not None]
    shades = ScalarMappable(Normalize(min(found, default=0.0), max(found, default=1.0)))
    for outcomes, marker, phase in ((coarse, "o", "coarse"), (fine, "D", "fine")):
        for cut, name in ((False, phase), (True, f"{phase}, cut")):
            kept = [item for item in outcomes if item.val_accuracy is not None and item.cut == cut]
            if not kept:
                continue
            colours = shades.to_rgba(np.array([item.val_accuracy for item in kept]))
            dots = axis.scatter(
                [item.point.lr for item in kept], [item.point.weight_decay for item in kept],
                s=40, marker=marker, label=name, linewidths=1.3 if cut else 0.5,
            )
            dots.set_facecolor("none" if cut else [*map(tuple, colours)])
            dots.set_edgecolor([*map(tuple, colours)] if cut else "black")
    lost = [item.point for item in (*coarse, *fine) if item.val_accuracy is None]
    if lost:
        axis.scatter([point.lr for point in lost], [point.weight_decay for point in lost],
                     marker="x", color=LOST, s=36, label="diverged")
    for space in spaces:
        lr, decay = space.lr, space.weight_decay
        corner, width, height = (lr.low, decay.low), lr.high - lr.low, decay.high - decay.low
        axis.add_patch(Rectangle(corner, width, height, fill=False, linestyle="--", color="grey"))
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="weight decay")
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=5, frameon=False, fontsize=9)
    if found:
        figure.colorbar(shades, ax=axis, label="best validation accuracy")
    return figure


def narrowing(
    space: Space, narrowed: Narrowed | None, outcomes: Sequence[Outcome], title: str
) -> Figure:
    """The evidence for the fine range: accuracy over each rate, the bar, the range shaded.

    narrowed: None where no trial did better than chance; space: what was searched.
    Cut trials are hollow; diverged ones are crosses at the foot, since they have no accuracy. Over
    weight decay the trials outside the fine range of lr are faint: they say nothing there.
    """
    figure = _figure(9, 4.0, title)
    left, right = figure.subplots(1, 2, sharey=True)
    best = max((item.val_accuracy or 0.0 for item in outcomes), default=0.0)
    top = min(1.04, 1.25 * best) if best else 1.04
    lr = narrowed.space.lr if narrowed is not None else space.lr
    aside = [item for item in outcomes if not lr.low <= item.point.lr <= lr.high]
    beside = [item for item in outcomes if lr.low <= item.point.lr <= lr.high]
    for axis, rate, name in (
        (left, "lr", "learning rate"), (right, "weight_decay", "weight decay"),
    ):
        if axis is left:
            _mark_outcomes(axis, outcomes, rate, top)
        else:
            _mark_outcomes(axis, beside, rate, top)
            _mark_outcomes(axis, aside, rate, top, alpha=0.25)
        searched = getattr(space, rate)
        ends = [searched.low, searched.high]
        if narrowed is not None:
            fine = getattr(narrowed.space, rate)
            axis.axvspan(fine.low, fine.high, color=TRAIN, alpha=0.12, label="fine range")
            axis.axhline(narrowed.bar, color="grey", linestyle="--", label="half way to the best")
            ends += [fine.low, fine.high]
        for end in (searched.low, searched.high):
            axis.axvline(end, color="grey", linestyle=":", linewidth=1)
        axis.set(xscale="log", xlabel=name, xlim=(min(ends) / 1.6, max(ends) * 1.6))
        axis.set_ylim(-0.08 * top, top)
        axis.grid(alpha=0.3)
    left.set_ylabel("best validation accuracy")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _mark_outcomes(
    axis: Axes, outcomes: Sequence[Outcome], rate: str, top: float, alpha: float = 1.0
) -> None:
    """Accuracy over one rate: dots, hollow where a trial was cut, crosses where it diverged.

    top: the upper end of the accuracy's axis; the crosses stand just below 0.
    """
    for cut, name in ((False, "completed"), (True, "cut")):
        kept = [item for item in outcomes if item.val_accuracy is not None and item.cut == cut]
        if kept:
            axis.scatter(
                [getattr(item.point, rate) for item in kept],
                np.array([item.val_accuracy for item in kept], dtype=np.float64),
                s=30, label=name, zorder=3, alpha=alpha, edgecolors=TRAIN,
                facecolors="white" if cut else TRAIN,
            )
    lost = [getattr(item.point, rate) for item in outcomes if item.val_accuracy is None]
    if lost:
        foot = [-0.04 * top] * len(lost)
        axis.scatter(lost, foot, marker="x", color=LOST, s=30, alpha=alpha, label="diverged")


def trial_curves(curves: Sequence[tuple[str, Sequence[float]]], title: str) -> Figure:
    """Validation accuracy of every trial over its epochs; cut ones faded, the best highlighted.

    curves: (outcome, accuracy of epochs 1, 2, ...) a trial; the outcome is completed, pruned or
    diverged. A diverged trial can be empty, and is never the best.
    """
    figure = _figure(8, 4.4, title)
    axis = figure.subplots()
    sound = [values for outcome, values in curves if outcome != "diverged" and len(values)]
    best = max(sound, key=max, default=None)
    for outcome, (colour, alpha, mark) in TRIAL_LOOKS.items():
        kept = [values for name, values in curves if name == outcome]
        for values in kept:
            if values is not best:
                axis.plot(range(1, len(values) + 1), values, color=colour, alpha=alpha, linewidth=1)
            end = (len(values), values[-1]) if len(values) else (1, 0.0)
            axis.plot(*end, color=colour, alpha=alpha, marker=mark, markersize=5)
        if kept:
            label = f"{outcome}: {len(kept)}"
            axis.plot([], [], color=colour, alpha=alpha, marker=mark, label=label)
    if best is not None:
        at = int(np.argmax(best))
        axis.plot(range(1, len(best) + 1), best, color=VAL, linewidth=2.2, zorder=4)
        axis.plot(at + 1, best[at], color=VAL, marker="*", markersize=13, zorder=5,
                  label=f"best: {best[at]:.1%}, epoch {at + 1}")
    longest = max((len(values) for _, values in curves), default=1)
    top = min(1.03, 1.25 * max(best)) if best is not None and max(best) > 0 else 1.03
    axis.set(xlabel="epoch", ylabel="validation accuracy", ylim=(-0.03 * top, top))
    axis.set_xlim(0.5, max(longest, 1) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
    if curves:
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), ncols=4, frameon=False, fontsize=9)
    return figure


def importances(shares: Mapping[str, float], title: str) -> Figure:
    """How much of the spread of the accuracies each parameter explains, a fraction, as bars."""
    figure = _figure(7, 1.3 + 0.42 * max(1, len(shares)), title)
    axis = figure.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    axis.barh([_lines(name, 30) for name in names], [shares[name] for name in names], color=TRAIN)
    for row, name in enumerate(names):
        axis.text(shares[name] + 0.01, row, f"{shares[name]:.0%}", va="center", fontsize=9)
    if not shares:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        axis.set_yticks([])
    axis.set(xlim=(0, 1.1), xlabel="share of the spread in validation accuracy")
    axis.set_xticks(np.linspace(0, 1, 6))
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


def calibration(bins: Sequence[Bin], title: str) -> Figure:
    """Accuracy over confidence with Wilson's interval, and how many pictures each bin has."""
    error = calibration_error(bins)
    figure = _figure(5.2, 4.6, f"{title}: calibration error {error:.2%}")
    top, foot = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    confidence = [one.confidence for one in bins]
    shares = [one.correct / one.n for one in bins]
    ends = [wilson(one.correct, one.n) for one in bins]
    reach = [[share - low for share, (low, _) in zip(shares, ends, strict=True)],
             [high - share for share, (_, high) in zip(shares, ends, strict=True)]]
    top.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as sure as right")
    top.errorbar(confidence, shares, yerr=np.abs(reach), color=TRAIN, marker="o", capsize=3)
    top.set(ylabel="accuracy", xlim=(0, 1.02), ylim=(-0.02, 1.04))
    top.legend(loc="upper left", frameon=False)
    foot.bar(confidence, [one.n for one in bins], width=0.04, color=TRAIN)
    foot.set(xlabel="confidence (probability of the predicted class)", ylabel="pictures")
    for axis in (top, foot):
        axis.grid(alpha=0.3)
    return figure


def mistakes(images: np.ndarray, captions: Sequence[str], title: str, columns: int = 8) -> Figure:
    """A grid of pictures with a caption each. images: (N, 3, 32, width) uint8, N >= 0."""
    columns = min(columns, max(3, len(images)))  # wide enough for the title
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
        _show(axis, _grid(torch.from_numpy(strip), columns, 1, 255))
        axis.set_ylabel(_lines(label, 26), rotation=0, ha="right", va="center", fontsize=7)
    return figure
