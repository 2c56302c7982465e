"""`data check`: what is wrong with a data set, and how well it goes without a network.

The report is written to a folder, no run is made; the sanity stage logs the same to its run.
"""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_mlflow import checks
from alexnet_mlflow.commands import CheckConfig
from alexnet_mlflow.data import inspect, slug
from alexnet_mlflow.disk import replaced
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import StageResult, data_report


def run(config: CheckConfig) -> StageResult:
    """Measure, judge, write report.json and two plots to `<out>/<data set>`."""
    seen = inspect(config)
    report = data_report(seen)
    place = Path(config.out) / slug(config.dataset)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with replaced(place / "report.json") as draft:
            draft.write_text(json.dumps(report.report, indent=2, allow_nan=False))
        for name, figure in report.plots.items():
            with replaced(place / name) as draft:
                figure.savefig(draft)
    except OSError as error:
        raise BadInput(
            f"the report cannot be written to {str(place)!r} ({error.strerror}): give another "
            "folder with --out"
        ) from None
    lines = [f"{seen.title}:", *seen.found.sentences()]
    lines += [f"[{check.verdict}] {check.name}: {check.sentence}" for check in report.checks]
    lines.append(f"Report and pictures: {place}")
    return StageResult(
        "data check", None, checks.overall(report.checks), tuple(lines),
        {"dataset": seen.title, "data_digest": seen.digest, "report": str(place / "report.json"),
         **report.figures},
    )
