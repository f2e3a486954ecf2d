"""Candidates for the rule of docs/recipes.md, on val of real sets with all their labels.

``python -m tests.accuracy.rule`` trains in this process, one thread, without Ray; run it again to
resume. Each candidate is a batch size and a number of steps, at the published learning rate for
256 images. Test is not looked at.
"""

import argparse
import statistics
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from tests.accuracy.build import built
from tests.accuracy.sets import SETS
from tests.accuracy.weights import BACKBONE, LICENSE, lite0_weights
from tests.helpers.in_process import Grid

from semigrid.data.catalog import open_dataset
from semigrid.grid.experiment.checks import labeled_images
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.study.plan import Plan

CANDIDATES = {
    "as published": {"batch_size": 256, "epochs": 90},
    "the rule": {},
    "500 steps of 16": {"batch_size": 16, "steps": 500},
    "500 steps of 64": {"batch_size": 64, "steps": 500},
    "250 steps of 32": {"batch_size": 32, "steps": 250},
    "1,000 steps of 32": {"batch_size": 32, "steps": 1000},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/accuracy"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--labels", nargs="+", type=int, default=[60, 250, 1000])
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--img-size", type=int, default=64)
    args = parser.parse_args()
    print("| set | labels | candidate | steps | batch | Acc@1 on val | each seed |")
    print("|---|---:|---|---:|---:|---:|---|")
    for name in args.sets:
        dataset = built(name, args.folder, everything=True)
        for images in args.labels:
            for candidate in args.candidates:
                print(*row(args, name, dataset, images, candidate), sep=" | ", flush=True)


def row(
    args: argparse.Namespace, name: str, dataset: Path, images: int, candidate: str
) -> Iterator[str]:
    """A line of the table: one candidate's trainings, those of the ledger included."""
    plan = Plan(load_experiment("rule", text=experiment(args, name, dataset, images, candidate)))
    grid = Grid(plan, args.folder / "rule" / plan.experiment.file.name).run()
    (search,) = plan.searches
    recipe = plan.spec(search, {}, 0, None).recipe
    scores = [record.val["acc1"] for record in grid.records.values() if record.val]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    count = labeled_images(plan.experiment.datasets[name], search.cell.labels)
    yield from (f"| {name}", str(count), candidate, str(recipe.total_steps))
    yield from (str(recipe.batch_size), f"{statistics.fmean(scores):.1f}{spread}")
    yield ", ".join(f"{score:.1f}" for score in scores) + " |"


def experiment(
    args: argparse.Namespace, name: str, dataset: Path, images: int, candidate: str
) -> str:
    """The experiment file of one candidate: one cell, one trial, some seeds."""
    counts = open_dataset(str(dataset)).manifest.counts["train"]
    labels = min(Fraction(1), Fraction(images, sum(counts.values())))
    recipe = {"img_size": args.img_size, "evaluations": 1, **SETS[name].recipe}
    file: dict[str, Any] = {
        "name": f"{name}-{images}-{list(CANDIDATES).index(candidate)}-{args.img_size}",
        "datasets": {name: str(dataset)},
        "models": {
            "lite0": {
                "backbone": BACKBONE,
                "pretrained": str(lite0_weights(args.folder, args.folder / "downloads")),
                "weights_license": LICENSE,
                "method": "finetune",
                "recipe": {**recipe, **CANDIDATES[candidate]},
            }
        },
        "grid": [{"model": "lite0", "labels": [show_percent(labels)]}],
        "seeds": args.seeds,
        "trackers": [],
    }
    return yaml.safe_dump(file, sort_keys=False)


if __name__ == "__main__":
    main()
