"""The better of the evaluated finals becomes a version, and champion if it beats the present one.

The candidates meet on validation (candidates.py), the better one meets the champion on the test
pictures that both were evaluated on (contest.py), and the registry's aliases follow (registry.py),
one promoter after the other. A run of its own says what was decided and why, with all figures.
What must be refused is found out before anything is written; who has to wait for its turn judges
again where the champion is another by then. Left out: the test pictures themselves. Only the stored
predictions of earlier looks at them are read.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from alexnet_mlflow import contest, registry
from alexnet_mlflow.candidates import (
    best,
    candidates,
    choice,
    evaluation_of,
    on_validation,
    row,
)
from alexnet_mlflow.compare import Paired, counted
from alexnet_mlflow.config import PromoteConfig, parameters
from alexnet_mlflow.contest import Decision
from alexnet_mlflow.data import slug
from alexnet_mlflow.options import AUTO, BadInput
from alexnet_mlflow.registry import Version
from alexnet_mlflow.runs import FoundRun, Tracker
from alexnet_mlflow.stages import StageResult, close, git_commit

HEAD_TAGS = ("optimizer", "seed", "recipe", "data_digest")
KEPT_TAGS = (*HEAD_TAGS, "trained_on", "test_digest", "git_commit", "final_run")
KEPT_FIGURES = ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "best_val_accuracy")
PREDICTIONS = "predictions.parquet"
DRY = "Dry run, nothing is changed: "


@dataclass(frozen=True)
class Bout:
    """A candidate against a champion, judged."""

    champion: Version | None
    policy: str
    result: Paired | None  # None where there is nobody else to compare with
    decision: Decision

    @property
    def champion_number(self) -> str | None:
        return self.champion.number if self.champion else None


def run(config: PromoteConfig, tracker: Tracker) -> StageResult:
    """Choose, compare, register, and move the alias or leave it where it is; or go back one."""
    dataset = slug(config.dataset)
    name = registry.registered_name(dataset)
    with registry.answering():
        if config.rollback:
            return _rolled_back(config, dataset, name, tracker)
        found = candidates(config.run, dataset, config.dataset, tracker)
        chosen = best(found)
        bout = _judged(chosen, registry.champion(name), config, tracker)
        if config.dry_run:
            told = (choice(found), DRY + _sentence(bout, chosen, None))
            figures = {"dry_run": True, **_figures(bout, chosen)}
            return StageResult("promote", None, "pass", told, figures, chosen.tags["model_uri"])
        with tracker.child(f"promote {dataset}", _head(dataset, chosen.tags)) as here:
            here.params({**parameters(config), "policy": bout.policy})
            here.json([row(one, one is chosen) for one in found], "candidates.json")
            bout, version, why = _settled(chosen, bout, config, here, name)
            wins = bout.decision.wins
            reigning = version if wins or bout.champion is None else bout.champion
            figures = {
                "version": int(version.number), "champion": int(reigning.number),
                **_figures(bout, chosen),
            }
            _record(here, bout, chosen, version, why)
            close(here, "pass")
            told = (choice(found), why)
            return StageResult("promote", here.run_id, "pass", told, figures, version.uri)


def _settled(
    chosen: FoundRun, bout: Bout, config: PromoteConfig, here: Tracker, name: str
) -> tuple[Bout, Version, str]:
    """With no other promoter beside: judge who is champion now, register, move the aliases."""
    with registry.alone(name) as held:
        champion = registry.champion(name)
        if (champion and champion.number) != bout.champion_number:
            bout = _judged(chosen, champion, config, here)
        version = registry.register(
            name, chosen.tags["model_uri"], chosen.tags["final_run"], _tags(chosen)
        )
        why = _sentence(bout, chosen, version)
        if bout.decision.wins:
            registry.crown(version, champion, held)
        elif bout.result is not None:
            registry.challenge(version)
        if bout.decision.wins or bout.result is not None:
            registry.describe(version, _description(chosen, version, why))
    return bout, version, why


def _judged(
    chosen: FoundRun, champion: Version | None, config: PromoteConfig, tracker: Tracker
) -> Bout:
    """The candidate against the champion there is. BadInput where they cannot be compared."""
    auto = "better" if champion is None else "proven"
    policy = auto if config.policy == AUTO else config.policy
    if champion is None:
        return Bout(None, policy, None, Decision(True, "there was none"))
    if champion.run_id == chosen.tags["final_run"]:
        return Bout(champion, policy, None, Decision(False, "it is the candidate itself"))
    result = _measured(chosen, champion, tracker)
    return Bout(champion, policy, result, contest.decided(result, policy, config.min_gain))


def _measured(chosen: FoundRun, champion: Version, tracker: Tracker) -> Paired:
    called = f"version {champion.number} of {champion.name}"
    other = _evaluation(champion, chosen, tracker)
    ours = _predictions(chosen, tracker)
    if ours is None:
        raise BadInput(
            f"the evaluation {chosen.run_id} has no {PREDICTIONS}: run `alexnet-mlflow evaluate "
            f"--run={chosen.tags['final_run']}` again"
        )
    theirs = _predictions(other, tracker) if other else None
    if other is None or theirs is None:
        raise BadInput(
            f"the predictions of {called} on the test pictures are not on record: run "
            f"`alexnet-mlflow evaluate --run={champion.run_id}`, or take the alias champion from "
            "it in the registry and promote again"
        )
    result = contest.measured(ours, theirs, called)
    if other.tags.get("test_digest") != chosen.tags["test_digest"]:  # same names, other pixels
        raise contest.different(called)
    return result


def _evaluation(champion: Version, chosen: FoundRun, tracker: Tracker) -> FoundRun | None:
    """The champion's evaluation: the one it was promoted with, or a later one on these pictures."""
    wanted = chosen.tags["test_digest"]
    run_id = champion.tags.get("evaluate_run")
    first = tracker.found(run_id) if run_id else None
    if (first and first.tags.get("test_digest") == wanted) or not champion.run_id:
        return first
    tags = {"final_run": champion.run_id, "test_digest": wanted}
    return evaluation_of(tags, chosen.tags["dataset"], tracker) or first


