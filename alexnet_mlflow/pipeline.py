"""The whole protocol by calling the stages: one parent run, a child a stage, a table at the end.

A stage that says no stops the protocol of its optimizer: what comes after it would mean nothing.
With both optimizers, one that fails does not stop the other; promotion takes what was evaluated.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, TypeVar

from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.config import (
    OPTIMIZERS,
    BabysitConfig,
    EvaluateConfig,
    FinalConfig,
    OverfitConfig,
    PromoteConfig,
    SanityConfig,
    SearchConfig,
    resolve,
)
from alexnet_mlflow.data import load
from alexnet_mlflow.progress import say
from alexnet_mlflow.stages import (
    StageResult,
    check_batch,
    close,
    evaluate,
    final,
    overfit,
    parameters,
    promote,
    sanity,
    search,
    tags_of,
)
from alexnet_mlflow.track import Tracker

AnyStage = TypeVar("AnyStage")

COLUMNS = ("optimizer", "lr", "weight decay", "val accuracy", "test accuracy", "seconds")


def run(config: BabysitConfig, tracker: Tracker) -> StageResult:
    """Sanity, overfit, search, final, evaluate for each optimizer; then promote."""
    config = resolve(config)
    data = load(config)
    check_batch(config, data)
    optimizers = OPTIMIZERS if config.optimizer == "both" else (config.optimizer,)
    with tracker.child(f"babysit {data.name} {config.optimizer}", tags_of(config, data)) as here:
        here.params(parameters(config))
        here.dataset(data, "training")
        del data  # each stage loads what it needs
        rows, figures, refused = [], {}, []
        for optimizer in optimizers:
            started = time.perf_counter()
            results = _protocol(dataclasses.replace(config, optimizer=optimizer), here)
            seconds = time.perf_counter() - started
            if results[-1].verdict == "fail":
                refused.append(f"{optimizer}: {results[-1].stage} said no")
            else:
                rows.append(_row(optimizer, results, seconds))
                figures[f"{optimizer}_val_accuracy"] = results[-1].figures["best_val_accuracy"]
                figures[f"{optimizer}_test_accuracy"] = results[-1].figures["test_accuracy"]
        table = _table(rows)
        here.text(table, "table.md")
        here.metrics({name: value for name, value in figures.items() if "test_" not in name})
        promoted = _told(promote.run(PromoteConfig(dataset=config.dataset), here)) if rows else None
        verdict: Verdict = "fail" if refused else "pass"
        close(here, verdict)
        return StageResult(
            "babysit", here.run_id, verdict, (*table.splitlines(), *refused),
            {**figures, **({"champion": promoted.figures["champion"]} if promoted else {})},
            promoted.model_uri if promoted else None,
        )


def _protocol(config: BabysitConfig, here: Tracker) -> list[StageResult]:
    """One optimizer's stages in order, until the last or the first that fails."""
    results = [_told(sanity.run(_derived(SanityConfig, config), here))]
    if results[-1].verdict != "fail":
        results.append(_told(overfit.run(_derived(OverfitConfig, config, epochs=None), here)))
    if results[-1].verdict != "fail":
        wanted = _derived(SearchConfig, config, epochs=config.search_epochs)
        results.append(_told(search.run(wanted, here)))
    if results[-1].verdict != "fail":
        found = results[-1].figures
        rates = {"lr": found["best_lr"], "weight_decay": found["best_weight_decay"]}
        results.append(_told(final.run(_derived(FinalConfig, config, **rates), here)))
    if results[-1].verdict != "fail" and (run_id := results[-1].run_id):
        results.append(_told(evaluate.run(_derived(EvaluateConfig, config, run=run_id), here)))
    return results


def _derived(kind: type[AnyStage], config: BabysitConfig, **changes: Any) -> AnyStage:
    """A stage's config with what it shares with the protocol's, and these values changed."""
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    shared = {name: value for name, value in vars(config).items() if name in names}
    return kind(**{**shared, **changes})


def _told(result: StageResult) -> StageResult:
    """The same result, after saying what it found."""
    for sentence in result.sentences:
        say(f"[{result.stage}] {sentence}")
    return result


def _row(optimizer: str, results: list[StageResult], seconds: float) -> tuple[str, ...]:
    chosen, test = results[-2].figures, results[-1].figures
    interval = f"{test['test_accuracy_low']:.2%} to {test['test_accuracy_high']:.2%}"
    return (
        optimizer,
        f"{chosen['lr']:.4g}",
        f"{chosen['weight_decay']:.3g}",
        f"{test['best_val_accuracy']:.2%}",
        f"{test['test_accuracy']:.2%} ({interval})",
        f"{seconds:.0f}",
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, aligned so that it reads well on a terminal too."""
    cells = [COLUMNS, *rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(COLUMNS))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
             + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
