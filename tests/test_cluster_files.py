"""The cluster files, as Ray's launcher reads them. Nothing is started."""

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NAMES = ["cluster.yaml", "cluster-onprem.yaml"]
POLICIES = ["autoscaler.json", "bucket.json", "trust.json"]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def cluster(name: str = "cluster.yaml") -> dict[str, Any]:
    content = yaml.safe_load(text(name))
    assert isinstance(content, dict)
    return content


def starts(config: dict[str, Any]) -> dict[str, str]:
    """The command that starts Ray, on the head and on workers."""
    found = {}
    for kind in ("head", "worker"):
        (found[kind],) = (c for c in config[f"{kind}_start_ray_commands"] if "ray start" in c)
    return found


def values(node: Any) -> list[str]:
    """Every text in a file, keys too."""
    if isinstance(node, dict):
        return [v for key, value in node.items() for v in [*values(key), *values(value)]]
    if isinstance(node, list):
        return [v for value in node for v in values(value)]
    return [str(node)]


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(cluster(name))
    validate_config(config)
    for kind in config["available_node_types"].values():
        assert all(isinstance(amount, int) for amount in kind["resources"].values())
    if name == "cluster-onprem.yaml":
        (kind,) = config["available_node_types"].values()
        machines = len(config["provider"]["worker_ips"])
        assert (kind["min_workers"], kind["max_workers"]) == (machines, machines)


@pytest.mark.ray
@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config.update(idle_timeout="10"),
        lambda config: config["available_node_types"]["gpu-spot"]["resources"].update(GPU=0.5),
        lambda config: config.update(head_node_type="haed"),
        lambda config: config["available_node_types"]["head"].pop("node_config"),
    ],
)
def test_ray_would_refuse_a_mistake(damage: Any) -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = copy.deepcopy(cluster())
    damage(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_ray_start_knows_every_option(name: str) -> None:
    from ray.scripts.scripts import start

    for command in starts(cluster(name)).values():
        words = shlex.split(command.partition("ray start ")[2])
        start.make_context("ray start", words)  # parses, and runs nothing; raises for an option


def test_the_head_trains_nothing() -> None:
    config = cluster()
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert not re.match(r"(g|p|trn|inf)\d", head["node_config"]["InstanceType"])
    onprem = starts(cluster("cluster-onprem.yaml"))
    assert {"--num-gpus=0", "--num-cpus=0"} <= set(onprem["head"].split())


def test_workers_are_g5_from_zero_to_a_limit() -> None:
    config = cluster()
    workers = {k: v for k, v in config["available_node_types"].items() if k != "head"}
    assert workers
    for kind in workers.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= config["max_workers"]
        assert kind["node_config"]["InstanceType"].startswith("g5.")
        assert kind["resources"]["GPU"] > 0
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False


def test_spot_comes_first_and_on_demand_is_the_same_machine() -> None:
    kinds = cluster()["available_node_types"]
    spot, demand = copy.deepcopy(kinds["gpu-spot"]), copy.deepcopy(kinds["gpu-on-demand"])
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in demand["node_config"]
    assert spot.pop("priority") > demand.pop("priority")
    spot.pop("max_workers"), demand.pop("max_workers")
    assert spot == demand


@pytest.mark.parametrize("name", NAMES)
def test_every_start_asks_for_the_token(name: str) -> None:
    config = cluster(name)
    for command in starts(config).values():
        before, _, _ = command.partition("ray start")
        assert "export RAY_AUTH_MODE=token " in before
        assert "disabled" not in command
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


@pytest.mark.parametrize("name", NAMES)
def test_the_dashboard_listens_on_loopback_only(name: str) -> None:
    config = cluster(name)
    head = starts(config)["head"].split()
    assert "--dashboard-host=127.0.0.1" in head
    assert "--port=6379" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in starts(config)["worker"].split()
    assert "0.0.0.0" not in text(name)


def test_nodes_have_no_more_rights_than_their_roles_and_group_give() -> None:
    config = cluster()
    # without these, Ray makes a role with all of EC2 and S3, and a group of its own
    assert config["provider"]["security_group"] == {"GroupName": "semigrid"}
    kinds = config["available_node_types"]
    profiles = {k: v["node_config"]["IamInstanceProfile"]["Name"] for k, v in kinds.items()}
    assert profiles.pop("head") == "semigrid-head"
    assert set(profiles.values()) == {"semigrid-worker"}
    for kind in kinds.values():
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_name_their_actions_and_limit_what_changes_things(name: str) -> None:
    policy = json.loads((ROOT / "docs/aws" / name).read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            assert "*" not in action
            only_looks = action.startswith("ec2:Describe")
            assert only_looks or statement.get("Resource") != "*"
    cluster_name = cluster()["cluster_name"]
    if name == "autoscaler.json":
        tagged = [s for s in policy["Statement"] if cluster_name in json.dumps(s.get("Condition"))]
        assert {statement["Sid"] for statement in tagged} == {
            "StartWorkersOfThisClusterOnly",
            "InTheSubnetsAndGroupOfThisClusterOnly",
            "TagAndEndNodesOfThisClusterOnly",
        }
        # what decides which program runs, who reaches it and what it reaches
        for statement in policy["Statement"]:
            if statement["Action"] == "ec2:RunInstances" and "Condition" not in statement:
                free = {arn.split(":")[-1].split("/")[0] for arn in statement["Resource"]}
                assert free == {"key-pair", "network-interface", "spot-instances-request", "volume"}
        assert "Key=semigrid-cluster,Value=semigrid" in text("cluster.yaml")
        types = cluster()["available_node_types"]
        workers = [v["node_config"]["InstanceType"] for k, v in types.items() if k != "head"]
        assert all(kind.startswith("g5.") for kind in workers)
        assert '"ec2:InstanceType": "g5.*"' in json.dumps(policy)


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_and_the_pins_are_copied_and_installed(name: str) -> None:
    config = cluster(name)
    # no folder of the checkout, where keys and datasets may lie
    assert config["file_mounts"] == {
        "~/.ray/auth_token": "~/.ray/auth_token",
        "~/semigrid/dist": "dist",
        "~/semigrid/constraints.txt": "constraints.txt",
    }
    assert "make wheel" in text(name) and "--out-dir dist" in text("Makefile")
    assert any("~/semigrid/dist/semigrid-*.whl" in c for c in config["setup_commands"])
    installs = [c for c in config["setup_commands"] if " install " in c]
    assert all("--constraint ~/semigrid/constraints.txt" in command for command in installs)
    assert any("--compile-bytecode" in command for command in installs)
    for path in re.findall(r"file://(\S+?)(?=[\s\"]|$)", text(name)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", NAMES)
def test_shell_commands_are_well_formed(name: str) -> None:
    config = cluster(name)
    for key, commands in config.items():
        for command in commands if key.endswith("_commands") else []:
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*NAMES, *(f"docs/aws/{name}" for name in POLICIES)])
def test_no_secret_account_or_registry_stands_in_it(name: str) -> None:
    written = text(name)
    assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", written)
    assert not re.search(r"\b\d{12}\b", written)  # an account
    assert not re.search(r"\b[0-9a-f]{32,}\b", written)  # a token as Ray makes them
    assert "PRIVATE KEY" not in written
    assert not re.search(r"https?://(?!127\.0\.0\.1)", written)
    for value in values(yaml.safe_load(written)):
        assert not re.search(r"(TOKEN|SECRET\w*|PASSWORD|ACCESS_KEY\w*)=\S", value, re.IGNORECASE)
