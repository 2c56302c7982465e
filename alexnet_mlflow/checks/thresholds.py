"""Where each check draws its line, and why there.

"Measured" means: on this network with PyTorch's own initialisation, on faces, digits, FDDB's crops
and 3,000 pictures of CIFAR-10, with both optimizers. They stand beside the checks, since nobody
chooses them by an option.
"""

from __future__ import annotations

# The data

# The largest class may have this many times its equal share, and never more than half way from the
# equal share to all: a model that names it alone would otherwise look good by accuracy.
LARGEST_SHARE = 2.0
# A classifier that sees no picture may be this much better than the largest class, in shares of the
# pictures: below that it matters to no result. And it may be better by chance once in a thousand
# checks.
METADATA_SURPLUS = 0.02
METADATA_P = 0.001
# Labels that a reliable model is confident are wrong, as a share. A careful set has fewer: 0.15 %
# of MNIST's test labels are wrong, of ten test sets 3.3 % on average (Northcutt, Athalye, Mueller
# 2021, "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks").
WRONG_LABELS = 0.01
# Held-out pictures that stand in train pixel for pixel, as a share. Of published sets CIFAR-100 has
# most copies, 10 % of its test, near ones included (Barz, Denzler 2020, arXiv 1902.00423); more is
# no accident of collecting.
COPIES_SHARE = 0.10

# The untrained network

# How far the first loss may lie from ln C, as a share of ln C; measured: 0.03 %. A large
# initialisation or a wrong number of classes miss by far more. Where few pictures make the loss
# itself uncertain, this many standard errors, but never more than the second share.
FIRST_LOSS_TOLERANCE, FIRST_LOSS_ERRORS, FIRST_LOSS_MOST = 0.05, 4.0, 0.10
# A class's mean probability against 1/C, as a share of 1/C; measured: 2 %.
CLASS_SHARE_TOLERANCE = 0.10
# The optimizer's penalty against weight decay times half the squared weights, as a share. It is
# told from the gradient in float32; measured: 0.1 %.
PENALTY_TOLERANCE = 0.05
# Relative error of a gradient in float64: "1e-4 is usually okay for objectives with kinks"
# (Stanford CS231n, "Gradient checks"); measured: below 1e-6.
GRADIENT_TOLERANCE = 1e-4
# A picture is taken back to grey levels; rounding in float32 is below 1e-3 of a level.
LEVEL_TOLERANCE = 0.01
# Units of a layer that no picture excites, as a share. Before training, up to 42 % of the fully
# connected ones (measured): their biases outweigh what comes in. From the second share on, the
# layer passes nothing on.
DEAD_SHARE, DEAD_LAYER = 0.6, 0.95

# Training

# "Barely moves": the loss after the probe, as a share of ln C. The report's moved by 0.7 %.
STILL_TOLERANCE = 0.01
# "Explodes": a loss this many times ln C, where it has not become nan or inf before.
EXPLODED = 10.0
# Overfitting on purpose ends at 100 %, and a handful of pictures at this loss (the issue).
OVERFIT_ACCURACY, OVERFIT_LOSS = 1.0, 0.01
# Standard deviations above chance: by chance alone once in 700 checks.
CHANCE_DEVIATIONS = 3.0
# ... which must be less than this share of the pictures: else there are too few to tell.
CHANCE_RESOLUTION = 0.2
# Update over weight, a step: "somewhere around 1e-3" (CS231n, "Ratio of weights:updates"), and a
# decade to either side.
UPDATE_LOW, UPDATE_HIGH = 1e-4, 1e-2
# Rise of the training loss from its best epoch, as a share of the first epoch's loss; the last and
# the best are means over a quarter of the epochs, so that one bad epoch does not decide.
LOSS_RISE, LOSS_WINDOW = 0.1, 4
# Training accuracy over validation accuracy. Augmentation and dropout weigh on training alone: in
# the report training is never ahead by more than 1 point.
GAP = 0.10
# Best epoch up to this share of all: the rest was for nothing. A choice: validation accuracy is
# noisy, so that the best epoch may well be the 12th of 20 in a healthy training.
EARLY = 0.5

# Search

# Decades to an edge of the range. A coarse search of 20 draws over ten decades has one each half.
EDGE_DECADES = 0.25
# Of all trials. Above lr 0.1 the report's SGD diverges: 6 of the 10 decades of its range, 60 %. One
# search of 20 draws in twenty has more than 75 % by chance.
DIVERGED_SHARE = 0.75
