"""Names of the files that trainings leave in a run's folder, relative to it."""

LATEST_CHECKPOINT, PREVIOUS_CHECKPOINT = "latest.pt", "previous.pt"
PROGRESS = "progress.json"  # beside the checkpoints: the last sign of life of a worker group
CHECKPOINTS = "checkpoints"
ATTEMPTS = "attempts"
SOFT_TARGETS = "soft_targets"
FEATURES = "features"  # of frozen backbones, for all trials of the run


def weights_file(trial_id: str) -> str:
    """The best weights of a finished trial."""
    return f"weights/{trial_id}.safetensors"


def predictions_file(trial_id: str) -> str:
    """The probabilities of a winner for all test images."""
    return f"predictions/{trial_id}.parquet"


def soft_targets_folder(trial_id: str) -> str:
    """The probabilities of a teacher for images of the pool."""
    return f"{SOFT_TARGETS}/{trial_id}"


def checkpoint_folder(trial_id: str) -> str:
    return f"{CHECKPOINTS}/{trial_id}"


def latest_checkpoint(trial_id: str) -> str:
    return f"{checkpoint_folder(trial_id)}/{LATEST_CHECKPOINT}"


def attempt_file(trial_id: str) -> str:
    """The token of the one attempt that may write: see ``fence``."""
    return f"{ATTEMPTS}/{trial_id}"
