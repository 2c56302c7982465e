"""The babysitting checks: pure functions on measured numbers, each returning a `Check`.

They decide what the report's author decided by eye. They measure nothing themselves and know of
no run, file or network: `probes` and the stages measure, these judge. `data`, `network`,
`training` and `search` say what is judged; every threshold and its source stands in `thresholds`.
"""

from alexnet_mlflow.checks.check import Check, Verdict, overall
from alexnet_mlflow.checks.data import (
    classes_balanced,
    few_copies,
    groups_whole,
    labels_plausible,
    metadata_at_chance,
    no_duplicates_across,
    of_data,
)
from alexnet_mlflow.checks.network import (
    blanked_at_majority,
    class_share,
    deterministic,
    first_loss,
    first_step_loss,
    gradient,
    input_as_stored,
    layers_alive,
    penalty_raises_loss,
    samples_independent,
)
from alexnet_mlflow.checks.search import diverged_share, lead_above_noise, optimum_inside
from alexnet_mlflow.checks.thresholds import GRADIENT_TOLERANCE, OVERFIT_ACCURACY, OVERFIT_LOSS
from alexnet_mlflow.checks.training import (
    all_layers_move,
    best_epoch,
    first_epoch_loss,
    gap,
    handful_by_heart,
    held_out_above_chance,
    loss_not_rising,
    lr_too_high,
    lr_too_low,
    overfits,
    update_ratio,
)

__all__ = [
    "GRADIENT_TOLERANCE",
    "OVERFIT_ACCURACY",
    "OVERFIT_LOSS",
    "Check",
    "Verdict",
    "all_layers_move",
    "best_epoch",
    "blanked_at_majority",
    "class_share",
    "classes_balanced",
    "deterministic",
    "diverged_share",
    "few_copies",
    "first_epoch_loss",
    "first_loss",
    "first_step_loss",
    "gap",
    "gradient",
    "groups_whole",
    "handful_by_heart",
    "held_out_above_chance",
    "input_as_stored",
    "labels_plausible",
    "layers_alive",
    "lead_above_noise",
    "loss_not_rising",
    "lr_too_high",
    "lr_too_low",
    "metadata_at_chance",
    "no_duplicates_across",
    "of_data",
    "optimum_inside",
    "overall",
    "overfits",
    "penalty_raises_loss",
    "samples_independent",
    "update_ratio",
]
