"""Where the numbers of a report come from: data, weights, recipes, seeds, versions, machines."""

from collections.abc import Iterable
from functools import reduce

from semigrid.data.plausible import DeviceSeconds
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.experiment.bill import show_bill
from semigrid.trainers.execution.progress import add


def facts(results: ResultSet) -> dict[str, list[str]]:
    """What someone needs to know to trust the numbers, or to make them again."""
    experiment = results.plan.experiment
    file = experiment.file
    records = [record for record in results.study.records.values() if record.status != "started"]
    lines = {"experiment": [file.name], "results": [experiment.folder]}
    for name, dataset in experiment.datasets.items():
        manifest = dataset.manifest
        counts = {split: sum(by_class.values()) for split, by_class in manifest.counts.items()}
        lines[f"dataset {name}"] = [
            f"{experiment.dataset_uri(name)}, source {manifest.source}",
            f"licence {manifest.license}",
            f"{counts['train']:,} train, {counts['val']:,} val, {counts['test']:,} test images of "
            f"{len(manifest.classes)} classes, {manifest.pool:,} unlabelled",
            f"fingerprint {manifest.fingerprint}",
        ]
    for model, weights in experiment.weights.items():
        lines[f"weights of {model}"] = [weights.describe()]
    for model, config in file.models.items():
        start = f"those of {config.parent}'s winner" if config.parent else "random ones"
        lines.setdefault(f"weights of {model}", [f"starts from {start}"])
    seeds = sorted({record.spec.seed for record in records if record.test is not None})
    trials = f"{file.search.trials} trial" + ("s" if file.search.trials > 1 else "")
    spent: DeviceSeconds = reduce(add, (record.device_seconds for record in records), {})
    versions = (", ".join(f"{k} {v}" for k, v in record.versions.items()) for record in records)
    return lines | {
        "seeds": [", ".join(map(str, seeds)) or "none evaluated yet"],
        "search": [f"{trials} a cell, {file.search.sampler}, chosen on val"],
        "trained on": [show_bill(spent, file.prices)],
        "machines": _distinct(record.machine for record in records),
        "versions": _distinct(versions),
    }


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value}) or ["unknown"]


def recipes(results: ResultSet) -> dict[str, str]:
    """The winners' hyper-parameters in full as JSON, by a title that names the cell and trial."""
    texts = {}
    for row in results.rows:
        search = results.study.searches[row.cell.name]
        if search.winner is not None:
            seeds = ", ".join(map(str, sorted(search.seeds)))
            title = f"Recipe of {row.cell.name}, trial {search.winner.id}, seeds {seeds}"
            texts[title] = search.winner.spec.model_dump_json(indent=1)
    return texts
