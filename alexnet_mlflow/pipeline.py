"""The whole protocol by calling the stages: one parent run, a child a stage, a table at the end.

A stage that says no stops the protocol of its optimizer: what comes after it would mean nothing.
`force` goes on where it can, and the run is tagged. With both optimizers, one that fails does not
stop the other; promotion takes what was evaluated.

SGD against Adam: both get the same trials, epochs and seeds, so the coarse points are the same.
The rates that each search found are then trained again with `seeds` seeds that it has not seen,
the same for both. Of these finals the best on validation is evaluated and may be promoted, so that
the sealed test split chooses nothing. The difference has an interval (Welch): it covers the noise
of the seeds, neither that of the search nor which pictures validate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from alexnet_mlflow import runner
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.compare import Difference, mean_difference, mean_interval
from alexnet_mlflow.config import (
    OPTIMIZERS,
    BabysitConfig,
    PromoteConfig,
    parameters,
    resolve,
)
from alexnet_mlflow.course import Course, at_once, followed, meanwhile, told, written
from alexnet_mlflow.data import load
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.stages import StageResult, check_batch, close, promote, tags_of

HEADS = ("optimizer", "lr", "weight decay", "val accuracy", "test accuracy", "seconds")
SEEDS_HEAD = "val mean +- sd"  # a column more, where there are several finals
CONFIDENCE = 0.95
COVERS = "the noise of the seeds, not of the search or of which pictures validate"


def run(config: BabysitConfig, tracker: Tracker) -> StageResult:
    """Sanity, overfit, search, finals, evaluate for each optimizer; then promote.

    In a process that was started beside another one: what is one optimizer's, below its run.
    """
    config = resolve(config)
    if parent := runner.beside():
        course = followed(config, _fresh(config), tracker.below(parent))
        verdict = _verdict([course], refused=False)
        return StageResult("babysit", parent, verdict, (), {"course": written(course)})
    data = load(config)
    check_batch(config, data)
    both = config.optimizer == "both"
    optimizers, seeds = OPTIMIZERS if both else (config.optimizer,), _seeds(config)
    with tracker.child(f"babysit {data.name} {config.optimizer}", tags_of(config, data)) as here:
        here.params(parameters(config))
        here.dataset(data, "training")
        del data  # each stage loads what it needs
        configs = [dataclasses.replace(config, optimizer=one) for one in optimizers]
        courses = _courses(configs, seeds, here)
        sentences, figures = _shown(here, courses, seeds, both)
        promoted, refusal = _promoted(config, courses, here)
        if promoted:
            figures["champion"] = promoted.figures["champion"]
        if any(course.forced for course in courses):
            here.tags({"forced": "true"})
        verdict = _verdict(courses, bool(refusal))
        close(here, verdict)
        uri = promoted.model_uri if promoted else None
        return StageResult("babysit", here.run_id, verdict, (*sentences, *refusal), figures, uri)


def _courses(
    configs: Sequence[BabysitConfig], seeds: Sequence[int], here: Tracker
) -> list[Course]:
    """One after the other; where there is room for it, the last one beside the first."""
    if len(configs) == 1 or not at_once(configs[0], here):
        return [followed(config, seeds, here) for config in configs]
    first, second = configs
    say(f"{second.optimizer} is trained meanwhile, by a process of its own: what it says comes "
        f"after {first.optimizer}.")
    with meanwhile(second, here) as waited:
        courses = [followed(first, seeds, here), waited()]
    return [course or followed(second, seeds, here) for course in courses]


def _promoted(
    config: BabysitConfig, courses: Sequence[Course], here: Tracker
) -> tuple[StageResult | None, tuple[str, ...]]:
    """The promotion, or why it was refused: a champion of other pictures undoes no training."""
    if not any(course.test for course in courses):
        return None, ()
    try:
        return told(promote.run(PromoteConfig(dataset=config.dataset), here)), ()
    except BadInput as error:
        return None, (f"promote refused: {error}.",)


def _verdict(courses: Sequence[Course], refused: bool) -> Verdict:
    """`fail` where an optimizer did not reach its end, `warn` where --force took it there, or where
    the promotion was refused.
    """
    if not all(course.test for course in courses):
        return "fail"
    return "warn" if refused or any(course.forced for course in courses) else "pass"


def _seeds(config: BabysitConfig) -> tuple[int, ...]:
    """The finals' seeds. To compare, those after the search's own: fresh, and the same for both."""
    return _fresh(config) if config.optimizer == "both" else (config.seed,)


def _fresh(config: BabysitConfig) -> tuple[int, ...]:
    seeds = tuple(range(config.seed + 1, config.seed + config.seeds + 1))
    dataclasses.replace(config, seed=seeds[-1])  # a seed too large is told now, not after hours
    return seeds


def _shown(
    here: Tracker, courses: Sequence[Course], seeds: Sequence[int], both: bool
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Log the table and the comparison; the sentences and the figures of the result."""
    ended = [course for course in courses if course.test]
    table, figures = _table(ended, several=len(seeds) > 1), _figures(ended, len(seeds) > 1)
    told = []
    if both:
        difference, sentence = _compared(courses, len(seeds))
        told.append(sentence)
        here.json(_comparison(courses, seeds, difference, sentence), "comparison.json")
        figures |= _difference_figures(difference)
    here.text(table + "".join(f"\n{sentence}\n" for sentence in told), "table.md")
    here.metrics({name: value for name, value in figures.items() if "test_" not in name})
    refused = [sentence for course in courses for sentence in course.refusals]
    return (*table.splitlines(), *told, *refused), figures


