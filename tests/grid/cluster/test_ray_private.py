"""Ray's private names do what grid uses them for: the checklist of a Ray upgrade."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def test_the_head_is_known_by_a_resource(cluster: None) -> None:
    import ray

    from semigrid.grid.cluster.ray_private import is_head
    from semigrid.grid.run.surroundings import check_address

    check_address()  # it answers as a cluster does
    (node,) = ray.nodes()
    assert is_head(node)
    others = {name: n for name, n in node["Resources"].items() if "head" not in name}
    assert not is_head({**node, "Resources": others})


def test_a_local_cluster_has_an_autoscaler_that_reports_and_starts_nothing(cluster: None) -> None:
    import ray

    from semigrid.grid.cluster.autoscaler import cluster_growth
    from semigrid.grid.cluster.growth import FIXED
    from semigrid.grid.cluster.ray_private import autoscaler_has_reported, autoscaler_options

    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    options = autoscaler_options(port)
    assert options is not None and "--autoscaling-config" not in options
    deadline = time.monotonic() + 30
    while not autoscaler_has_reported():  # as seen where the process itself is not
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert cluster_growth() == FIXED


def test_an_autoscaler_on_this_machine_is_found_by_its_command_line(tmp_path: Path) -> None:
    from semigrid.grid.cluster.ray_private import autoscaler_options

    script = tmp_path / "autoscaler" / "_private" / "monitor.py"
    script.parent.mkdir(parents=True)
    script.write_text("import time; print('started', flush=True); time.sleep(60)")
    options = ["--gcs-address=10.0.0.1:64123", "--autoscaling-config=/tmp/x.yaml"]
    command = [sys.executable, str(script), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        assert autoscaler_options("64124") is None
        known = autoscaler_options("64123")
        assert known is not None and known["--autoscaling-config"] == "/tmp/x.yaml"
        process.kill()


@pytest.mark.parametrize("module", ["_private/monitor.py", "v2/monitor.py"])
def test_rays_own_autoscalers_have_that_command_line(module: str) -> None:
    import ray

    source = (Path(ray.__file__).parent / "autoscaler" / module).read_text()
    assert '"--gcs-address"' in source and '"--autoscaling-config"' in source


def test_kuberay_is_known_by_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from semigrid.grid.cluster.ray_private import in_kuberay

    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    assert not in_kuberay()
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")  # as KubeRay's operator does
    assert in_kuberay()


def test_a_head_is_asked_once_whether_it_knows_us(cluster: None) -> None:
    import ray

    from semigrid.grid.cluster.ray_private import connect_to_head

    connect_to_head(ray.get_runtime_context().gcs_address)


def test_tune_copies_no_credentials_into_runtime_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.tune.execution import class_cache

    from semigrid.grid.cluster.ray_private import keep_from_runtime_environments

    names = set(class_cache.ENV_VARS_TO_PROPAGATE)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", names | {"AWS_SECRET_ACCESS_KEY"})
    keep_from_runtime_environments("AWS_")
    kept = class_cache.ENV_VARS_TO_PROPAGATE
    assert kept and not [name for name in kept if name.startswith("AWS_")]


def test_a_job_puts_no_folder_on_the_import_path_of_its_processes() -> None:
    from ray.core.generated.common_pb2 import JobConfig

    from semigrid.grid.cluster.ray_private import JobWithoutFolders

    job = JobWithoutFolders()
    job._py_driver_sys_path.append("/home/user")  # as Ray does when the driver connects
    job.set_runtime_env({"env_vars": {"A": "1"}})
    sent = JobConfig.FromString(job._serialize())
    assert list(sent.py_driver_sys_path) == []
    assert '"A": "1"' in sent.runtime_env_info.serialized_runtime_env


def test_a_cluster_of_our_own_listens_to_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import services

    from semigrid.grid.cluster.ray_private import loopback_only

    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    before = services.get_node_ip_address()
    with loopback_only():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert services.get_node_ip_address() == before


def test_a_token_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from semigrid.grid.cluster.ray_private import AuthenticationTokenLoader, forget_token

    loader = AuthenticationTokenLoader.instance()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_token()
    assert not loader.has_token(ignore_auth_mode=True)
    (tmp_path / "token").write_text("a" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    forget_token()
    assert loader.has_token(ignore_auth_mode=True)
    monkeypatch.undo()
    forget_token()
