import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.helpers.experiments import changed
from tests.helpers.tiny import VIT, VIT_ARGS, tiny_recipe
from timm.layers import resample_abs_pos_embed
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Plan
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.weights import Weights, file_weights, hub_weights
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.model import start_model

ARGS = VIT_ARGS | {"class_token": True}  # as MAE's has one


def source(**args: Any) -> nn.Module:
    """A model whose weights lie in the file: other classes, and a norm where ours pools first."""
    torch.manual_seed(3)
    model: nn.Module = timm.create_model(VIT, **(ARGS | {"num_classes": 7} | args))
    return model


def written(folder: Path, state: Any, suffix: str = ".safetensors") -> str:
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def spec_of(uri: str, backbone: str = VIT, **args: Any) -> TrialSpec:
    sha256 = file_weights(uri, None, backbone).sha256
    return TrialSpec(
        dataset="any",
        labels="1",
        pool_images=None,
        backbone=backbone,
        backbone_args=ARGS | args,
        weights=f"sha256:{sha256}",
        method="finetune",
        recipe=tiny_recipe("finetune"),
        precision="fp32",
        seed=0,
        parent=None,
    )


@pytest.mark.parametrize(
    ("suffix", "key"),
    [(".safetensors", None), (".pth", None), (".pth", "model"), (".pth", "state_dict")],
)
def test_weights_come_from_a_file_and_the_head_is_new(
    tmp_path: Path, suffix: str, key: str | None
) -> None:
    state = source().state_dict()
    uri = written(tmp_path, state if key is None else {key: state}, suffix)
    model = start_model(spec_of(uri), 10, uri)
    fresh = create_model(VIT, 10, tiny_recipe("finetune"), ARGS, False, 0).state_dict()
    for name, value in model.state_dict().items():
        new = name.startswith(("head.", "fc_norm."))
        assert torch.equal(value, fresh[name] if new else state[name]), name


def test_position_embeddings_are_resampled_to_the_models_size(tmp_path: Path) -> None:
    uri = written(tmp_path, source(img_size=32).state_dict())
    model = start_model(spec_of(uri), 10, uri)  # of 16 pixels
    assert model.pos_embed.shape == (1, 1 + 16, 32)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_a_dinov2_of_518_pixels_is_resampled_to_224(tmp_path: Path) -> None:
    backbone, args = "vit_small_patch14_dinov2", {"depth": 1, "embed_dim": 32, "num_heads": 2}
    torch.manual_seed(3)
    state = timm.create_model(backbone, **args).state_dict()
    assert state["pos_embed"].shape == (1, 1 + 37**2, 32)
    uri = written(tmp_path, state)
    recipe = tiny_recipe("finetune", img_size=224)
    spec = spec_of(uri, backbone).model_copy(update={"backbone_args": args, "recipe": recipe})
    model = start_model(spec, 10, uri)
    expected = resample_abs_pos_embed(state["pos_embed"], new_size=[16, 16], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token's


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    uri = written(tmp_path, source(embed_dim=48).state_dict())
    with pytest.raises(InputError) as caught:
        start_model(spec_of(uri), 10, uri)
    message = str(caught.value)
    assert f"{uri}: these are not weights of {VIT}: " in message
    assert "size mismatch for cls_token" in message and len(message) < 600


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    # timm would leave it random without a word
    uri = written(tmp_path, source(depth=1).state_dict())
    with pytest.raises(InputError, match=r"Missing key.* \"blocks\.1\.norm1\.weight\""):
        start_model(spec_of(uri), 10, uri)


def test_a_norm_before_the_head_is_taken_where_the_file_has_it(tmp_path: Path) -> None:
    # as timm does with the same weights from the hub
    state = source(global_pool="avg").state_dict()
    state["fc_norm.weight"] = state["fc_norm.weight"] + 0.5
    uri = written(tmp_path, state)
    model = start_model(spec_of(uri), 10, uri)
    assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])
    assert not torch.equal(model.head.weight[:7], state["head.weight"])


