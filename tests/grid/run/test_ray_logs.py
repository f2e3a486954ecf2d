"""What Ray said of a death outlives Ray's own folder."""

import os
from pathlib import Path

from semigrid.data.storage import open_storage
from semigrid.grid.run import ray_logs
from semigrid.grid.run.ray_logs import keep_ray_logs


def test_the_ends_of_the_last_sessions_logs_are_kept_without_secrets(tmp_path: Path) -> None:
    folder = open_storage(tmp_path / "run")
    scratch = tmp_path / "scratch"
    assert keep_ray_logs(str(scratch), folder) is None  # Ray runs elsewhere, or never started
    for day in (1, 2):
        logs = scratch / f"ray/session_2026-01-0{day}_00-00-00_000000_1/logs"
        logs.mkdir(parents=True)
    (scratch / "ray/session_latest").symlink_to(logs.parent)
    (logs / "worker-1.err").write_text("Fatal Python error: Segmentation fault\n")
    (logs / "worker-2.err").touch()
    (logs / "monitor.log").write_text("no death\n")
    (logs / "gcs_server.out").write_text("s3://id:SECRET@bucket\n" + "x" * ray_logs.LINE + "yy\n")
    cut = "s3://id:SECRET@bucket\n" * (ray_logs.TAIL // 10)
    (logs / "raylet.out").write_text(f"{cut}memory\n")
    assert keep_ray_logs(str(scratch), folder) == str(tmp_path / "run/logs/ray" / logs.parent.name)
    kept = tmp_path / "run/logs/ray" / logs.parent.name
    assert sorted(os.listdir(kept)) == ["gcs_server.out", "raylet.out", "worker-1.err"]
    assert "Segmentation fault" in (kept / "worker-1.err").read_text()
    assert (kept / "gcs_server.out").read_text() == "s3://bucket\n(4,003 characters)\n"
    raylet = (kept / "raylet.out").read_text()
    assert raylet.endswith("s3://bucket\nmemory\n") and len(raylet) <= ray_logs.TAIL
    assert "SECRET" not in raylet


def test_few_logs_are_kept_those_written_last(tmp_path: Path) -> None:
    logs = tmp_path / "ray/session_2026-01-01_00-00-00_000000_1/logs"
    logs.mkdir(parents=True)
    for number in range(ray_logs.FILES + 3):
        (logs / f"worker-{number}.err").write_text("died")
        os.utime(logs / f"worker-{number}.err", (number, number))
    kept = keep_ray_logs(str(tmp_path), open_storage(tmp_path / "run"))
    assert kept is not None and len(os.listdir(kept)) == ray_logs.FILES
    assert not Path(kept, "worker-2.err").exists() and Path(kept, "worker-3.err").exists()


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    logs = tmp_path / "ray/session_2026-01-01_00-00-00_000000_1/logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("died")
    (tmp_path / "file").touch()
    assert keep_ray_logs(str(tmp_path), open_storage(tmp_path / "file")) is None
