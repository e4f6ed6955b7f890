"""The figures of an evaluation and of the training before it."""

from dictlearn.comparison.density import density_figure
from dictlearn.comparison.rates import rate_distortion_figure, sparsity_figure
from dictlearn.comparison.training import read_training_log, training_figure

__all__ = [
    "density_figure",
    "rate_distortion_figure",
    "read_training_log",
    "sparsity_figure",
    "training_figure",
]