def test_weights_of_a_larger_model_are_refused(tmp_path: Path) -> None:
    # every name of ours is in it, in our shapes; what is left over tells
    uri = written(tmp_path, source(depth=3).state_dict())
    with pytest.raises(InputError, match=r"Unexpected key.* \"blocks\.2\."):
        start_model(spec_of(uri), 10, uri)


def test_what_only_pretraining_needs_may_be_in_the_file(tmp_path: Path) -> None:
    state = source().state_dict() | {"decoder_embed.weight": torch.zeros(2, 2)}
    uri = written(tmp_path, state)
    assert start_model(spec_of(uri), 10, uri) is not None


def test_a_projector_by_the_heads_name_is_left_out(tmp_path: Path) -> None:
    # self-supervised methods save their projector as a part of the head
    state = source().state_dict() | {"head.mlp.0.weight": torch.zeros(2, 2)}
    uri = written(tmp_path, state)
    assert start_model(spec_of(uri), 10, uri) is not None


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    uri = written(tmp_path, {"model": Evil(tmp_path / "trace")}, ".pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        start_model(spec_of(uri), 10, uri)
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "trace")))  # it would have
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no weights", "it is damaged, or "),
        (bytes(10_000), "it is damaged, or "),
    ],
)
def test_a_damaged_file_is_refused(
    content: bytes, reason: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: cannot be loaded into {VIT}: {reason}"):
        start_model(spec_of(str(path)), 10, str(path))


@pytest.mark.parametrize("content", [[1], 5, torch.zeros(2), {"model": 5}, {1: torch.zeros(2)},
                                     {"a": "b"}, {"state_dict": [2]}])  # fmt: skip
def test_a_file_without_tensors_by_name_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"{path}: (these are not weights|.* holds no tensors)"):
        start_model(spec_of(str(path)), 10, str(path))


def test_arguments_that_timm_does_not_take_are_no_fault_of_the_weights(tmp_path: Path) -> None:
    uri = written(tmp_path, source().state_dict())
    spec = spec_of(uri)
    with pytest.raises(TypeError, match="nonsense"):
        start_model(replace_args(spec, nonsense=1), 10, uri)


def replace_args(spec: TrialSpec, **more: Any) -> TrialSpec:
    return spec.model_copy(update={"backbone_args": {**spec.backbone_args, **more}})


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    uri = written(tmp_path, source().state_dict())
    spec = spec_of(uri)
    written(tmp_path, {k: v + 1 for k, v in source().state_dict().items()})
    with pytest.raises(InputError, match="changed since they were first read; run it again"):
        start_model(spec, 10, uri)


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    uri = written(tmp_path, source().state_dict())
    sha256 = hashlib.sha256(Path(uri).read_bytes()).hexdigest()
    assert file_weights(uri, "mit", VIT) == Weights(source=uri, license="mit", sha256=sha256)
    # a tag says whose weights these are meant to be
    named = file_weights(uri, None, "vit_base_patch16_224.mae")
    assert named.license == "cc-by-nc-4.0 (timm's for vit_base_patch16_224.mae)"
    assert "not for commercial use" in named.describe() and sha256[:12] in named.describe()
    assert file_weights(uri, None, VIT).license == "not stated"
    with pytest.raises(InputError, match="there is no such file"):
        file_weights(str(tmp_path / "none.pth"), None, VIT)
    with pytest.raises(InputError, match="weights are a file ending in .safetensors, .pth"):
        file_weights(str(tmp_path), None, VIT)


def test_a_file_of_the_same_size_is_another_where_storage_tells_no_times() -> None:
    storage = open_storage("memory://weights")
    storage.write("w.pth", b"one")
    first = file_weights("memory://weights/w.pth", None, "resnet18")
    storage.write("w.pth", b"two")
    assert file_weights("memory://weights/w.pth", None, "resnet18").sha256 != first.sha256


def test_licences_are_timms() -> None:
    assert hub_weights("vit_base_patch16_224.mae").license == "cc-by-nc-4.0"
    assert hub_weights("resnet18.tv_in1k").license == "bsd-3-clause"
    assert hub_weights("ecaresnet26t.ra2_in1k").license == "apache-2.0"


