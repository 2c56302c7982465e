"""Windows: where they are, that they look as in training, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from alexnet_mlflow import detect
from alexnet_mlflow.commands import PredictConfig
from alexnet_mlflow.data.picture import to_pixels

CPU = torch.device("cpu")


def config(**values: object) -> PredictConfig:
    return PredictConfig(model="models:/x@champion", faces=True, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth noise, 150x130."""
    noise = np.random.default_rng(0).integers(0, 256, (13, 15, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((150, 130), Image.Resampling.BICUBIC)


class Redness(nn.Module):
    """A picture is a face as far as it is red in the middle and blue at its border."""

    def forward(self, pixels: Tensor) -> Tensor:
        red = (pixels[:, 0] - pixels[:, 2] + 1) / 2
        middle = red[:, 8:24, 8:24].mean(dim=(1, 2))
        border = (red.sum(dim=(1, 2)) - middle * 256) / 768
        face = middle * (1 - border)
        return torch.stack([1 - face, face], dim=1)


def with_faces(*boxes: tuple[int, int, int, int]) -> Image.Image:
    photo = Image.new("RGB", (200, 160), (0, 0, 255))
    for left, top, right, bottom in boxes:
        across, down = (right - left) // 4, (bottom - top) // 4
        photo.paste((255, 0, 0), (left + across, top + down, right - across, bottom - down))
    return photo


def test_sizes_grow_from_the_smallest_to_what_the_photo_holds() -> None:
    found = detect.sizes(100, 90, config(smallest=20, scale_step=2.0, aspect=1.5))
    assert found == [(20, 30), (40, 60)]  # 80x120 is higher than the photo
    assert detect.sizes(10, 10, config(smallest=20)) == []


@pytest.mark.parametrize("size", [(32, 48), (40, 60), (64.0, 64.0), (20, 30)])
def test_a_window_looks_as_the_same_crop_did_in_training(
    photo: Image.Image, size: tuple[float, float]
) -> None:
    windows, boxes = detect.level(photo, size, 8)
    rows, columns = windows.shape[:2]
    assert windows.shape[2:] == (3, 32, 32) and boxes.shape == (rows * columns, 4)
    for place in (0, columns - 1, columns + 1, rows * columns - 1):
        box = boxes[place].tolist()
        assert box[2] - box[0] == pytest.approx(size[0])
        assert box[3] - box[1] == pytest.approx(size[1])
        assert min(box) >= 0 and box[2] <= 150 + 1e-6 and box[3] <= 130 + 1e-6
        if all(edge == round(edge) for edge in box):
            window = windows[place // columns, place % columns].numpy().astype(int)
            crop = to_pixels(photo.crop(tuple(map(int, box)))).astype(int)
            gaps = np.abs(window - crop)
            # at the border a window sees the photo go on, a crop does not
            assert gaps[:, 2:-2, 2:-2].max() <= 2 and gaps.mean() <= 2


def test_the_windows_cover_the_photo_but_for_less_than_a_stride(photo: Image.Image) -> None:
    for size in ((33.3, 50.0), (47.0, 47.0)):
        _, boxes = detect.level(photo, size, 4)
        assert boxes[:, :2].min() == 0
        missing = torch.tensor([150, 130]) - boxes[:, 2:].max(dim=0).values
        step = torch.tensor(size) / 8
        assert (missing >= -1e-6).all() and (missing < step + 2 * step / 4).all()


def test_a_batch_changes_no_probability(photo: Image.Image) -> None:
    windows, _ = detect.level(photo, (32, 48), 16)
    whole = detect.judge(Redness(), windows, 1, 10_000, CPU)
    assert len(whole) == windows.shape[0] * windows.shape[1]
    assert torch.equal(detect.judge(Redness(), windows, 1, 3, CPU), whole)
    last = Redness()(windows[-1:, -1].float() / 255)[0, 1]
    assert whole[-1] == pytest.approx(float(last), abs=1e-6)


def test_faces_are_found_where_they_are() -> None:
    truth = [(16, 16, 56, 76), (104, 40, 184, 160)]
    settings = config(smallest=40, scale_step=2.0, stride=2, threshold=0.7, overlap=0.1)
    found = detect.find(Redness(), with_faces(*truth), 1, settings, CPU)
    assert detect.matches(found.boxes, [tuple(map(float, box)) for box in truth]) in (
        [0, 1], [1, 0]
    )
    assert (found.probabilities >= 0.7).all() and found.windows > 100
    assert len(detect.find(Redness(), with_faces(), 1, settings, CPU).boxes) == 0
    nothing = detect.find(Redness(), Image.new("RGB", (9, 9)), 1, settings, CPU)
    assert nothing.windows == 0 and len(nothing.boxes) == 0


def test_of_boxes_that_overlap_the_best_stays() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 4]]).double()
    kept, values = detect.suppress(boxes, torch.tensor([0.8, 0.9, 0.7, 0.95]), 0.5)
    assert values.tolist() == pytest.approx([0.95, 0.9, 0.7])
    assert kept.tolist() == [boxes[3].tolist(), boxes[1].tolist(), boxes[2].tolist()]


def test_a_face_is_found_once_and_by_enough_of_a_box() -> None:
    truth = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    boxes = torch.tensor([
        [0, 0, 10, 9], [0, 0, 10, 10], [25, 0, 35, 10], [20, 0, 30, 5], [20, 0, 30, 10]
    ]).double()
    assert detect.matches(boxes, truth) == [0, None, None, 1, None]
    assert detect.matches(boxes, truth, least=0.51) == [0, None, None, None, 1]
    assert detect.matches(boxes, []) == [None] * 5
    assert detect.matches(boxes[:0], truth) == []


def test_boxes_are_drawn_on_a_copy(photo: Image.Image) -> None:
    before = photo.tobytes()
    box = torch.tensor([[20.0, 30.0, 80.0, 110.0]]).double()
    drawn = detect.drawn(photo, detect.Found(box, torch.tensor([0.5]), 1))
    assert photo.tobytes() == before and drawn.size == photo.size
    assert drawn.getpixel((50, 30)) == drawn.getpixel((20, 70)) == (255, 127, 14)
    assert drawn.getpixel((120, 100)) == photo.getpixel((120, 100))
