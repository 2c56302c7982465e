"""`data get`: bring a data set here and say what it is.

CIFAR-10 comes from its mirrors; FDDB's patches are cut out of the photos and ellipse lists that the
user brings. No run is made: what the data set is goes into every run that uses it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_mlflow import plots
from alexnet_mlflow.commands import GetConfig
from alexnet_mlflow.config import DataConfig, data_root, may_download
from alexnet_mlflow.data import check, ellipses, fddb, get_cifar10, load, manifest, patches
from alexnet_mlflow.data.split import Missing
from alexnet_mlflow.disk import replaced
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.stages import StageResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHOTOS = ("originalPics.tar.gz", "originalPics", "2002")
FOLDS = ("FDDB-folds.tgz", "FDDB-folds")
SHEET = "contact_sheet.png"


def run(config: GetConfig) -> StageResult:
    """The data set, verified, under the data folder."""
    root = Path(os.path.abspath(os.path.expanduser(data_root(config.data_dir))))
    return _cifar10(config, root) if config.dataset == "cifar10" else _fddb(config, root)


def _cifar10(config: GetConfig, root: Path) -> StageResult:
    wanted = DataConfig(dataset="cifar10", data_dir=str(root), offline=True)
    try:
        check(wanted)
    except Missing:
        if not may_download(config.offline):
            raise
        for name, url in get_cifar10(root).items():
            say(f"{name}: {url}")
    data = load(wanted)
    pictures = sum(sum(counts.values()) for counts in data.counts.values())
    sentence = f"{data.title}: {pictures:,} pictures, from {data.source}."
    official = data.title == "CIFAR-10"
    return StageResult(
        "data get", None, "pass" if official else "warn", (sentence,),
        {"dataset": data.title, "source": data.source, "data_digest": data.digest},
    )


def _fddb(config: GetConfig, root: Path) -> StageResult:
    photos = _given(config.photos, root, PHOTOS, "--photos")
    lists = ellipses.read(_given(config.folds, root, FOLDS, "--folds"))
    built = patches.build(
        photos, lists, config.seed, config.rotate, config.hard, config.allow_missing
    )
    place = fddb.patches_folder(root, config.hard)
    sheet = place / SHEET
    try:
        patches.write(built, place)
        with replaced(sheet) as draft:
            _sheet(built, config.hard).savefig(draft)
    except OSError as error:
        raise BadInput(
            f"the patches cannot be written to {str(place)!r} ({error.strerror or error}): give "
            "another folder with --data-dir"
        ) from None
    name = "fddb-hard" if config.hard else "fddb"
    sentences = (*built.sentences, f"Look at {sheet}; train with --dataset={name}.")
    dropped = {rule: len(cuts) for rule, cuts in built.dropped.items() if cuts}
    return StageResult(
        "data get", None, "pass", sentences,
        {"dataset": name, "patches": len(built.rows), "data_digest": built.identity,
         "dropped": dropped, "contact_sheet": str(sheet)},
    )


def _given(path: str, root: Path, names: tuple[str, ...], option: str) -> Path:
    """The archive or folder that was named, or found under one of its usual names."""
    places = [root, root / fddb.NAME]
    candidates = [Path(os.path.expanduser(path))] if path else [
        place / name for place in places for name in names
    ]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    raise BadInput(
        f"{str(candidates[-1] if path else names[0])!r} is not "
        f"{'there' if path else f'in {str(places[1])!r}'}: bring FDDB's archive and give its path "
        f"with {option}"
    )


def _sheet(built: patches.Built, hard: bool) -> Figure:
    """Faces with their backgrounds below them, fold by fold; then what was dropped, by rule."""
    rows = list[tuple[str, np.ndarray]]()
    for fold in sorted({row.fold for row in built.rows}):
        for label in manifest.CLASSES:
            chosen = [at for at, row in enumerate(built.rows)
                      if (row.fold, row.label) == (fold, label)]
            chosen.sort(key=lambda at: built.rows[at].photo)
            rows.append((f"fold {fold}: {label} ({len(chosen)})", built.pixels[chosen]))
    for rule, cuts in built.dropped.items():
        shown = [built.crops[cut] for cut in cuts if cut in built.crops][: plots.SHEET_COLUMNS]
        pictures = np.array(shown, np.uint8).reshape(-1, 3, 32, 32)
        rows += [(f"dropped: {patches.RULES[rule]} ({len(cuts)})", pictures)] if cuts else []
    title = manifest.TITLES["fddb-hard" if hard else "fddb"]
    return plots.contact_sheet(rows, f"{title}: face above, background of the same photo below")
