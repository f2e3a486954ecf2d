"""Probes as models of a grid: features made once, a fitted head, and all that cells are for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tests.helpers.in_process import Grid
from tests.helpers.packages import from_document, on_path
from tests.helpers.scheduling import study_of
from tests.helpers.tiny import VIT, VIT_ARGS

from semigrid.data.batches import EvalBatches
from semigrid.data.errors import InputError
from semigrid.data.ranges import SplitRange, make_views
from semigrid.data.splits import label_subset
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import normalize
from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.result_set import read_result_set
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.export.cell import export_cell
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.predict.inference import winner_model
from semigrid.grid.report.page import report
from semigrid.grid.status.lengths import lengths
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.winner import find_winner, load_winner
from semigrid.grid.tables.answer import answer_facts
from semigrid.trainers.evaluation.predictions import Predictions, decode_predictions
from semigrid.trainers.features import store
from semigrid.trainers.features.store import FeatureStore
from semigrid.trainers.layout import FEATURES, predictions_file
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.models.head import pooled
from semigrid.trainers.soft_targets.make import make_soft_targets, soft_target_store
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.fit import frozen_backbone
from semigrid.trainers.trial.job import TrialJob

ARGS = {**VIT_ARGS, "class_token": True}
FEW, ALL = "digits/probe/25%", "digits/probe/100%"


def text_with(folder: Path, **changes: Any) -> str:
    probe = {
        "backbone": VIT,
        "backbone_args": ARGS,
        "method": "probe",
        "pretrained": str(folder / "vit.safetensors"),
        "weights_license": "CC0",
        "recipe": {"img_size": 16},
    }
    still = {"steps": 1, "warmup_steps": 0, "batch_size": 4, "base_lr": 1e-12, "evaluations": 1}
    content = {
        "name": "run",
        "datasets": {"digits": "builtin://digits"},
        "models": {
            "probe": probe,
            "tuned": {"from": "probe", "method": "finetune", "recipe": still},
        },
        "grid": [
            {"model": "probe", "labels": ["25%", "100%"]},
            {"model": "tuned", "labels": ["100%"]},
        ],
        "search": {"trials": 3, "space": {"finetune": {"base_lr": None, "weight_decay": None}}},
        "seeds": 2,
        "storage": str(folder),
    }
    return yaml.safe_dump(content | changes)


@dataclass(frozen=True)
class Run:
    folder: Path
    grid: Grid


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("probes")
    torch.manual_seed(0)
    state = timm.create_model(VIT, **ARGS).state_dict()
    state["patch_embed.proj.weight"] *= 5  # so that images differ in their features
    save_file(state, folder / "vit.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PART_IMAGES", 64)
        plan = Plan(load_experiment("run.yaml", text=text_with(folder)))
        grid = Grid(plan, folder / "run").run()
        assert not grid.problems
        yield Run(folder, grid)


def winner_of(run: Run, cell: str) -> Record:
    return find_winner(run.grid.study, cell)[1]


def measured(run: Run, record: Record) -> Predictions:
    content = (run.folder / "run" / predictions_file(record.id)).read_bytes()
    return decode_predictions(content, 200, 10)


def seed(run: Run, cell: str, number: int) -> Record:
    return run.grid.records[run.grid.study.searches[cell].by_seed[number].id]


def test_each_image_is_shown_to_the_backbone_once_for_all_cells_and_seeds(run: Run) -> None:
    labels = run.grid.plan.experiment.datasets["digits"].train_labels
    few = label_subset(labels, Fraction(1, 4))
    of_few = sum(min(64, len(labels) - 64 * part) for part in np.unique(few // 64))
    made = {(r.cell, r.spec.seed): r.steps_run for r in run.grid.records.values()}
    assert [made[FEW, 0], made[FEW, 1]] == [of_few, 0] and of_few < len(labels)
    assert [made[ALL, 0], made[ALL, 1]] == [len(labels) - of_few, 0]
    facts = run.grid.plan.counts()
    assert facts["trainings"] == 2 * 3  # of 3 trials, a cell without anything to search has one
    assert facts["forwards"] == len(labels) + 2 * 3 * 4  # a step of 4 images, a backward as two


@pytest.mark.parametrize("cell", [FEW, ALL])
def test_its_probabilities_are_those_of_scikit_learn_on_the_same_features(
    run: Run, cell: str
) -> None:
    record, dataset = winner_of(run, cell), run.grid.plan.experiment.datasets["digits"]
    rows = label_subset(dataset.train_labels, Fraction(record.spec.labels))
    found = find_winner(run.grid.study, cell)[0]
    model, place = load_winner(run.grid.plan, found, record, str(run.folder / "run"))
    job = TrialJob(spec=record.spec, place=place, weights=record.weights)
    features = FeatureStore(
        open_storage(run.folder / "run" / FEATURES), frozen_backbone(job, model, "cpu"), dataset
    )
    _, train = features.read("train", rows)
    x = train.astype(float)
    mean, scale = x.mean(axis=0), np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    c = record.history[-1]["c"]
    learner = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10)
    learner.fit((x - mean) / scale, dataset.train_labels[rows])
    views = view_settings(record.spec.recipe, input_statistics(model))
    predictions, shown = measured(run, record), []
    batches = EvalBatches(dataset.read("test"), views, 64)
    ids = []
    with torch.inference_mode():
        for batch in batches:
            shown.append(pooled(model, normalize(batch.views["eval"], views)))
            ids += batch.ids
    order = [ids.index(each) for each in predictions.ids]
    test = torch.cat(shown).double().numpy()[order]
    expected = learner.predict_proba((test - mean) / scale)
    # the network works in float32, and its largest sums lose more than that where C is large
    head = model.get_classifier().weight.detach().double().numpy()
    lost = np.finfo(np.float32).eps / 4 * (np.abs(test) @ np.abs(head.T)).max()
    assert predictions.probabilities == pytest.approx(expected, abs=max(1e-6, lost))
    assert record.val["acc1"] > 15 and record.history[-1]["student_acc1"] == record.val["acc1"]


def test_a_seed_draws_the_tenth_that_chooses_c(run: Run) -> None:
    found = {n: [seed(run, cell, n).history[-1]["c"] for cell in (FEW, ALL)] for n in (0, 1)}
    assert found[0] != found[1]


def test_fine_tuning_starts_from_the_fitted_head(run: Run) -> None:
    """One step at a rate of next to nothing leaves the probe's answers (LP-FT, 2202.10054)."""
    tuned = winner_of(run, "digits/tuned/100%")
    assert tuned.spec.recipe.global_pool is None and tuned.spec.parent is not None
    parent = run.grid.records[tuned.spec.parent]
    before, after = (measured(run, record).probabilities for record in (parent, tuned))
    assert after == pytest.approx(before, abs=1e-5)