def _predictions(found: FoundRun, tracker: Tracker) -> pd.DataFrame | None:
    with tempfile.TemporaryDirectory() as folder:
        file = tracker.fetched(found.run_id, PREDICTIONS, Path(folder))
        if file is None:
            return None
        try:
            table = pd.read_parquet(file)
        except (ValueError, OSError):  # torn, or something else
            return None
    return table if {"id", "label", "prediction"} <= set(table.columns) else None


def _rolled_back(
    config: PromoteConfig, dataset: str, name: str, tracker: Tracker
) -> StageResult:
    """The champion before the present one is champion again."""
    champion = registry.champion(name)
    if champion is None:
        raise BadInput(f"{name} has no champion to go back from: promote a model first")
    to = registry.before(champion)
    why = f"Rolled back: version {to.number} is champion again instead of {champion.number}."
    figures = {"version": int(to.number), "champion": int(to.number), "promoted": False}
    if config.dry_run:
        figures |= {"dry_run": True, "champion": int(champion.number)}
        return StageResult("promote", None, "pass", (DRY + why,), figures, to.uri)
    with tracker.child(f"promote {dataset} rollback", _head(dataset, to.tags)) as here:
        here.params(parameters(config))
        with registry.alone(name) as held:
            registry.roll_back(champion, to, held)
            for version in (champion, to):
                registry.note(version, why)
        here.tags({"decision": why, "model_version": to.number, "rolled_back": champion.number})
        here.json({"sentence": why, "from": champion.number, "to": to.number}, "decision.json")
        here.metrics({"promoted": 0.0})
        close(here, "pass")
        return StageResult("promote", here.run_id, "pass", (why,), figures, to.uri)


def _head(dataset: str, source: dict[str, str]) -> dict[str, object]:
    """The tags that every run carries."""
    kept = {key: source[key] for key in HEAD_TAGS if key in source}
    return {"stage": "promote", "dataset": dataset, "git_commit": git_commit(), **kept}


