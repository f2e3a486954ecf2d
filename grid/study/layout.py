"""Names of the files in a run's folder, beside those of ``trainers.layout``, relative to it."""

EXPERIMENT_COPY = "experiment.yaml"  # the experiment file of the last run
REPORT = "report.html"
LOCK, LOCK_GUARD = "lock.json", ".lock.guard"
SNAPSHOT = "live.json"  # how a run stands, while one is at work
NODE_TOKEN = ".nodes"  # shows that a node of a cluster sees the same folder as the driver
LEDGER = "ledger"
RUN_LOG = "logs/run.log"  # the last error that ended a run before its time
RAY_LOGS = "logs/ray"  # a folder for each start of Ray that something died in
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
