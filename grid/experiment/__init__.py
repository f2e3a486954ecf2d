"""The experiment file: what it may say, how it is read, and all its problems in one message."""

from semigrid.grid.experiment.checks import labeled_images
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.experiment.messages import nearest
from semigrid.grid.experiment.schema import (
    Around,
    ExperimentFile,
    Range,
    show_percent,
)

__all__ = [
    "Around",
    "Experiment",
    "ExperimentFile",
    "Range",
    "labeled_images",
    "load_experiment",
    "nearest",
    "show_percent",
]