def test_predict_gives_the_measured_probabilities(run: Run) -> None:
    cell, record = find_winner(run.grid.study, ALL)
    model = winner_model(run.grid.plan, cell, record, str(run.folder / "run"), gpus=0)
    [images] = dataset_images(run.grid.plan.experiment.datasets["digits"], ["test"]).parts.values()
    found, predictions = model.predict(make_views(images, model.views)), measured(run, record)
    order = [found.ids.index(each) for each in predictions.ids]
    assert found.rows[order] == pytest.approx(predictions.probabilities, abs=1e-9)


def test_as_a_teacher_it_answers_the_views_that_its_head_was_fitted_to(run: Run) -> None:
    cell, record = find_winner(run.grid.study, FEW)
    dataset = run.grid.plan.experiment.datasets["digits"]
    _, place = load_winner(run.grid.plan, cell, record, str(run.folder / "run"))
    make_soft_targets(
        TrialJob(spec=record.spec, place=place, images=64), record.best_weights, "cpu"
    )
    [found] = soft_target_store(place.storage, record.id, dataset, 64).blocks("pool")
    model = winner_model(run.grid.plan, cell, record, str(run.folder / "run"), gpus=0)
    shown = model.predict(make_views(SplitRange.whole(dataset, "pool").cut(0, 64), model.views))
    assert found.ids == shown.ids and found.rows == pytest.approx(shown.rows, abs=1e-3)