TAGGED = "test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def hub_spec() -> TrialSpec:
    recipe = resolve(published("finetune", TAGGED, {"steps": 1, "img_size": 32}), "finetune", 9, 0)
    values = {"backbone": TAGGED, "backbone_args": {}, "weights": "timm", "recipe": recipe}
    return TrialSpec(
        dataset="any",
        labels="1",
        pool_images=None,
        method="finetune",
        precision="fp32",
        seed=0,
        parent=None,
        **values,
    )


def test_a_hub_out_of_reach_is_one_clear_error(hub: Path) -> None:
    assert hub_weights(TAGGED).sha256 is None
    assert hub_weights(TAGGED).describe().endswith("not downloaded yet")
    with pytest.raises(InputError) as caught:
        start_model(hub_spec(), 10, None)
    assert f"weights of {TAGGED} cannot be downloaded" in str(caught.value)
    assert "pretrained: path/to/model.safetensors" in str(caught.value)


def test_weights_in_the_hubs_cache_are_loaded_and_known_by_their_hash(hub: Path) -> None:
    state = timm.create_model(TAGGED).state_dict()
    content = Path(written(hub, state)).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    repository = hub / "models--timm--test_resnet.r160_in1k"
    for folder in ("blobs", "refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "blobs" / sha256).write_bytes(content)
    (repository / "refs/main").write_text("abc")
    (repository / "snapshots/abc/model.safetensors").symlink_to(repository / "blobs" / sha256)
    assert hub_weights(TAGGED).sha256 == sha256
    (repository / "blobs" / sha256).write_bytes(content[:1000])
    with pytest.raises(InputError, match="cannot be loaded .*: delete them from the hub's cache"):
        start_model(hub_spec(), 10, None)
    (repository / "blobs" / sha256).write_bytes(content)
    model = start_model(hub_spec(), 10, None)
    assert torch.equal(model.conv1[0].weight, state["conv1.0.weight"])
    assert model.get_classifier().out_features == 10


def test_the_file_is_part_of_the_identity_and_its_place_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    state = source().state_dict()
    here, there = written(tmp_path / "a", state), written(tmp_path / "b", state)
    other = written(tmp_path, source(num_classes=8).state_dict())

    def spec(pretrained: Any) -> TrialSpec:
        experiment = load_experiment("x.yaml", text=changed("models.vit.pretrained", pretrained))
        plan = Plan(experiment)
        return plan.spec(plan.searches[0], {}, 0, None)

    assert spec(here).id == spec(there).id
    assert len({spec(here).id, spec(other).id, spec(False).id}) == 3
    assert spec(here).weights == f"sha256:{file_weights(here, None, VIT).sha256}"


def test_a_run_stays_readable_where_its_weights_are_gone(tmp_path: Path) -> None:
    uri = written(tmp_path, source().state_dict())
    first = load_experiment("x.yaml", text=changed("models.vit.pretrained", uri))
    os.remove(uri)
    again = load_experiment("x.yaml", text=first.text)  # the copy in the run's folder
    plans = Plan(first), Plan(again)
    assert plans[0].spec(plans[0].searches[0], {}, 0, None).id == (
        plans[1].spec(plans[1].searches[0], {}, 0, None).id
    )
    with pytest.raises(InputError, match="models.vit.pretrained: .* there is no such file"):
        load_experiment("x.yaml", text=changed("models.vit.pretrained", uri))


def test_another_file_than_the_one_meant_is_refused(tmp_path: Path) -> None:
    uri = written(tmp_path, source().state_dict())
    text = load_experiment("x.yaml", text=changed("models.vit.pretrained", uri)).text
    written(tmp_path, source(num_classes=8).state_dict())
    with pytest.raises(InputError, match="use the right file, or take weights_sha256 out"):
        load_experiment("x.yaml", text=text)


def test_keys_of_a_file_belong_to_a_file() -> None:
    with pytest.raises(InputError, match="weights_license: only for weights of a file"):
        load_experiment("x.yaml", text=changed("models.vit.weights_license", "mit"))
