"""`doctor`: is all well here, and which runs were left open by processes that are gone?

Each look is in the package health; here is their order, and what they come to. No run is made.
"""

from __future__ import annotations

from alexnet_mlflow.checkpoint import FOLDER
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.commands import DoctorConfig
from alexnet_mlflow.config import data_root
from alexnet_mlflow.data.memory import folder as cache_folder
from alexnet_mlflow.health import Finding, machine, orphans, pictures, stores
from alexnet_mlflow.stages import StageResult


def run(config: DoctorConfig) -> StageResult:
    """Look at everything; with `fix`, close the runs whose processes are gone."""
    data = data_root(config.data_dir).expanduser().absolute()
    folders = {"checkpoints": FOLDER.absolute(), "cache": cache_folder()}
    found, there = stores.answers()
    left = list[orphans.Orphan]()
    closed = list[str]()
    if there:
        found += stores.registry()
        left = orphans.left_open(config.older_than)
        closed = [one.run_id for one in left if config.fix and one.close and orphans.close(one)]
        found += [_told(one, one.run_id in closed) for one in left] or [
            Finding("runs", "pass", "none was left open by a process that is gone.")
        ]
    found += machine.disks({**stores.places(), **folders})
    found.append(machine.leftovers({**folders, "data": data}))
    found += pictures.digests(data)
    found += [machine.gpu(), machine.engine(), stores.round_trip()]
    return _result(config, found, left, closed)


def _told(orphan: orphans.Orphan, closed: bool) -> Finding:
    head = f"{orphan.name} ({orphan.run_id}) "
    if closed:
        return Finding("runs", "pass", f"{head}is closed as FAILED: {orphan.why}.")
    head += f"stands as RUNNING: {orphan.why}"
    if orphan.close:
        way = "close it with `alexnet-mlflow doctor --fix`, or give its command again to go on"
        return Finding("runs", "fail", f"{head}; {way}.")
    return Finding("runs", "warn", f"{head}.")


def _result(
    config: DoctorConfig, found: list[Finding], left: list[orphans.Orphan], closed: list[str]
) -> StageResult:
    verdicts = {one.verdict for one in found}
    verdict: Verdict = (
        "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"
    )
    figures = {
        "findings": [vars(one) for one in found],
        "left_open": [one.as_dict for one in left],
        "closed": closed,
    }
    lines = () if config.json else tuple(one.line for one in found)
    return StageResult("doctor", None, verdict, lines, figures)