def test_timm_alone_opens_what_is_exported(run: Run, tmp_path: Path) -> None:
    ledger = run.grid.ledger
    study = study_of(run.grid.plan, ledger.read_all(), ledger.has_weights)
    done = export_cell(study, ledger.storage, ALL, str(tmp_path / "export"), onnx=False)
    assert done.check.real_images
    assert done.check.measured is not None and done.check.measured < 1e-5
    card = (tmp_path / "export" / "README.md").read_text()
    assert "frozen, with a head fitted by logistic regression on" in card and "no steps" in card


def test_table_answer_and_report_know_models_without_steps(run: Run) -> None:
    ledger = run.grid.ledger
    study = study_of(run.grid.plan, ledger.read_all(), ledger.has_weights)
    results = read_result_set(study, ledger.storage)
    assert len(json.loads(run.grid.table())) == 3
    assert answer_facts(answer(results))
    page = report(results)
    assert "Learning, tuned" in page and "Learning, probe" not in page


def test_the_plan_gives_lengths_to_those_that_have_one(run: Run) -> None:
    assert {each.cell for each in lengths(run.grid.plan)} == {"digits/tuned/100%"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"recipe": {"adapter": {"kind": "lora"}}},
            "recipe.adapter: only methods that train by ste",
        ),
        (
            {"recipe": {"logit_adjustment": 1}},
            "recipe.logit_adjustment: only methods that train by",
        ),
        ({"recipe": {"base_lr": 0.1}}, "recipe.base_lr: only methods that train by steps use it"),
        (
            {"recipe": {"unlabeled_ratio": 2}},
            "recipe.unlabeled_ratio: only semi, fixmatch and distill use it",
        ),
        ({"recipe": {"c": 1}}, "recipe.c: unknown key; there are img_size, global_pool"),
        ({"from": "tuned"}, "from: method probe starts from a backbone: give backbone instead"),
    ],
)
def test_what_a_probe_has_not_is_refused(run: Run, change: dict[str, Any], problem: str) -> None:
    content = yaml.safe_load(text_with(run.folder))
    content["models"]["probe"] |= change
    content["grid"] = content["grid"][:1]
    del content["models"]["tuned"]["recipe"]
    with pytest.raises(InputError) as refused:
        load_experiment("run.yaml", text=yaml.safe_dump(content))
    assert any(
        each.startswith(f"run.yaml: models.probe.{problem}") for each in refused.value.problems
    )


def test_a_pool_and_a_search_of_its_settings_are_refused(run: Run) -> None:
    grid = [{"model": "probe", "labels": ["100%"], "unlabeled": ["100%"]}]
    space = {"probe": {"base_lr": [0.1, 0.2], "img_size": [16, 32]}}
    text = text_with(run.folder, grid=grid, search={"space": space}, controls=["compute"])
    with pytest.raises(InputError) as refused:
        load_experiment("run.yaml", text=text)
    assert refused.value.problems == (
        "run.yaml: grid.0.unlabeled: 'probe' is of method probe, which uses no unlabelled images; "
        "take this key out",
        "run.yaml: search.space.probe.base_lr: a search of it would change nothing: only methods "
        "that train by steps use it",
        "run.yaml: search.space.probe.img_size: cannot be searched; probe has no search",
        "run.yaml: controls: no model of grid uses unlabelled images; take this key out",
    )


def test_a_control_cannot_train_a_probe_for_longer(tmp_path: Path) -> None:
    """Methods of other packages may have a pool and start from a probe."""
    module = tmp_path / f"{from_document(tmp_path)}.py"
    changed = module.read_text().replace(
        "    pool=", '    parents=("finetune", "probe"),\n    pool='
    )
    module.write_text(changed)
    models = yaml.safe_load(text_with(tmp_path))["models"]
    models["probe"]["pretrained"] = False
    del models["probe"]["weights_license"]
    models["tuned"] = {"from": "probe", "method": "mean-teacher"}
    grid = [{"model": "tuned", "labels": ["100%"]}]
    content = yaml.safe_load(text_with(tmp_path, models=models, grid=grid, search={}))
    with on_path(tmp_path):
        Plan(load_experiment("run.yaml", text=yaml.safe_dump(content))).counts()
        with pytest.raises(InputError) as refused:
            load_experiment("run.yaml", text=yaml.safe_dump(content | {"controls": ["compute"]}))
    assert refused.value.problems == (
        "run.yaml: controls: take compute out: it trains for longer what tuned starts from, and "
        "probe is of method probe, without steps",
    )
