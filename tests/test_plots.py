"""Every figure draws, whatever it is given: few or many classes, nothing, or no numbers."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from alexnet_mlflow import plots
from alexnet_mlflow.augment import report
from alexnet_mlflow.score import Bin
from alexnet_mlflow.space import Narrowed, Outcome, Point, Range, Space, draws
from alexnet_mlflow.train import EpochResult

SPACE = Space(Range(1e-5, 1e5), Range(1e-6, 1e-3))
FINE = Space(Range(1e-3, 1e-1), Range(1e-5, 1e-4))
AWKWARD = "$a^$ class of $1, whose_name_is_too_long_for_any_line_of_any_figure"  # no TeX


def drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels, (H, W, 3) uint8; a warning on the way is an error."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert max(pixels.shape) < 4000
    assert pixels.min() < 128 < pixels.max()
    return pixels


def inside(figure: Figure) -> None:
    """Nothing that is drawn reaches over the figure's edge."""
    drawn(figure)
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 and box.x1 <= width + 0.01
    assert -0.01 <= box.y0 and box.y1 <= height + 0.01


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def result(
    epoch: int, loss: float, accuracy: float, diverged_at_step: int | None = None
) -> EpochResult:
    return EpochResult(
        epoch=epoch, train_loss=loss, train_accuracy=accuracy, val_loss=loss,
        val_accuracy=accuracy, learning_rate=0.1, epoch_seconds=1.0, images_per_second=1.0,
        diverged_at_step=diverged_at_step, state=dict,
    )


@pytest.mark.parametrize("count", [1, 2, 12])
def test_augmentation(count: int) -> None:
    images = torch.from_numpy(pictures(count))
    augmented = report(images, torch.Generator().manual_seed(0))
    figure = plots.augmentation(images, augmented, "Pets: recipe report")
    assert len(figure.axes) == 3
    inside(figure)


HISTORIES = {
    "learns": [result(epoch, 2.3 / epoch, 1 - 1 / epoch) for epoch in range(1, 6)],
    "one epoch": [result(1, 2.3, 0.1)],
    "from epoch 4": [result(4, 2.3, 0.1), result(5, 2.0, 0.2)],
    "diverges": [result(1, 2.3, 0.1), result(2, math.nan, 0.0, 9)],
    "diverges at once": [result(1, math.inf, 0.0, 2)],
    "explodes": [result(1, 1e25, 0.1), result(2, 0.0, 0.2)],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("classes", [2, 10])
def test_curves(history: list[EpochResult], classes: int) -> None:
    figure = plots.curves(history, "Pets, sgd", classes)
    inside(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["train", "val", f"ln {classes}"]


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("learns", ["best: 5"]),
        ("diverges", ["best: 1", "diverged: 2"]),
        ("diverges at once", ["diverged: 1"]),
    ],
)
def test_the_best_epoch_is_marked_and_is_never_a_diverged_one(name: str, marks: list[str]) -> None:
    figure = plots.curves(HISTORIES[name], "Pets, sgd", 10)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["train", "val", *marks]


def test_equal_accuracies_are_decided_by_the_loss() -> None:
    history = [result(1, 0.3, 0.9), result(2, 0.2, 0.9), result(3, 0.4, 0.9)]
    figure = plots.curves(history, "Pets, sgd", 10)
    assert "best: 2" in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


def outcomes(space: Space, count: int, lost: float) -> list[Outcome]:
    """Draws of which those above the rate `lost` diverged."""
    return [
        Outcome(point, None if point.lr > lost else 0.5) for point in draws(space, count, seed=0)
    ]


@pytest.mark.parametrize(
    ("coarse", "fine", "spaces", "names"),
    [
        (outcomes(SPACE, 20, 1.0), outcomes(FINE, 10, 1.0), [SPACE, FINE],
         ["coarse", "fine", "diverged"]),
        (outcomes(SPACE, 20, 0.0), [], [SPACE], ["diverged"]),
        ([Outcome(Point(1e-2, 1e-4), 0.3)], [], [SPACE], ["coarse"]),
        (outcomes(SPACE, 5, math.inf), outcomes(FINE, 5, 0.0), [SPACE, FINE],
         ["coarse", "diverged"]),
    ],
    ids=["both", "all diverged", "one trial", "fine diverged"],
)
def test_search(
    coarse: list[Outcome], fine: list[Outcome], spaces: list[Space], names: list[str]
) -> None:
    figure = plots.search(coarse, fine, spaces, "search, Pets, sgd")
    inside(figure)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == names
    assert sum(len(dots.get_offsets()) for dots in axis.collections) == len(coarse) + len(fine)
    assert len(axis.patches) == len(spaces)
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_cut_trials_of_a_search_are_hollow() -> None:
    tried = [Outcome(Point(1e-2, 1e-4), 0.3, cut=True), Outcome(Point(1e-1, 1e-4), 0.5)]
    figure = plots.search(tried, tried[:1], [SPACE], "search, Pets, sgd")
    inside(figure)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["coarse", "coarse, cut", "fine, cut"]
    whole, cut, _ = figure.axes[0].collections
    assert len(whole.get_facecolor()) == 1 and len(cut.get_facecolor()) == 0
    assert not np.array_equal(whole.get_facecolor(), cut.get_edgecolor())  # by accuracy