def _tags(chosen: FoundRun) -> dict[str, object]:
    """What the version carries."""
    kept = {key: chosen.tags[key] for key in KEPT_TAGS if key in chosen.tags}
    figures = {key: chosen.metrics[key] for key in KEPT_FIGURES if key in chosen.metrics}
    return {**kept, **figures, "evaluate_run": chosen.run_id}


def _sentence(bout: Bout, chosen: FoundRun, version: Version | None) -> str:
    """What was decided and why. version: None before the candidate is one."""
    new = f"version {version.number}" if version else "the candidate"
    on_test = f"{_on_test(chosen)} on test"
    new = f"{new} ({chosen.tags['optimizer']}, {on_test})"
    why = bout.decision.why
    if bout.champion is None:
        text = f"{new} becomes champion: {why}."
    elif bout.result is None:
        text = f"version {bout.champion_number} ({on_test}) is the champion already."
    elif bout.decision.wins:
        text = f"{new} becomes champion instead of version {bout.champion_number}: {why}."
    else:
        text = f"version {bout.champion_number} stays champion, against {new}: {why}."
    return text[0].upper() + text[1:]


def _on_test(chosen: FoundRun) -> str:
    """k of n with its interval; the bare accuracy where an older version kept no more."""
    figures = chosen.metrics
    if not {"test_correct", "test_pictures"} <= figures.keys():
        return f"{figures['test_accuracy']:.2%}"
    return counted(round(figures["test_correct"]), round(figures["test_pictures"]))


def _description(chosen: FoundRun, version: Version, why: str) -> str:
    """For people, in Markdown: what the version is, how good, and how it came to its alias."""
    tags = chosen.tags
    return (
        f"AlexNet for {tags['dataset']}, {tags['optimizer']}, recipe {tags.get('recipe')}, seed "
        f"{tags.get('seed')}. Test: {_on_test(chosen)}; validation "
        f"{on_validation(chosen)}.\n\n{why}\n\n"
        f"Final run {tags['final_run']}, "
        f"evaluation {chosen.run_id}, commit {tags.get('git_commit')}. To load it: "
        f'`mlflow.pytorch.load_model("{version.uri}")`.\n'
    )


def _figures(bout: Bout, chosen: FoundRun) -> dict[str, object]:
    """For the last line of standard output; accuracies and gains are fractions of pictures."""
    figures: dict[str, object] = {
        "promoted": bout.decision.wins,
        "policy": bout.policy,
        "test_accuracy": chosen.metrics["test_accuracy"],
        "best_val_accuracy": chosen.metrics["best_val_accuracy"],
    }
    return {**figures, **_comparison(bout.result)}


def _comparison(result: Paired | None) -> dict[str, float]:
    if result is None:
        return {}
    return {
        "gain": result.gain, "gain_low": result.low, "gain_high": result.high,
        "p_value": result.p_value,
    }


def _record(here: Tracker, bout: Bout, chosen: FoundRun, version: Version, why: str) -> None:
    """The decision's figures on its run, decision.json, and decision.md for people."""
    result = bout.result
    here.json(
        {
            "sentence": why, **_figures(bout, chosen), "version": version.number,
            "champion_before": bout.champion_number, "level": contest.LEVEL,
            "evaluate_run": chosen.run_id, "final_run": chosen.tags["final_run"],
            "comparison": result and {**dataclasses.asdict(result), "method": result.method},
        },
        "decision.json",
    )
    here.text(f"{why}\n" + (f"\n{contest.table(result)}" if result else ""), "decision.md")
    counts = {}
    if result:
        cells = ("both", "challenger_only", "champion_only", "neither", "clusters")
        counts = {f"pictures_{cell}": float(getattr(result, cell)) for cell in cells[:4]}
        counts["clusters"] = float(result.clusters)
    best_val = chosen.metrics["best_val_accuracy"]
    here.metrics({
        "promoted": float(bout.decision.wins), "best_val_accuracy": best_val,
        **_comparison(result), **counts,
    })
    here.tags({"decision": why, "model_version": version.number, "policy": bout.policy})