def _figures(ended: Sequence[Course], several: bool) -> dict[str, Any]:
    """Accuracies of the evaluated models, and over the seeds: fractions, sd with n - 1."""
    figures: dict[str, Any] = {}
    for course in ended:
        assert course.test
        name, values = course.optimizer, course.accuracies
        figures[f"{name}_val_accuracy"] = course.best.figures["best_val_accuracy"]
        figures[f"{name}_test_accuracy"] = course.test.figures["test_accuracy"]
        if several:
            figures[f"{name}_val_accuracy_mean"] = mean(values)
        if len(values) > 1:
            figures[f"{name}_val_accuracy_std"] = stdev(values)
    return figures


def _difference_figures(difference: Difference | None) -> dict[str, float]:
    """Adam - SGD, as fractions."""
    if difference is None:
        return {}
    return {
        "difference_val_accuracy": difference.mean,
        "difference_val_accuracy_low": difference.low,
        "difference_val_accuracy_high": difference.high,
    }


def _compared(courses: Sequence[Course], seeds: int) -> tuple[Difference | None, str]:
    """Adam - SGD on validation, where it can be had, and what it says."""
    sgd, adam = courses
    if stopped := [course.optimizer for course in courses if not course.test]:
        return None, f"No comparison: {' and '.join(stopped)} did not reach the end."
    if seeds == 1:
        return None, "One final training each: one seed shows no difference. Give --seeds=3."
    for course in courses:
        if lost := seeds - len(course.finals):
            # Without those that diverged, the mean would flatter the optimizer.
            return None, f"No comparison: {lost} of {seeds} finals of {course.optimizer} diverged."
    difference = mean_difference(adam.accuracies, sgd.accuracies, CONFIDENCE)
    low, middle, high = (100 * x for x in (difference.low, difference.mean, difference.high))
    head = (
        f"Adam - SGD, best validation accuracy, mean of {seeds} fresh seeds each: {middle:+.2f} "
        f"points (95 % {low:+.2f} to {high:+.2f})"
    )
    if difference.low == difference.high:
        return difference, f"{head}: no difference shown, as neither varies from seed to seed."
    if not difference.shown:
        return difference, f"{head}: no difference shown. This covers {COVERS}."
    better = "Adam" if middle > 0 else "SGD"
    return difference, f"{head}: {better} is better here. This covers {COVERS}."


def _comparison(
    courses: Sequence[Course], seeds: Sequence[int], difference: Difference | None, sentence: str
) -> dict[str, Any]:
    """What comparison.json holds: accuracies as fractions, intervals at 95 %."""
    return {
        "seeds": list(seeds),
        "optimizers": {course.optimizer: _of_seeds(course) for course in courses},
        "difference": difference and {
            "of": "best_val_accuracy, adam - sgd", "method": "Welch", "confidence": CONFIDENCE,
            "covers": COVERS, **dataclasses.asdict(difference), "shown": difference.shown,
        },
        "sentence": sentence,
    }


def _of_seeds(course: Course) -> dict[str, Any]:
    """The finals of one optimizer."""
    finals, values = course.finals, course.accuracies
    kept: dict[str, Any] = {
        "best_val_accuracy": values,
        "runs": [one.run_id for one in finals],
        "evaluated": course.best.run_id if course.test else None,
        "refusals": course.refusals,
    }
    if finals:
        kept |= {name: finals[0].figures[name] for name in ("lr", "weight_decay")}
    if len(values) > 1:
        centre, low, high = mean_interval(values, CONFIDENCE)
        kept |= {"mean": centre, "mean_low": max(0.0, low), "mean_high": min(1.0, high)}
        kept["std"] = stdev(values)
    return kept


def _row(course: Course, several: bool) -> tuple[str, ...]:
    assert course.test
    chosen, test, values = course.best.figures, course.test.figures, course.accuracies
    interval = f"{test['test_accuracy_low']:.2%} to {test['test_accuracy_high']:.2%}"
    spread = f" +- {stdev(values):.2%}" if len(values) > 1 else ""
    return (
        course.optimizer,
        f"{chosen['lr']:.4g}",
        f"{chosen['weight_decay']:.3g}",
        *((f"{mean(values):.2%}{spread} (n = {len(values)})",) if several else ()),
        f"{test['best_val_accuracy']:.2%}",
        f"{test['test_accuracy']:.2%} ({interval})",
        f"{course.seconds:.0f}",
    )


def _table(ended: Sequence[Course], several: bool) -> str:
    """A Markdown table, aligned so that it reads well on a terminal too."""
    heads = (*HEADS[:3], *((SEEDS_HEAD,) if several else ()), *HEADS[3:])
    cells = [heads, *(_row(course, several) for course in ended)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
             + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
