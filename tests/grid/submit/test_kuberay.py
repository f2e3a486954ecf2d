"""The RayJob of an experiment: what KubeRay accepts, and what must and must not stand in it."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.helpers.experiments import SMALL, experiment_text

from semigrid.data.errors import InputError
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.submit.kuberay import (
    FILE_NAME,
    RayJobOptions,
    job_name,
    manifest,
)

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "kuberay_rayjob.json").read_text())
OPTIONS = RayJobOptions(image="shop/semigrid:1")
EVERYTHING = RayJobOptions(
    image="shop/semigrid:1",
    namespace="teams-vision",
    max_pods=3,
    secret="bucket-keys",
    service_account="semigrid",
    claim="shared",
)
BUCKET = {"storage": "s3://shop/experiments"}


def documents(
    options: RayJobOptions = OPTIONS, text: str | None = None, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob, as a reader of YAML finds them."""
    text = experiment_text(**{**BUCKET, **changes}) if text is None else text
    experiment = load_experiment("grid.yaml", text=text)
    config, job = yaml.safe_load_all(manifest(experiment, options))
    return config, job


def check(job: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(job)


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for g in groups for container in g["template"]["spec"]["containers"]]


@pytest.mark.parametrize("options", [OPTIONS, EVERYTHING])
@pytest.mark.parametrize("train", [{}, {"workers": 4, "gpus_per_worker": 1, "cpus_per_worker": 4}])
def test_every_field_is_one_that_kuberay_documents(
    options: RayJobOptions, train: dict[str, Any]
) -> None:
    _, job = documents(options, train=train)
    check(job)


@pytest.mark.parametrize(
    "damage",
    [
        lambda job: job["spec"].update(entryPoint="semigrid"),
        lambda job: job["spec"].update(backoffLimit="5"),
        lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="Token"),
        lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda job: containers(job)[0].update(envfrom=[]),
        lambda job: job["metadata"].update(name="Semigrid"),
    ],
)
def test_the_schema_refuses_what_kuberay_would(damage: Any) -> None:
    _, job = documents()
    damage(job)
    with pytest.raises(jsonschema.ValidationError):
        check(job)


def test_the_job_runs_the_mounted_experiment_and_goes_on_after_a_loss() -> None:
    config, job = documents()
    spec = job["spec"]
    assert spec["entrypoint"] == "semigrid run /etc/semigrid/experiment.yaml"
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert mounts["experiment"] == "/etc/semigrid"
    assert volumes["experiment"]["configMap"]["name"] == config["metadata"]["name"]
    assert list(config["data"]) == [FILE_NAME]


def test_the_cluster_asks_for_a_token_is_not_exposed_and_scales_from_zero() -> None:
    _, job = documents(EVERYTHING)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    head = cluster["headGroupSpec"]
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    for group in cluster["workerGroupSpecs"]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # the autoscaler wants that
        assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 3)


def test_ray_is_the_pinned_version() -> None:
    pins = (HERE.parents[2] / "constraints.txt").read_text().splitlines()
    _, job = documents()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pins


