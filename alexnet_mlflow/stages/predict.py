"""`predict`: what a logged model says of pictures, or where it sees faces. No run is made.

A picture is decoded by the very code that decodes for training. With `--faces` a photo stays as
large as it is, windows slide over it (detect.py), and a copy with boxes is written. Nothing is ever
written over. Folders are gone through whole; what is named by itself is tried whatever its name.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from alexnet_mlflow import detect
from alexnet_mlflow.commands import PredictConfig
from alexnet_mlflow.data import archive, picture
from alexnet_mlflow.data.decoding import Job, decode_all
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.disk import replaced
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.score import score_probabilities
from alexnet_mlflow.stages import Loaded, StageResult, loaded

FACE = "face"  # the class that --faces looks for


class File(NamedTuple):
    """A picture that was asked for."""

    path: str
    name: str  # below the folder that was given; of a file its own


def run(config: PredictConfig, paths: Sequence[str]) -> StageResult:
    """A line a picture or face; with `json` the figures hold all, with `csv` the one sentence."""
    files = [file for path in paths for file in _files(path)]
    targets = _targets(files, Path(config.out)) if config.faces else []
    device = pick_device(config.device)
    model = loaded(config.model, device)
    if config.faces:
        return _faces(config, model, device, files, targets)
    return _pictures(config, model, device, files)


def _files(path: str) -> list[File]:
    """The picture itself, or all below a folder in the order of their names."""
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise BadInput(f"{path!r} is not there: give pictures, or folders of them")
        return [File(path, os.path.basename(path))]
    found = []
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith((".", "__")))
        places = (os.path.join(folder, name) for name in sorted(filter(picture.is_picture, names)))
        found += [File(place, os.path.relpath(place, path)) for place in places]
    if not found:
        raise BadInput(f"the folder {path!r} holds no pictures ({picture.KINDS}): give another")
    return found


def _pictures(
    config: PredictConfig, model: Loaded, device: torch.device, files: Sequence[File]
) -> StageResult:
    jobs = (Job(row, file.path, partial(archive.content, file.path, picture.MAX_BYTES))
            for row, file in enumerate(files))
    images, _, rows = decode_all(jobs, len(files), config.skip_corrupt)
    _require(len(rows))
    pixels = torch.from_numpy(images).to(device)
    unknown = torch.zeros(len(rows), dtype=torch.int64, device=device)
    scores = score_probabilities(model.network, pixels, unknown)
    if scores.predictions.min() < 0:
        raise BadInput(f"the model {model.uri!r} answers what are no numbers: give another")
    told = [
        (files[row].path, model.classes[best], chances)
        for row, best, chances in zip(
            rows, scores.predictions, scores.probabilities.tolist(), strict=True
        )
    ]
    figures: dict[str, Any] = {"predictions": [
        {"path": path, "class": best, "probabilities": dict(zip(model.classes, chances,
                                                                 strict=True))}
        for path, best, chances in told
    ]}
    counts = Counter(best for _, best, _ in told)
    return _result(
        config, model, len(files) - len(rows), figures, {"pictures": len(told), "counts": counts},
        [["path", "class", *(f"p_{name}" for name in model.classes)],
         *([path, best, *chances] for path, best, chances in told)],
        [f"{best:<{max(map(len, model.classes))}}  {max(chances):8.2%}  {path}"
         for path, best, chances in told],
    )


def _faces(
    config: PredictConfig, model: Loaded, device: torch.device, files: Sequence[File],
    targets: Sequence[Path],
) -> StageResult:
    if FACE not in model.classes:
        known = ", ".join(model.classes[:20])
        raise BadInput(
            f"--faces needs a model with a class {FACE!r}, but {model.uri!r} knows {known}: give "
            "one that was trained on fddb or faces, or leave --faces out"
        )
    face = model.classes.index(FACE)
    photos, windows, seconds = list[dict[str, Any]](), 0, 0.0
    for file, target in zip(files, targets, strict=True):
        if (photo := _photo(file.path, config.skip_corrupt)) is None:
            continue
        started = time.perf_counter()
        found = detect.find(model.network, photo, face, config, device)
        seconds += time.perf_counter() - started
        windows += found.windows
        _write(detect.drawn(photo, found), target)
        faces = [{"box": [round(edge, 1) for edge in box], "probability": chance} for box, chance
                 in zip(found.boxes.tolist(), found.probabilities.tolist(), strict=True)]
        photos.append({"path": file.path, "picture": str(target), "windows": found.windows,
                       "width": photo.width, "height": photo.height, "faces": faces})
    _require(len(photos))
    speed = {"windows": windows, "seconds": round(seconds, 3),
             "windows_per_second": round(windows / seconds, 1)}
    number = sum(len(photo["faces"]) for photo in photos)
    return _result(
        config, model, len(files) - len(photos), {"photos": photos, **speed},
        {"photos": len(photos), "faces": number, **speed},
        [["path", "left", "top", "right", "bottom", "probability"],
         *([photo["path"], *face["box"], face["probability"]]
           for photo in photos for face in photo["faces"])],
        list(_lines(photos)),
    )


def _lines(photos: Sequence[dict[str, Any]]) -> Iterator[str]:
    for photo in photos:
        yield (f"{photo['path']}: {len(photo['faces'])} faces in {photo['windows']:,} windows, "
               f"drawn in {photo['picture']}")
        for face in photo["faces"]:
            left, top, right, bottom = face["box"]
            yield (f"  {face['probability']:.4f}  {right - left:.0f}x{bottom - top:.0f} pixels at "
                   f"{left:.0f}, {top:.0f}")


def _result(
    config: PredictConfig, model: Loaded, skipped: int, whole: dict[str, Any],
    short: dict[str, Any], table: Sequence[Sequence[object]], lines: Sequence[str],
) -> StageResult:
    """The same in the form that was asked for. Names of files need not be UTF-8."""
    if skipped:
        say(f"{skipped} pictures cannot be read and are left out.")
    head = {"model": model.uri, "classes": model.classes, "skipped": skipped}
    if config.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        lines = [text.getvalue().rstrip("\n")]
    said = () if config.json else tuple(line.encode("utf-8", "replace").decode() for line in lines)
    return StageResult("predict", None, "pass", said, {**head, **(whole if config.json else short)})


def _require(count: int) -> None:
    if not count:
        raise BadInput("none of the pictures can be read: give others")


def _photo(path: str, skip_corrupt: bool) -> Image.Image | None:
    """A whole photo; None where it cannot be read and may be left out."""
    try:
        return picture.decode_whole(archive.content(path, picture.MAX_BYTES))
    except Exception as error:  # Pillow's decoders raise a dozen types for broken files
        if skip_corrupt:
            return None
        raise BadInput(
            f"the photo {archive.short(path)} cannot be read ({picture.fault(error)}): repair or "
            "remove it, or give --skip-corrupt to leave out every such photo"
        ) from None


def _targets(files: Sequence[File], out: Path) -> list[Path]:
    """Where each photo is drawn; BadInput where something is there already, or two meet."""
    targets = [out / f"{os.path.splitext(file.name)[0]}-faces.png" for file in files]
    for target, number in Counter(targets).items():
        if number > 1:
            raise BadInput(
                f"{number} photos would be drawn to {str(target)!r}: give them one after the "
                "other, each with another --out"
            )
        if os.path.lexists(target):
            raise BadInput(
                f"{str(target)!r} is there already and is not written over: take it away, or give "
                "another folder with --out"
            )
    return targets


def _write(drawn: Image.Image, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target, new=True) as draft:
            drawn.save(draft, "PNG")
    except OSError as error:
        raise BadInput(
            f"{str(target)!r} cannot be written ({error.strerror or error}): give another folder "
            "with --out"
        ) from None
