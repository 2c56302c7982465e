"""How well and how fast a classifier finds faces in FDDB's photos, by windows.

    python benchmarks/bench_faces.py --model models:/alexnet-fddb@champion \\
        --photos originalPics.tar.gz --lists FDDB-folds.tgz --fold 8 --fold 9

A table, then one JSON line: for each threshold and overlap the faces found (intersection over union
of a box and the upright box of an annotated ellipse, cut at the photo's edge, at least 0.5; each
face by one box) and the boxes a photo that find none. Every annotated face counts, however small.
Windows are judged once for all thresholds; the seconds are those of resizing and judging.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_mlflow import detect
from alexnet_mlflow.commands import PredictConfig
from alexnet_mlflow.data import archive, ellipses
from alexnet_mlflow.data.ellipses import Box, Photo
from alexnet_mlflow.data.picture import MAX_BYTES, decode_whole
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.stages import loaded
from benchmarks.record import told

THRESHOLDS = (0.5, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997, 0.9999)
OVERLAPS = (0.1, 0.2, 0.3)


class Judged(NamedTuple):
    """A photo's windows from the lowest threshold on, and its faces."""

    name: str
    boxes: Tensor
    probabilities: Tensor
    truth: list[Box]
    windows: int


def photos_of(path: Path, lists: Path, folds: tuple[int, ...]) -> Iterator[tuple[Photo, bytes]]:
    """The photos of these folds that are there, in the archive's order."""
    wanted = {photo.name: photo for photo in ellipses.read(lists).photos if photo.fold in folds}
    name_of = lambda member: "/".join(member.removesuffix(".jpg").split("/")[-5:])  # noqa: E731
    for member, raw in archive.members(path, lambda name: name_of(name) in wanted, MAX_BYTES):
        yield wanted[name_of(member)], raw


def shown(face: ellipses.Ellipse, width: int, height: int) -> Box:
    left, top, right, bottom = face.box
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def row_of(judged: list[Judged], threshold: float, overlap: float) -> dict[str, Any]:
    found = boxes = 0
    for photo in judged:
        kept = photo.probabilities >= threshold
        best, _ = detect.suppress(photo.boxes[kept], photo.probabilities[kept], overlap)
        found += sum(match is not None for match in detect.matches(best, photo.truth))
        boxes += len(best)
    faces = sum(len(photo.truth) for photo in judged)
    return {"threshold": threshold, "overlap": overlap, "found": found, "faces": faces,
            "recall": round(found / faces, 4), "boxes": boxes,
            "false_boxes_per_photo": round((boxes - found) / len(judged), 2)}


@click.command()
@click.option("--model", required=True, help="URI of a logged model with a class `face`.")
@click.option("--photos", required=True, help="originalPics.tar.gz or its folder.")
@click.option("--lists", required=True, help="FDDB-folds.tgz or its folder.")
@click.option("--fold", "folds", multiple=True, type=click.IntRange(1, 10), required=True)
@click.option("--smallest", type=int)
@click.option("--aspect", type=float)
@click.option("--scale-step", type=float)
@click.option("--stride", type=int)
@click.option("--device", default="cpu", show_default=True)
def main(
    model: str, photos: str, lists: str, folds: tuple[int, ...], device: str, **given: Any
) -> None:
    """Measure and print a table and one JSON line."""
    settings = {name: value for name, value in given.items() if value is not None}
    config = PredictConfig(model=model, faces=True, **settings)
    place = pick_device(device)
    served = loaded(model, place)
    face = served.classes.index("face")
    judged, seconds = list[Judged](), 0.0
    for photo, raw in photos_of(Path(photos), Path(lists), folds):
        picture = decode_whole(raw)
        started = time.perf_counter()
        levels = list(detect.levels(served.network, picture, face, config, place))
        seconds += time.perf_counter() - started
        boxes, values = (torch.cat(parts) for parts in zip(*levels, strict=True))
        kept = values >= min(THRESHOLDS)
        truth = [shown(ellipse, *picture.size) for ellipse in photo.faces]
        judged.append(Judged(photo.name, boxes[kept], values[kept], truth, len(values)))
    rows = [row_of(judged, threshold, overlap) for threshold in THRESHOLDS for overlap in OVERLAPS]
    for row in rows:
        click.echo(f"threshold {row['threshold']:<7} overlap {row['overlap']}  "
                   f"{row['found']:>3} of {row['faces']} faces ({row['recall']:.1%}), "
                   f"{row['false_boxes_per_photo']:6.2f} false boxes a photo")
    windows = sum(photo.windows for photo in judged)
    told(
        ratios={}, device=device, folds=folds, photos=len(judged), smallest=config.smallest,
        aspect=config.aspect, scale_step=config.scale_step, stride=config.stride, windows=windows,
        seconds=round(seconds, 2), windows_per_second=round(windows / seconds, 1), runs=rows,
        names=[photo.name for photo in judged],
    )


if __name__ == "__main__":
    main()
