"""Where the numbers of a report come from: data, weights, recipes, seeds, versions, machines."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from semigrid.grid.analysis.known import Known
from semigrid.grid.status.cost import show_bill
from semigrid.grid.study.ledger import Record
from semigrid.trainers.progress import DeviceSeconds, add


@dataclass(frozen=True)
class Fact:
    name: str
    values: list[str]


@dataclass(frozen=True)
class RecipeOf:
    """A cell's winner: its hyper-parameters in full, as JSON."""

    cell: str
    trial: str
    seeds: list[int]
    text: str


def facts(known: Known) -> list[Fact]:
    """What someone needs to know to trust the numbers, or to make them again."""
    experiment = known.plan.experiment
    file = experiment.file
    records = [record for record in known.records.values() if record.status != "started"]
    found = [Fact("experiment", [file.name]), Fact("results", [experiment.folder])]
    for name, dataset in experiment.datasets.items():
        manifest = dataset.manifest
        counts = {split: sum(of.values()) for split, of in manifest.counts.items()}
        found.append(
            Fact(
                f"dataset {name}",
                [
                    f"{experiment.dataset_uri(name)}, source {manifest.source}",
                    f"licence {manifest.license}",
                    f"{counts['train']:,} train, {counts['val']:,} val, {counts['test']:,} test "
                    f"images of {len(manifest.classes)} classes, {manifest.pool:,} unlabelled",
                    f"fingerprint {manifest.fingerprint}",
                ],
            )
        )
    for model, weights in experiment.weights.items():
        found.append(Fact(f"weights of {model}", [weights.describe()]))
    for model in file.models:
        if model not in experiment.weights:
            start = file.models[model].from_
            begins = f"those of {start}'s winner" if start else "random ones"
            found.append(Fact(f"weights of {model}", [f"starts from {begins}"]))
    seeds = sorted({record.spec.seed for record in records if record.test is not None})
    found.append(Fact("seeds", [", ".join(map(str, seeds)) or "none measured yet"]))
    trials = f"{file.search.trials} trial" + ("s" if file.search.trials > 1 else "")
    found.append(Fact("search", [f"{trials} a cell, {file.search.sampler}, chosen on val"]))
    spent: DeviceSeconds = {}
    for record in records:
        spent = add(spent, record.device_seconds)
    found.append(Fact("trained on", [show_bill(spent, file.prices)]))
    found.append(Fact("machines", _distinct(record.machine for record in records)))
    found.append(Fact("versions", _distinct(_versions(record) for record in records)))
    return found


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {number}" for name, number in record.versions.items())


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value}) or ["unknown"]


def recipes(known: Known) -> list[RecipeOf]:
    """Of every cell that has a winner."""
    found = []
    for row in known.results.rows:
        state = known.study.searches[row.cell.name]
        if state.winner is None:
            continue
        spec = state.winner.spec
        content = spec.model_dump(mode="json")
        found.append(
            RecipeOf(row.cell.name, spec.id, sorted(state.seeds), json.dumps(content, indent=1))
        )
    return found