NARROWED = Narrowed(FINE, "because", 0.4)
CUT = [Outcome(Point(1e-3, 1e-4), 0.2, cut=True)]


@pytest.mark.parametrize(
    ("tried", "found", "names"),
    [
        (outcomes(SPACE, 20, 1.0) + CUT, NARROWED,
         ["completed", "cut", "diverged", "fine range", "half way to the best"]),
        (outcomes(SPACE, 20, 0.0), None, ["diverged"]),
        ([Outcome(Point(1e-2, 1e-4), 0.0)], None, ["completed"]),
        (outcomes(SPACE, 200, 1.0), NARROWED,
         ["completed", "diverged", "fine range", "half way to the best"]),
        ([], None, []),
    ],
    ids=["all kinds", "all diverged", "one at nothing", "many", "none"],
)
def test_narrowing(tried: list[Outcome], found: Narrowed | None, names: list[str]) -> None:
    figure = plots.narrowing(SPACE, found, tried, "search, Pets, sgd: narrowing")
    inside(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    for axis in figure.axes:
        assert axis.get_xscale() == "log"
        assert sum(len(dots.get_offsets()) for dots in axis.collections) == len(tried)
        heights = [height for dots in axis.collections for _, height in dots.get_offsets()]
        low, high = axis.get_ylim()
        assert all(low < height < high for height in heights)
    low, high = figure.axes[0].get_xlim()
    assert low < SPACE.lr.low and SPACE.lr.high < high


def test_a_range_beyond_what_was_searched_is_shown_whole() -> None:
    wide = Narrowed(Space(Range(1e-6, 1e-1), Range(1e-6, 1e-2)), "because", 0.4)
    figure = plots.narrowing(SPACE, wide, outcomes(SPACE, 20, 1.0), "search")
    assert figure.axes[0].get_xlim()[0] < 1e-6
    assert figure.axes[1].get_xlim()[1] > 1e-2


def curve(length: int, end: float) -> list[float]:
    return [end * epoch / length for epoch in range(1, length + 1)]


@pytest.mark.parametrize(
    ("curves", "names"),
    [
        ([("completed", curve(10, 0.9)), ("pruned", curve(3, 0.4)), ("diverged", []),
          ("diverged", [0.1, 0.95])],
         ["diverged: 2", "pruned: 1", "completed: 1", "best: 90.0%, epoch 10"]),
        ([("diverged", [])] * 20, ["diverged: 20"]),
        ([("completed", [0.5])], ["completed: 1", "best: 50.0%, epoch 1"]),
        ([("pruned", curve(1, 0.6)), ("completed", curve(5, 0.5))],
         ["pruned: 1", "completed: 1", "best: 60.0%, epoch 1"]),
        ([("completed", curve(10, 0.15))] * 100, ["completed: 100", "best: 15.0%, epoch 10"]),
    ],
    ids=["all kinds", "all diverged", "one epoch", "a cut one is best", "many"],
)
def test_trial_curves(curves: list[tuple[str, list[float]]], names: list[str]) -> None:
    figure = plots.trial_curves(curves, "search, Pets, sgd")
    inside(figure)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == names


def test_trial_curves_of_no_trial() -> None:
    drawn(plots.trial_curves([], "search, Pets, sgd"))


@pytest.mark.parametrize(
    "shares", [{"lr": 0.93, "weight_decay": 0.07}, {"lr": 1.0}, {}, {AWKWARD: 0.5, "lr": 0.5}]
)
def test_importances(shares: dict[str, float]) -> None:
    figure = plots.importances(shares, "search, Pets, sgd")
    inside(figure)
    assert [bar.get_width() for bar in figure.axes[0].patches] == sorted(shares.values())


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_confusion(classes: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 300, (classes, classes))
    names = [f"class {place}" for place in range(classes)]
    figure = plots.confusion(matrix, names, "Pets, test")
    inside(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == [str(n) for n in matrix.ravel()]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names


def test_confusion_of_a_class_without_pictures() -> None:
    drawn(plots.confusion(np.array([[3, 1], [0, 0]]), ["cat", "dog"], "Pets, test"))


def test_confusion_of_very_many_classes_shows_colours_only() -> None:
    names = [f"class {place}" for place in range(500)]
    figure = plots.confusion(np.eye(500, dtype=np.int64), names, "Pets, test")
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_yticks()) <= 30
    inside(figure)


def test_roc_and_pr() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.3
    figure = plots.roc_and_pr(labels, np.where(labels, 0.9, rng.random(200)), "cat", "Pets, test")
    inside(figure)
    assert [axis.get_title().split(",")[0] for axis in figure.axes] == ["ROC", "PR"]


def test_roc_and_pr_of_a_perfect_model() -> None:
    labels = np.array([True, False, True, False])
    figure = plots.roc_and_pr(labels, labels.astype(float), "cat", "Pets, test")
    drawn(figure)
    assert [axis.get_title() for axis in figure.axes] == [
        "ROC, area 1.0000", "PR, average precision 1.0000"
    ]


@pytest.mark.parametrize(
    "bins",
    [[], [Bin(1, 1, 1.0)], [Bin(3, 0, 0.55), Bin(40, 30, 0.7), Bin(900, 890, 0.98)]],
    ids=["none", "one", "three"],
)
def test_calibration(bins: list[Bin]) -> None:
    figure = plots.calibration(bins, "FDDB, test")
    inside(figure)
    assert drawn(figure).std() > 5


@pytest.mark.parametrize("count", [0, 1, 8, 9, 24])
def test_mistakes(count: int) -> None:
    captions = [f"automobile taken for\nairplane ({row}%)" for row in range(count)]
    figure = plots.mistakes(pictures(count), captions, "Pets, test")
    inside(figure)
    assert sum(bool(axis.images) for axis in figure.axes) == count
    assert ["none"] * (count == 0) == [text.get_text() for text in figure.texts[1:]]


def test_awkward_names_are_shown_as_they_are_and_stay_inside() -> None:
    names = [AWKWARD, AWKWARD + " 2"]
    matrix, labels = np.array([[9, 1], [2, 123_456]]), np.array([True, False])
    title = f"{AWKWARD}, test, {AWKWARD}, {AWKWARD}"
    images = torch.from_numpy(pictures(1))
    figures = [
        plots.confusion(matrix, names, title),
        plots.mistakes(pictures(2), [f"{name} taken for\n{name} (99%)" for name in names], title),
        plots.roc_and_pr(labels, np.array([0.9, 0.2]), AWKWARD, title),
        plots.curves(HISTORIES["learns"], title, 2),
        plots.search(outcomes(SPACE, 5, 1.0), [], [SPACE], title),
        plots.narrowing(SPACE, NARROWED, outcomes(SPACE, 5, 1.0), title),
        plots.trial_curves([("completed", [0.5])], title),
        plots.importances({"lr": 1.0}, title),
        plots.augmentation(images, report(images, torch.Generator().manual_seed(0)), title),
    ]
    for figure in figures:
        inside(figure)


def test_captions_do_not_run_into_one_another() -> None:
    figure = plots.mistakes(pictures(8), [f"{AWKWARD} taken for\n{AWKWARD}"] * 8, "Pets, test")
    drawn(figure)
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(a.x1 <= b.x0 for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("counts", [[], [0], [1, 24, 30], [5] * 40])
def test_contact_sheet(counts: list[int]) -> None:
    rows = [(f"row {at} of {AWKWARD}", pictures(count)) for at, count in enumerate(counts)]
    inside(plots.contact_sheet(rows, AWKWARD))


def test_a_contact_sheet_shows_the_pictures_in_their_rows() -> None:
    black, white = np.zeros((24, 3, 32, 32), np.uint8), np.full((24, 3, 32, 32), 255, np.uint8)
    pixels = drawn(plots.contact_sheet([("black", black), ("white", white)], "two rows"))
    dark = (pixels.max(axis=2) < 64).mean(axis=1)
    lines = np.flatnonzero(dark > 0.5)
    assert len(lines) and lines.max() < len(pixels) * 0.7


@pytest.mark.parametrize("count", [0, 1, 24])
def test_pairs(count: int) -> None:
    captions = [f"train / test 0.9{at} mirrored\n{AWKWARD} / {AWKWARD}" for at in range(count)]
    inside(plots.pairs(pictures(count), pictures(count), captions, AWKWARD))
