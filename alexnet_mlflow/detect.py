"""Windows over a photo, at many sizes -> boxes around what a classifier takes for a face.

Every window is judged as a picture of its own. A level is the photo brought to the size at which
windows of one size have 32x32 pixels there, smoothed as training's pictures were (`data/picture`).
A window is `aspect` times as high as it is wide: FDDB's ready crops are the boxes of its ellipses,
stretched to squares (docs/experiments.md); square patches want an aspect of 1. Boxes are left, top,
right, bottom in pixels of the photo.

Left out: convolutions that windows share, a detector's own training, boxes that are moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from alexnet_mlflow.augment import to_pixels
from alexnet_mlflow.commands import PredictConfig
from alexnet_mlflow.data.ellipses import Box
from alexnet_mlflow.data.split import SIDE

COLOUR = "#ff7f0e"


class Found(NamedTuple):
    """What was found in a photo, the best first."""

    boxes: Tensor  # (N, 4) float64
    probabilities: Tensor  # (N,) float32
    windows: int  # that were judged


def sizes(width: int, height: int, config: PredictConfig) -> list[tuple[float, float]]:
    """Width and height of the windows of each level, from the smallest to what the photo holds."""
    found, side = [], float(config.smallest)
    while side <= width and side * config.aspect <= height:
        found.append((side, side * config.aspect))
        side *= config.scale_step
    return found


def level(photo: Image.Image, size: tuple[float, float], stride: int) -> tuple[Tensor, Tensor]:
    """All windows of one size in an RGB photo: (rows, columns, 3, 32, 32) uint8 and their boxes.

    size: width and height in pixels of the photo; stride: in 32nds of it. The boxes are
    (rows * columns, 4) float64. The windows are views of one small photo, not copies.
    """
    across, down = (side / SIDE for side in size)
    shape = int(photo.width / across + 1e-6), int(photo.height / down + 1e-6)
    covered = min(shape[0] * across, photo.width), min(shape[1] * down, photo.height)
    small = photo.resize(shape, Image.Resampling.BILINEAR, (0, 0, *covered))
    pixels = torch.from_numpy(np.array(small).transpose(2, 0, 1))
    windows = pixels.unfold(1, SIDE, stride).unfold(2, SIDE, stride).permute(1, 2, 0, 3, 4)
    y, x = torch.meshgrid(*(torch.arange(count) for count in windows.shape[:2]), indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
    scale = torch.tensor([across, down], dtype=torch.float64)
    return windows, torch.cat([corner * scale, (corner + SIDE) * scale], dim=1)


@torch.inference_mode()
def judge(
    model: nn.Module, windows: Tensor, face: int, batch: int, device: torch.device
) -> Tensor:
    """(rows * columns,) float32: the probability of class `face` of each window.

    model: takes (N, 3, 32, 32) float32, 0..1, and answers (N, C) probabilities, on this device.
    """
    columns = windows.shape[1]
    places = torch.arange(windows.shape[0] * columns).split(batch)
    parts = (to_pixels(windows[at // columns, at % columns].to(device)) for at in places)
    return torch.cat([model(part)[:, face].float().cpu() for part in parts])


def levels(
    model: nn.Module, photo: Image.Image, face: int, config: PredictConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Boxes and probabilities of all windows of an RGB photo, size by size."""
    for size in sizes(*photo.size, config):
        windows, boxes = level(photo, size, config.stride)
        yield boxes, judge(model, windows, face, config.batch_size, device)


def find(
    model: nn.Module, photo: Image.Image, face: int, config: PredictConfig, device: torch.device
) -> Found:
    """The windows from the threshold on, of those that overlap only the best."""
    boxes, probabilities, windows = [torch.zeros(0, 4).double()], [torch.zeros(0)], 0
    for places, values in levels(model, photo, face, config, device):
        kept = values >= config.threshold
        boxes.append(places[kept])
        probabilities.append(values[kept])
        windows += len(values)
    return Found(*suppress(torch.cat(boxes), torch.cat(probabilities), config.overlap), windows)


def suppress(boxes: Tensor, probabilities: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """Without those whose intersection over union with a better one is above `overlap`; best first.
    """
    from torchvision.ops import nms  # two seconds of imports

    kept = nms(boxes, probabilities.double(), overlap)
    return boxes[kept], probabilities[kept]


def matches(boxes: Tensor, truth: list[Box], least: float = 0.5) -> list[int | None]:
    """For each box, best first, the true one that it finds: each is found once, others by nobody.

    least: intersection over union from which on a true box is found.
    """
    from torchvision.ops import box_iou

    free, found = set(range(len(truth))), list[int | None]()
    shares = box_iou(boxes, torch.tensor(truth, dtype=torch.float64).reshape(-1, 4))
    for row in shares:
        best = max(free, key=lambda at: float(row[at]), default=None)
        hit = best is not None and float(row[best]) >= least
        found.append(best if hit else None)
        free -= {best} if hit and best is not None else set()
    return found


def drawn(photo: Image.Image, found: Found) -> Image.Image:
    """A copy of the photo with the boxes and their probabilities."""
    copy = photo.copy()
    pen, breadth = ImageDraw.Draw(copy), max(2, min(photo.size) // 200)
    for box, probability in zip(found.boxes.tolist(), found.probabilities.tolist(), strict=True):
        pen.rectangle(tuple(box), outline=COLOUR, width=breadth)
        pen.text((box[0] + breadth + 1, box[1] + breadth), f"{probability:.4f}", fill=COLOUR)
    return copy
