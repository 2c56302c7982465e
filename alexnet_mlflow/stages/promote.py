"""The better of the evaluated finals becomes a version, and champion if it beats the present one.

Candidates: of each optimizer the latest evaluated final of the data set. The better one is chosen
on validation, so that the test split chooses nothing; against the present champion it must get
more of the same test pictures right. A run of its own says what was decided and why.
Left out for now: a test of significance, and a lock against a second promoter.
"""

from __future__ import annotations

from alexnet_mlflow import registry
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.config import OPTIMIZERS, PromoteConfig
from alexnet_mlflow.data import slug
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.registry import Version
from alexnet_mlflow.runs import FoundRun, Tracker
from alexnet_mlflow.stages import StageResult, close, git_commit

KEPT_TAGS = ("optimizer", "seed", "recipe", "data_digest", "test_digest", "git_commit")


def run(config: PromoteConfig, tracker: Tracker) -> StageResult:
    """Choose, compare, register, and move the alias or leave it where it is."""
    dataset = slug(config.dataset)
    candidates = _candidates(dataset, tracker)
    if not candidates:
        raise BadInput(
            f"there is no evaluated final run of {dataset} in this experiment: run "
            f"`alexnet-mlflow evaluate --dataset={config.dataset}` first"
        )
    chosen = max(candidates, key=_on_validation)
    name = registry.registered_name(dataset)
    champion = registry.champion(name)
    tags = {key: chosen.tags[key] for key in ("optimizer", "seed", "recipe", "data_digest")}
    head = {"stage": "promote", "dataset": dataset, "git_commit": git_commit(), **tags}
    with tracker.child(f"promote {dataset}", head) as here:
        here.params({"dataset": config.dataset})
        version = _register(name, chosen)
        wins, why = _judge(chosen, version, champion)
        comparable = champion is None or _same_pictures(chosen, champion)
        if wins:
            registry.crown(version)
        here.json([_row(found, found is chosen) for found in candidates], "candidates.json")
        figures = {
            "version": int(version.number),
            "champion": int(version.number if wins or champion is None else champion.number),
            "test_accuracy": chosen.metrics["test_accuracy"],
            "best_val_accuracy": chosen.metrics["best_val_accuracy"],
        }
        here.metrics({"promoted": float(wins), "best_val_accuracy": figures["best_val_accuracy"]})
        here.tags({"decision": why, "model_version": version.number})
        verdict: Verdict = "pass" if comparable else "warn"
        close(here, verdict)
        sentences = (_choice(candidates, chosen), why)
        return StageResult("promote", here.run_id, verdict, sentences, figures, version.uri)


def _candidates(dataset: str, tracker: Tracker) -> list[FoundRun]:
    """The latest evaluation of each optimizer, on the pictures of the latest of all.

    Accuracies on other validation pictures (another limit or division) cannot be ranked with them.
    """
    tags = {"stage": "evaluate", "dataset": dataset, "verdict": "pass"}
    newest = tracker.latest(**tags)
    if newest is None:
        return []
    tags["data_digest"] = newest.tags["data_digest"]
    found = [tracker.latest(**tags, optimizer=optimizer) for optimizer in OPTIMIZERS]
    return [item for item in found if item is not None]


def _same_pictures(chosen: FoundRun, champion: Version) -> bool:
    return champion.tags.get("test_digest") == chosen.tags["test_digest"]


def _on_validation(found: FoundRun) -> tuple[float, float]:
    """By accuracy, then by loss."""
    return found.metrics["best_val_accuracy"], -found.metrics["best_val_loss"]


def _register(name: str, chosen: FoundRun) -> Version:
    tags = {key: chosen.tags[key] for key in KEPT_TAGS if key in chosen.tags}
    figures = {
        key: chosen.metrics[key]
        for key in ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "best_val_accuracy")
    }
    links = {"final_run": chosen.tags["final_run"], "evaluate_run": chosen.run_id}
    return registry.register(
        name, chosen.tags["model_uri"], chosen.tags["final_run"], {**tags, **figures, **links}
    )


def _judge(chosen: FoundRun, version: Version, champion: Version | None) -> tuple[bool, str]:
    """Whether the version takes the crown, and why, in one sentence."""
    accuracy = chosen.metrics["test_accuracy"]
    if champion is None:
        return True, (
            f"Version {version.number} ({accuracy:.2%} on test) becomes champion: there was none."
        )
    if champion.number == version.number:
        return False, f"Version {version.number} ({accuracy:.2%} on test) is the champion already."
    if not _same_pictures(chosen, champion):
        return False, (
            f"Version {champion.number} stays champion: it was tested on other pictures than "
            f"version {version.number}, so the two cannot be compared. To begin anew on these "
            f"pictures, take the alias {registry.CHAMPION} from it in the registry, then promote."
        )
    reigning = float(champion.tags["test_accuracy"])
    if accuracy > reigning:
        return True, (
            f"Version {version.number} becomes champion: {accuracy:.2%} on the same test pictures, "
            f"against {reigning:.2%} of version {champion.number}."
        )
    return False, (
        f"Version {champion.number} stays champion: version {version.number} has {accuracy:.2%} on "
        f"the same test pictures, not more than its {reigning:.2%}."
    )


def _choice(candidates: list[FoundRun], chosen: FoundRun) -> str:
    told = ", ".join(
        f"{found.tags['optimizer']} {found.metrics['best_val_accuracy']:.2%} "
        f"(loss {found.metrics['best_val_loss']:.4f})"
        for found in candidates
    )
    return f"Candidates on validation: {told}. The better: {chosen.tags['optimizer']}."


def _row(found: FoundRun, chosen: bool) -> dict[str, object]:
    return {
        "optimizer": found.tags["optimizer"],
        "final_run": found.tags["final_run"],
        "evaluate_run": found.run_id,
        "best_val_accuracy": found.metrics["best_val_accuracy"],
        "test_accuracy": found.metrics["test_accuracy"],
        "chosen": chosen,
    }
