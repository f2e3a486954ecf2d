"""All methods on one real set, with controls, as a table: ``python -m tests.accuracy.methods``.

The set and EfficientNet-Lite0's weights are those of ``python -m tests.accuracy``, and so are the
folder and its options. Run it again to resume.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.accuracy.build import built
from tests.accuracy.sets import SETS
from tests.accuracy.table import difference, score
from tests.accuracy.weights import BACKBONE, LICENSE, lite0_weights

from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.commands.context import load, open_results
from semigrid.grid.experiment.schema import show_percent

SIZE_OF_PROBE = 224  # pixels that Lite0 was trained at; one forward an image is cheap
STUDENT = "mobilenetv3_small_050"
LORA: dict[str, Any] = {"kind": "lora", "targets": ["conv_pw", "conv_pwl"]}


def methods_experiment(
    name: str,
    dataset: Path | str,
    weights: Path,
    folder: Path,
    *,
    labels: Sequence[str],
    seeds: int,
    steps: int | None = None,
) -> str:
    """YAML; the rule of docs/recipes.md sets batch size, rate and, without ``steps``, those."""
    lite0 = {"backbone": BACKBONE, "pretrained": str(weights), "weights_license": LICENSE}
    recipe = {"img_size": SETS[name].pixels, "evaluations": 5, **SETS[name].recipe}
    if steps is not None:
        recipe["steps"] = steps
    with_weak = recipe | SETS[name].weak
    models: dict[str, Any] = {
        "probe": lite0 | {"method": "probe", "recipe": {"img_size": SIZE_OF_PROBE}},
        "lite0": lite0 | {"method": "finetune", "recipe": recipe},
        "lora": lite0 | {"method": "finetune", "recipe": recipe | {"adapter": LORA}},
        "semi": {"from": "lite0", "method": "semi", "recipe": with_weak},
        "fixmatch": {"from": "lite0", "method": "fixmatch", "recipe": with_weak},
        "small": {
            "backbone": STUDENT,
            "pretrained": False,
            "from": ["semi", "lite0"],
            "method": "distill",
            "recipe": with_weak,
        },
    }
    file: dict[str, Any] = {
        "name": f"{name}-methods",
        "datasets": {name: str(dataset)},
        "models": models,
        "grid": [{"model": model, "labels": list(labels)} for model in models],
        "controls": ["compute"],
        "seeds": seeds,
        "storage": str(folder),
    }
    return yaml.safe_dump(file, sort_keys=False)


def table(results: ResultSet) -> Iterator[str]:
    """A line for each model and number of labels, in Markdown."""
    yield "| model | labels to train | Acc@1 | control | difference | core-minutes |"
    yield "|---|---:|---:|---:|---:|---:|"
    controls = {(row.cell.model, row.cell.labels): row for row in results.rows if row.cell.control}
    for row in results.rows:
        if row.cell.control is None:
            control = controls.get((row.cell.model, row.cell.labels))
            yield _line(results, row, control)


def _line(results: ResultSet, row: CellResult, control: CellResult | None) -> str:
    beside = (
        " | – | –"
        if control is None
        else (f" | {score(control)} | {difference(results.planned.get(row.cell))}")
    )
    minutes = sum(row.with_parents.values()) / 60
    labels = f"{row.label_count.train} ({show_percent(row.cell.labels)})"
    return f"| {row.cell.model} | {labels} | {score(row)}{beside} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy.methods", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/accuracy"))
    parser.add_argument("--set", choices=SETS, default="digits")
    parser.add_argument("--labels", nargs="+", default=["25%", "100%"], metavar="PERCENT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of those of the rule")
    parser.add_argument("--table", action="store_true", help="only show what is finished")
    args = parser.parse_args()
    file = args.folder / f"{args.set}-methods.yaml"
    semigrid = (sys.executable, "-m", "semigrid")
    if not args.table:
        weights = lite0_weights(args.folder, args.folder / "downloads")
        text = methods_experiment(
            args.set, built(args.set, args.folder), weights, args.folder,
            labels=args.labels, seeds=args.seeds, steps=args.steps,
        )  # fmt: skip
        file.write_text(text)
        # a failed cell is a row of the table, too
        if (code := subprocess.run([*semigrid, "run", str(file)]).returncode) not in (0, 1):
            sys.exit(code)
    print("\n".join(table(open_results(load(str(file))))))
    subprocess.run([*semigrid, "answer", str(file)], check=True)


if __name__ == "__main__":
    main()
