"""Names of all files in a run's folder, relative to it; ``docs/architecture.md`` lists them."""

from semigrid.trainers.layout import (
    CHECKPOINTS,
    attempt_file,
    checkpoint_folder,
    latest_checkpoint,
    predictions_file,
    weights_file,
)

__all__ = [
    "CHECKPOINTS",
    "attempt_file",
    "checkpoint_folder",
    "latest_checkpoint",
    "predictions_file",
    "weights_file",
]

EXPERIMENT_COPY = "experiment.yaml"  # the experiment file of the last run
REPORT = "report.html"
LOCK, LOCK_GUARD = "lock.json", ".lock.guard"
SNAPSHOT = "live.json"  # how a run stands, while one is at work
NODE_TOKEN = ".nodes"  # by which the nodes of a cluster show that they see this folder
LEDGER = "ledger"
SUGGESTED = "suggested"
# what trackers leave in a local folder
OPTUNA, OPTUNA_JOURNAL = "optuna", "journal.log"
TENSORBOARD = "tensorboard"
WANDB = "wandb"


def record_file(trial_id: str) -> str:
    return f"{LEDGER}/{trial_id}.json"


def suggested_file(identity: str) -> str:
    """The suggestions of one search, by its identity."""
    return f"{SUGGESTED}/{identity}.json"


def log_file(trial_id: str) -> str:
    """Why a trial failed, with its traceback."""
    return f"logs/{trial_id}.log"
