"""Predictions on a Ray cluster: those of the evaluation, and interrupted ones go on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.in_process import Grid

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.layout import predictions_file

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own warnings


@pytest.mark.ray
def test_predictions_are_the_evaluations_and_go_on_where_they_were_stopped(
    cluster: None, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigrid.grid.commands import predict as command
    from semigrid.trainers.cluster import ray_tasks

    monkeypatch.setattr(ray_tasks, "TASK_IMAGES", 128)  # several tasks for each part
    text = experiment_text(grid=[{"model": "vit", "labels": ["100%"]}], search={"trials": 1})
    text += f"storage: {tmp_path}\n"
    file = tmp_path / "small.yaml"
    file.write_text(text)
    Grid(plan_of(text), tmp_path / "small").run()

    def predict(*sources: str, output: str, **changes: Any) -> dict[str, Any]:
        where = tmp_path / output
        options: dict[str, Any] = {"threshold": 0.1, "workers": 2, "as_json": True, **changes}
        command.predict(str(file), "digits/vit/100%", list(sources), str(where), **options)
        found: dict[str, Any] = json.loads((where / "predictions.json").read_text())
        return found

    summary = predict("builtin://digits", output="whole")
    assert summary["counts"]["images"] == 1797 and summary["calibration"]["images"] == 151
    table = pd.read_parquet(tmp_path / "whole/parts").set_index("image_id")
    measured = decode_predictions(
        (tmp_path / "small" / predictions_file(summary["trial"])).read_bytes(), 200, 10
    )
    found = np.stack(table.loc[measured.ids, "probabilities"].to_list())
    assert np.array_equal(found, measured.probabilities)

    # interrupted when two of four parts were there: the same command makes the others
    parts = tmp_path / "whole/parts"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts.iterdir()}
    known = {key: summary[key] for key in ("request", "calibration")}
    (tmp_path / "whole/started.json").write_text(json.dumps(known))
    for name in ("parts/test-000000.parquet", "parts/pool-000000.parquet", "predictions.json"):
        (tmp_path / "whole" / name).unlink()
    assert predict("builtin://digits", output="whole") == summary
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == {
        name: content for name, (content, _) in before.items()
    }
    kept = [p.name for p in parts.iterdir() if p.stat().st_mtime_ns == before[p.name][1]]
    assert sorted(kept) == ["train-000000.parquet", "val-000000.parquet"]

    # files, one of which is no image; the same images have the same probabilities
    (tmp_path / "photos").mkdir()
    test = digits.read("test")
    for image_id, image in zip(test.ids, test.images, strict=True):
        (tmp_path / "photos" / f"{image_id}.png").write_bytes(image)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    summary = predict(str(tmp_path / "photos"), output="files", threshold=None, accuracy="5%")
    counts = summary["counts"]
    assert (counts["images"], counts["predicted"], counts["errors"]) == (201, 200, 1)
    assert summary["first_error"] == {"image_id": "broken.jpg", "error": "not an image"}
    table = pd.read_parquet(tmp_path / "files/parts").set_index("image_id")
    assert table.loc["broken.jpg"].drop("error").isna().all()
    found = np.stack(table.loc[[f"{i}.png" for i in measured.ids], "probabilities"].to_list())
    assert found == pytest.approx(measured.probabilities, abs=1e-7)


@pytest.mark.parametrize("died", ["a process", "Ray itself", "nothing"])
def test_what_ray_said_is_kept_where_it_or_a_process_died(
    died: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import WorkerCrashedError

    from semigrid.grid.run import tasks
    from semigrid.grid.run.supervise import LostRayError
    from semigrid.trainers.cluster.ray_tasks import TaskError

    @contextmanager
    def running(streaming: bool, folder: str) -> Iterator[None]:
        logs = Path(folder, "ray/session_2026-01-01_00-00-00_000000_1/logs")
        logs.mkdir(parents=True)
        (logs / "raylet.err").write_text("no memory\n")
        if died == "Ray itself":
            raise LostRayError("Ray did not start")
        yield

    def predict() -> None:
        with tasks.ray_for_tasks(open_storage(tmp_path)):
            try:
                raise WorkerCrashedError() if died == "a process" else InputError("a shard is gone")
            except (WorkerCrashedError, InputError) as error:
                raise TaskError("it ended") from error

    monkeypatch.setattr(tasks, "ray_running", running)
    with pytest.raises(TaskError) as raised:
        predict()
    kept = tmp_path / "logs/ray/session_2026-01-01_00-00-00_000000_1"
    if died == "nothing":
        assert str(raised.value) == "it ended" and not kept.exists()
        return
    assert str(raised.value).endswith(f"; Ray's logs: {kept}")
    assert (kept / "raylet.err").read_text() == "no memory\n"
