"""The experiment file: read, checked whole, and every problem said in one message."""

from semigrid.grid.experiment.experiment import (
    EXPERIMENT_COPY,
    Around,
    DatasetConfig,
    Experiment,
    ExperimentFile,
    Range,
    labeled_images,
    load_experiment,
    nearest,
    places,
    show_percent,
)

__all__ = [
    "EXPERIMENT_COPY",
    "Around",
    "DatasetConfig",
    "Experiment",
    "ExperimentFile",
    "Range",
    "labeled_images",
    "load_experiment",
    "nearest",
    "places",
    "show_percent",
]