def test_worker_pods_hold_the_trainings_of_each_model() -> None:
    models = {**SMALL["models"]}
    models["vit"] = {**models["vit"], "train": {"workers": 1}}
    train = {"workers": 4, "gpus_per_worker": 1, "cpus_per_worker": 4}
    _, job = documents(models=models, train=train)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [g["template"]["spec"]["containers"][0]["resources"]["limits"] for g in groups]
    assert limits == [
        {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4"},
    ]
    head = containers(job)[0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in head
    tolerated = {t["key"] for g in groups for t in g["template"]["spec"]["tolerations"]}
    assert tolerated == {"nvidia.com/gpu"}


def test_a_wide_training_takes_several_pods_and_a_streamed_pool_twice_the_cpus() -> None:
    options = RayJobOptions(image="shop/semigrid:1", workers_per_pod=2)
    train = {"workers": 4, "gpus_per_worker": 0.5, "cpus_per_worker": 2, "stream": "ray"}
    _, job = documents(options, train=train)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    few = RayJobOptions(image="shop/semigrid:1", workers_per_pod=2, max_pods=1)
    with pytest.raises(InputError, match="max_pods: 1: a training takes 2 pods"):
        documents(few, train=train)


ODD = {
    "quotes": """a: 'it''s' "so" # not: a comment?""",
    "variables": "${HOME} $(whoami) `id` $$ {{ .Values.x }}",
    "like numbers": "1e3 0o17 0x1F y n yes no null ~ 2001-01-01",
    "documents": "---\n...\n- !!python/object:os.system",
    "spaces": "  ends with spaces   \n\n   and starts with them",
    "tabs": "tab\tand\t",
    "letters": "Schürze エプロン 👩‍🍳 \u2028 \x85 \u00a0",
}


@pytest.mark.parametrize("comment", ODD.values(), ids=ODD)
def test_the_experiment_stays_as_it_was_written(comment: str) -> None:
    # as comments, so that any text is still a valid experiment
    lines = re.split("[\n\x85\u2028]", comment)
    odd = "".join(f"# {line}\n" for line in lines) + experiment_text(**BUCKET)
    odd += "\n# last line without an end"
    config, _ = documents(text=odd)
    assert config["data"][FILE_NAME] == odd


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_any_text_in_a_value_is_read_back_as_it_was(text: str) -> None:
    place = "s3://shop/" + re.sub(r"[\x00-\x1f\x7f]", " ", text)
    config, job = documents(storage=place)
    check(job)
    assert yaml.safe_load(config["data"][FILE_NAME])["storage"] == place


@pytest.mark.parametrize("name", ["1e3", "0x10", "yes", "null", "2001-01-01", "1.5"])
def test_texts_that_look_like_something_else_are_quoted(name: str) -> None:
    experiment = load_experiment("grid.yaml", text=experiment_text(name=name, **BUCKET))
    written = manifest(experiment, OPTIONS)
    values = re.findall(r"^ *(?:- )?[^\s:#]+: (\S.*)$", written, flags=re.M)
    plain = [v for v in values if not re.fullmatch(r'".*"|\d+|true|false|\{\}|\|-?', v)]
    # what is left over is the experiment itself, inside its block
    assert set(plain) <= set(re.findall(r": (\S.*)$", experiment.text, flags=re.M))
    _, job = yaml.safe_load_all(written)
    assert job["metadata"]["annotations"]["semigrid/experiment"] == name


def test_names_are_dns_labels_and_never_shared() -> None:
    names = [
        "aprons",
        "Aprons",
        "a.b",
        "a_b",
        "a-b",
        "a--b",
        "a-",
        "0",
        "A" * 100,
        "a" * 100,
        "1e3",
    ]
    made = [job_name(name) for name in names]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name) for name in made)
    assert len(set(made)) == len(names)
    assert job_name("aprons") == "semigrid-aprons"
    for name in names:
        config, job = documents(name=name)
        check(job)
        assert config["metadata"]["name"] == job["metadata"]["name"]


def test_secrets_and_identities_stand_there_by_name_only() -> None:
    _, job = documents(EVERYTHING)
    cluster = job["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == "semigrid"
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "bucket-keys"}}]
        assert "env" not in pod["containers"][0]
    assert job["metadata"]["namespace"] == "teams-vision"
    assert not any("envFrom" in container for container in containers(documents()[1]))


def test_nothing_of_this_process_environment_gets_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket-4711",
        "RAY_AUTH_TOKEN": "token-of-the-cluster-4711",
        "RAY_ADDRESS": "ray-head-4711:6379",
        "KUBECONFIG": "kubeconfig-4711",
    }
    for key, value in secrets.items():
        monkeypatch.setenv(key, value)
    experiment = load_experiment("grid.yaml", text=experiment_text(**BUCKET))
    written = manifest(experiment, EVERYTHING)
    long_enough = [value for value in os.environ.values() if len(value) > 8]
    assert set(secrets.values()) <= set(long_enough)
    assert [value for value in long_enough if value in written] == []


def test_a_claim_is_mounted_everywhere_and_makes_paths_in_it_good() -> None:
    _, job = documents(EVERYTHING, storage="/mnt/semigrid/experiments")
    check(job)
    cluster = job["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert {"name": "storage", "mountPath": "/mnt/semigrid"} in pod["containers"][0][
            "volumeMounts"
        ]
        claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "storage"]
        assert claims == [{"claimName": "shared"}]


@pytest.mark.parametrize("storage", ["results", "/mnt/semigrid/x", "x/a://b", "/mnt/semigrid/../x"])
def test_storage_that_no_pod_reaches_is_refused(storage: str) -> None:
    options = EVERYTHING if ".." in storage else OPTIONS
    with pytest.raises(InputError, match="storage: .*no pod of a cluster can reach it"):
        documents(options, storage=storage)


def test_an_image_is_needed() -> None:
    with pytest.raises(InputError, match="image: give the image's name"):
        documents(RayJobOptions(image=""))


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_an_option_is_a_value_whatever_it_holds(text: str) -> None:
    text = text.replace("\n", " ")  # no option of a command line has lines
    options = replace(EVERYTHING, image=text, secret=text, claim=text, service_account=text)
    _, usual = documents(EVERYTHING)
    _, job = documents(options)
    for container, known in zip(containers(job), containers(usual), strict=True):
        assert container.pop("image") == text and known.pop("image") == EVERYTHING.image
        assert container.pop("envFrom") == [{"secretRef": {"name": text}}]
        assert known.pop("envFrom") and container == known
