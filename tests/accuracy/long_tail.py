"""What logit adjustment does to rare classes: the digits with a long tail, τ = 0 against τ = 1.

``python -m tests.accuracy.long_tail`` trains EfficientNet-Lite0 from its ImageNet weights in this
process, one thread, without Ray. Each training is a line of a file when it ends: run it again to
resume. Val keeps its equal classes; natural scores weigh them by their shares of the train labels.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.accuracy.build import RULE, built
from tests.accuracy.rule import mean_and_deviation, with_interval
from tests.accuracy.trainings import OPTIONS, weights, weights_hash
from tests.accuracy.weights import BACKBONE

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset, Split
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.methods import find_method, published, resolve
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.trial.data import evaluation_batches, view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.model import finished_model
from semigrid.trainers.trial.run import run_trial

RATIO = 20  # images of the most frequent class for each of the rarest
TAUS = (0.0, 1.0)
RARE = 3  # classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/accuracy"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    args = parser.parse_args()
    dataset = long_tailed(args.folder)
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    print(
        f"train labels by class: {', '.join(map(str, counts))}; {counts.sum()} in all", flush=True
    )
    file = args.folder / "long-tail.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {line["trial"]: line for line in lines}
    found: dict[float, list[dict[str, float]]] = {tau: [] for tau in TAUS}
    for seed in range(args.seeds):
        for tau in TAUS:
            spec = _spec(dataset, counts, tau, seed, args)
            if spec.id not in done:
                scores = _train(spec, dataset, counts, args.folder)
                done[spec.id] = {"trial": spec.id, "tau": tau, "seed": seed, **scores}
                with file.open("a") as out:
                    out.write(json.dumps(done[spec.id]) + "\n")
            found[tau].append(done[spec.id])
    print("\n".join(table(found)))


def long_tailed(folder: Path) -> Dataset:
    """The digits, whose class c keeps RATIO^(−c/9) of its train images (Cao et al. 2019)."""
    place = folder / "digits-long-tail"
    if not (place / "dataset.json").exists():
        whole = open_dataset(str(built("digits", folder, RULE)))
        splits: tuple[Split, ...] = ("train", "val", "test")
        rows = []
        for split in splits:
            table = whole.read(split)
            seen = [0] * whole.num_classes
            most = min(np.bincount(table.labels))
            for name, content, label in zip(table.ids, table.images, table.labels, strict=True):
                keep = round(most * RATIO ** (-label / (whole.num_classes - 1)))
                if split != "train" or seen[label] < keep:
                    rows.append(StoredImage(name, content, int(label), split, name))
                seen[label] += 1
        facts: dict[str, Any] = {"license": whole.manifest.license, "source": whole.manifest.source}
        write_dataset(
            str(place), rows, name="digits-long-tail", classes=whole.manifest.classes, **facts
        )
    return open_dataset(str(place))


def _spec(
    dataset: Dataset, counts: np.ndarray, tau: float, seed: int, args: argparse.Namespace
) -> TrialSpec:
    values = {
        "img_size": 32,
        "evaluations": 1,
        "steps": args.steps,
        "logit_adjustment": tau,
        "hflip": 0,  # a mirrored digit is none
        "crop_scale": [0.5, 1.0],
    }
    recipe = published("finetune", BACKBONE, values)
    return TrialSpec(
        dataset=dataset.manifest.fingerprint,
        labels="1",
        pool_images=None,
        backbone=BACKBONE,
        backbone_args={},
        weights=f"sha256:{weights_hash(args.folder)}",
        method="finetune",
        method_version=find_method("finetune").version,
        recipe=resolve(recipe, "finetune", int(counts.sum()), 0),
        precision="fp32",
        seed=seed,
        parent=None,
    )


def _train(spec: TrialSpec, dataset: Dataset, counts: np.ndarray, folder: Path) -> dict[str, float]:
    """Scores of the better of student and teacher on val after the last step, in per cent."""
    place = Place(
        dataset_uri=str(folder / "digits-long-tail"),
        folder=str(folder / "long-tail"),
        weights_uri=str(weights(folder)),
    )
    job = TrialJob(spec=spec, place=place, options=OPTIONS)
    runtime = Runtime(Checkpoints(job.checkpoints), device="cpu")
    outcome = run_trial(job, runtime)
    runtime.checkpoints.delete()
    assert outcome.best_weights is not None
    model = finished_model(spec, place, dataset.num_classes, outcome.best_weights)
    views = view_settings(spec.recipe, input_statistics(model))
    predictions = evaluate(
        model, evaluation_batches(dataset, "val", views, runtime), views, runtime
    )
    tau, shares = spec.logit_adjustment, counts / counts.sum()
    metrics = predictions.metrics(shares, tau)
    rare = predictions.labels >= dataset.num_classes - RARE
    return {
        "balanced": metrics["acc1"],
        "natural": metrics["acc1_natural"],
        "rare": 100 * float(predictions.right[rare].mean()),
    }


def table(found: dict[float, list[dict[str, Any]]]) -> Iterator[str]:
    """In Markdown: a line for each score, the difference paired by seed (Student's t)."""
    plain, adjusted = found.values()
    yield "| Acc@1 on val | τ = 0 | τ = 1 | difference |"
    yield "|---|---:|---:|---:|"
    names = {"balanced": "balanced", "natural": "natural", "rare": f"the {RARE} rarest classes"}
    for key, name in names.items():
        columns = ([line[key] for line in lines] for lines in (plain, adjusted))
        pairs = [two[key] - one[key] for one, two in zip(plain, adjusted, strict=True)]
        shown = " | ".join(map(mean_and_deviation, columns))
        yield f"| {name} | {shown} | {with_interval(pairs)} |"


if __name__ == "__main__":
    main()
