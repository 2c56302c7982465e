"""The long training: the rates given or the search's, the best epoch kept, the model logged.

`lr` and `weight_decay` left at auto are those of the latest finished search of the same data set
and optimizer. A checkpoint before the first step and one an epoch make the run resumable: it is
written before the epoch is logged, and what was not logged is logged on resuming, so that no metric
stands twice.
The model is logged from the CPU with its preprocessing inside and loads without pickle. At the end
the curves are judged: a loss that rose fails, a gap or a best epoch at the end only warns.

With `seeds` above 1 that many are trained, with the seeds after `seed`, as children of one run that
has their mean and interval. Resumed, it goes on with the seed that was interrupted.

Started by torchrun, several processes share each batch (distributed.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from alexnet_mlflow import checkpoint, checks, distributed, plots
from alexnet_mlflow.augment import to_pixels
from alexnet_mlflow.checks import Check, Verdict
from alexnet_mlflow.compare import counted, over_seeds
from alexnet_mlflow.config import FinalConfig, parameters, resolve
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.device import pick_device
from alexnet_mlflow.model import AlexNet, Servable, build
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say, shown
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.resume import (
    Progress,
    as_interrupted,
    checkpointed,
    progress_of,
    state_of,
    to_resume,
)
from alexnet_mlflow.runs import FoundRun, LoggedModel, Tracker
from alexnet_mlflow.stages import (
    StageResult,
    beside,
    close,
    judged,
    layer_lines,
    opened,
    train_config,
)
from alexnet_mlflow.track import logged
from alexnet_mlflow.train import EpochResult, State, divergence, fit

BEST = ("best_val_accuracy", "best_val_loss", "best_epoch")
EXAMPLES = 2  # pictures of the input example; with one, torch.export would fix the batch at 1


def run(config: FinalConfig, tracker: Tracker) -> StageResult:
    """Train, keep the best epoch, log the model. `fail` where the loss diverged or only rose."""
    # One that is not there is told before anything is read.
    device = pick_device(config.device, config.deterministic)
    with distributed.joined(device):
        try:
            result = _one(config, tracker) if config.seeds == 1 else _seeds(config, tracker)
        except BadInput:  # before a training: the others wait for one, and may leave
            distributed.passed_on(None)
            raise
        distributed.passed_on(None)
        return result


def follow(config: FinalConfig) -> None:
    """What a process does that torchrun has started beside the first one: it trains what that one
    trains, and neither tracks nor says anything."""
    device = pick_device(config.device, config.deterministic)
    with distributed.joined(device):
        while (order := distributed.passed_on()) is not None:
            single = FinalConfig(**order["config"])
            saved = checkpoint.load(checkpoint.path_of(order["resumed"]))["training"] \
                if order["resumed"] else None
            data = load(single)
            if data.digest != order["data_digest"]:
                raise BadInput(
                    f"{data.title} has changed since the first process has read it: leave its "
                    "files alone and start again"
                )
            net = build(len(data.classes), single.seed)
            for _ in fit(net, data, train_config(single), device, saved):
                pass


def _one(
    config: FinalConfig, tracker: Tracker, run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
) -> StageResult:
    """One training. run_id: a run that was interrupted and whose checkpoint is not at hand."""
    data = load(config)
    resumed, found = to_resume(config, tracker, data)
    config = as_interrupted(config, resumed) if resumed else _with_rates(config, tracker, data)
    processes = distributed.place().size
    tags = {**(tags or {}), **({"processes": processes} if processes > 1 else {})}
    before = found or run_id
    with ExitStack() as locks:
        locks.enter_context(checkpoint.claimed(before))
        if found:  # as it is now that nobody else has it
            resumed = checkpoint.load(checkpoint.path_of(found), mend=True)
        with opened(config, tracker, data, before, tags) as here:
            if here.run_id != before:
                locks.enter_context(checkpoint.claimed(here.run_id))
            result = _trained(config, here, data, resumed, found, known=before is not None)
        # After the run's end is on record, so that a kill in between leaves something to go on
        # with. A copied run's was kept under its old id.
        for done in {result.run_id, found} - {None}:
            checkpoint.remove(checkpoint.path_of(str(done)))
    return result


def _trained(
    config: FinalConfig, here: Tracker, data: Splits, resumed: State | None, found: str | None,
    known: bool,
) -> StageResult:
    """One training, in its run. known: the run was there before."""
    assert config.epochs is not None
    path = checkpoint.path_of(here.run_id) if here.run_id else None
    if path and not resumed:  # a kill before the first epoch's goes on in the same run
        checkpoint.save(path, state_of(Progress(), config, data))
    net = build(len(data.classes), config.seed)
    here.text(layer_lines(net), "layers.txt")
    progress = progress_of(resumed)
    had = here.steps("train_loss") if known else set()
    for _ in logged(here, progress.history, had):
        pass  # checkpointed and not logged when the run was interrupted
    training = resumed["training"] if resumed else None
    distributed.passed_on({
        "config": dataclasses.asdict(config), "data_digest": data.digest,
        "resumed": resumed and found,
    })
    results = fit(net, data, train_config(config), pick_device(config.device), training)
    with checkpoint.Writer(path) as writer:
        kept = checkpointed(results, progress, config, data, writer)
        for _ in logged(here, shown(kept, config.epochs, f"final {config.optimizer}"), had):
            pass
        return _closed(config, here, data, net, progress)


def _seeds(config: FinalConfig, tracker: Tracker) -> StageResult:
    """Trainings with fresh seeds below one run."""
    data = load(config)
    config = _with_rates(config, tracker, data)
    settings = _settings(config, data)
    before = _interrupted(config, settings, tracker)
    tags = {"seeds": config.seeds, "settings": settings}
    with checkpoint.claimed(before), opened(config, tracker, data, before, tags) as here:
        with checkpoint.claimed(here.run_id if here.run_id != before else None):
            results = []
            for number in range(1, config.seeds + 1):
                seed = config.seed + number
                known = here.child_with(stage="final", seed=str(seed)) if before else None
                say(f"[final] {number} of {config.seeds}: seed {seed}")
                results.append(_ended(known) or _of_seed(config, seed, known, here))
            return _together(config, results, here)


def _settings(config: FinalConfig, data: Splits) -> str:
    """The same for two calls that train the same."""
    known = {**parameters(config), "data_digest": data.digest}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _interrupted(config: FinalConfig, settings: str, tracker: Tracker) -> str | None:
    """The run of several seeds that --resume names and that has not ended; None to start anew."""
    if config.resume == "no":
        return None
    if config.resume == "last":
        found = tracker.newest(stage="final", settings=settings)
    else:
        found = tracker.found(config.resume)
    if found and found.tags.get("settings") == settings and "verdict" not in found.tags:
        return found.run_id
    raise BadInput(
        f"--resume={config.resume}: there is no interrupted final run of {config.seeds} seeds with "
        "these settings and pictures: give them as they were, or start without --resume"
    )


def _of_seed(
    config: FinalConfig, seed: int, known: FoundRun | None, here: Tracker
) -> StageResult:
    """One of several; from its checkpoint where it has one."""
    saved = known is not None and checkpoint.path_of(known.run_id).exists()
    resume = known.run_id if known and saved else "no"
    single = dataclasses.replace(config, seed=seed, seeds=1, resume=resume)
    return _one(single, here, known.run_id if known else None, {"seeds_run": here.run_id})


def _ended(known: FoundRun | None) -> StageResult | None:
    """The result of a seed that has ended; None where it has not."""
    if known is None or "verdict" not in known.tags:
        return None
    verdict: Verdict = "fail" if known.tags["verdict"] == "fail" else "pass"
    best = {name: known.metrics[name] for name in BEST if name in known.metrics}
    return StageResult("final", known.run_id, verdict, (), best, known.tags.get("model_uri"))


def _together(config: FinalConfig, results: Sequence[StageResult], here: Tracker) -> StageResult:
    """Mean and interval over the seeds, and which seed is best on validation."""
    trained = [one for one in results if one.model_uri or "best_val_accuracy" in one.figures]
    lost = len(results) - len(trained)
    told = [f"{lost} of {len(results)} seeds diverged."] if lost else []
    if not trained:
        close(here, "fail", "diverged")
        return StageResult("final", here.run_id, "fail", tuple(told))
    accuracies = [one.figures["best_val_accuracy"] for one in trained]
    sound = [one for one in trained if one.verdict != "fail"]
    if failed := len(trained) - len(sound):
        told.append(f"{failed} of {len(results)} seeds failed a check: none of them is chosen.")
    best = max(sound or trained, key=lambda one: (one.figures["best_val_accuracy"],
                                                  -one.figures["best_val_loss"]))
    figures = {name: best.figures[name] for name in BEST}
    if len(accuracies) > 1:
        spread, sentence = over_seeds("best_val_accuracy", accuracies)
        figures |= spread
        told.append(f"Best on validation. {sentence}")
    here.metrics(figures)
    here.tags({
        "final_runs": ",".join(str(one.run_id) for one in trained), "chosen_final": best.run_id,
    })
    verdict: Verdict = "fail" if all(one.verdict == "fail" for one in results) else "pass"
    close(here, verdict)
    each = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    rates = {"lr": config.lr, "weight_decay": config.weight_decay, "seeds": len(results)}
    return StageResult(
        "final", here.run_id, verdict, (f"Best on validation, by seed: {each}.", *told),
        {**figures, **rates}, best.model_uri,
    )


def _with_rates(config: FinalConfig, tracker: Tracker, data: Splits) -> FinalConfig:
    """lr and weight decay as given, or from the latest finished search, or the recipe's own; the
    rest from the preset."""
    config = resolve(config)
    if config.lr is not None and config.weight_decay is not None:
        return config
    tags = {"stage": "search", "dataset": data.name, "optimizer": config.optimizer}
    search = tracker.latest(**tags, recipe=config.recipe)  # finished: a warning does not matter
    assert config.batch_size is not None
    own = RECIPES[config.recipe].rates_at(config.optimizer, config.batch_size)
    if search is None and own is not None:
        say(f"There is no finished search, so the rates are those of recipe {config.recipe}.")
        return _filled(config, *own)
    if search is None:
        raise BadInput(
            f"there is no finished search of {data.name} with {config.optimizer} in this "
            f"experiment: run `alexnet-mlflow search --dataset={config.dataset} "
            f"--optimizer={config.optimizer}` first, or give --lr and --weight-decay"
        )
    if search.tags["data_digest"] != data.digest:
        say(f"The rates come from a search on other pictures (run {search.run_id}).")
    found = (float(search.params[name]) for name in ("best_lr", "best_weight_decay"))
    return _filled(config, *found)


def _filled(config: FinalConfig, lr: float, decay: float) -> FinalConfig:
    """The config with these rates where it has none of its own."""
    return dataclasses.replace(
        config,
        lr=lr if config.lr is None else config.lr,
        weight_decay=decay if config.weight_decay is None else config.weight_decay,
    )


def _closed(
    config: FinalConfig, here: Tracker, data: Splits, net: AlexNet, progress: Progress
) -> StageResult:
    """Log the curves and the model of the best epoch, and close the run."""
    title = f"{data.title}, {config.optimizer}, lr {config.lr:.4g}, wd {config.weight_decay:.3g}"
    last, best = progress.history[-1], progress.best
    here.figure(plots.curves(progress.history, title, len(data.classes)), "plots/curves.png")
    if last.diverged or best is None:
        here.metrics(divergence(last))
        close(here, "fail", "diverged")
        sentence = (
            f"The loss stopped being a number at step {last.diverged_at_step} (epoch "
            f"{last.epoch}), at lr {config.lr:.4g}: take a lower learning rate."
        )
        lost = {"outcome": "diverged", "diverged_at_step": last.diverged_at_step}
        return StageResult("final", here.run_id, "fail", (sentence,), lost)
    model = _log_model(here, data, net, progress)
    summary = {
        "best_val_accuracy": best.val_accuracy, "best_val_loss": best.val_loss,
        "best_epoch": best.epoch,
    }
    here.metrics(summary, model=model)
    plain, told = beside(data, data.val)
    here.metrics(plain)
    weights = "averaged" if RECIPES[config.recipe].average else "last"
    here.tags({"weights": weights, **({"model_uri": model.uri} if model else {})})
    found = _judgements(progress.history, best)
    failed = judged(here, found, last) == "fail"
    if not failed:
        here.tags({"verdict": "pass"})  # with a warning too: evaluate looks for what passed
    right = round(best.val_accuracy * len(data.val))
    sentence = (
        f"Best on validation: {counted(right, len(data.val))}, loss {best.val_loss:.4f}, at epoch "
        f"{best.epoch} of {last.epoch}; that epoch's {weights} weights are the model."
    )
    figures = {**summary, "lr": config.lr, "weight_decay": config.weight_decay, **plain}
    sentences = (sentence, told, *(check.sentence for check in found))
    return StageResult(
        "final", here.run_id, "fail" if failed else "pass", sentences, figures,
        model.uri if model else None,
    )


def _judgements(history: Sequence[EpochResult], best: EpochResult) -> list[Check]:
    """What the curves say."""
    return [
        checks.loss_not_rising([result.train_loss for result in history]),
        checks.gap(best.train_accuracy, best.val_accuracy),
        checks.best_epoch(best.epoch, len(history)),
    ]


def _log_model(
    here: Tracker, data: Splits, net: AlexNet, progress: Progress
) -> LoggedModel | None:
    """The best epoch's network, on the CPU, in evaluation mode, with its preprocessing."""
    net.load_state_dict(progress.best_weights)
    net.cpu().to(memory_format=torch.contiguous_format)
    example = to_pixels(torch.from_numpy(data.val.images[:EXAMPLES]))
    return here.model(Servable(net).eval(), example, data.classes)
