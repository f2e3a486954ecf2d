"""Features are the network's, are made once, and are kept whatever happens in between."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tests.helpers.tiny import VIT, VIT_ARGS

from semigrid.data.batches import EvalBatches
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.ranges import Block
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.data.storage.hashes import file_hash
from semigrid.data.storage.in_use import LOCK
from semigrid.data.storage.locks import locked
from semigrid.data.views.augment import normalize
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.features.extract import fill, in_threads
from semigrid.trainers.features.store import FeatureStore, Part
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.weights import hub_weights
from semigrid.trainers.recipe import Recipe

RECIPE = Recipe(img_size=16, global_pool="avg")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> FrozenBackbone:
    file = str(tmp_path_factory.mktemp("weights") / "vit.safetensors")
    save_file(create_model(VIT, 5, RECIPE, VIT_ARGS, False, 3).state_dict(), file)
    return FrozenBackbone(VIT, RECIPE, file, file_hash(file), VIT_ARGS)


class Extraction:
    """Counts what it makes, and dies before the part with this number, counted from 0."""

    def __init__(self, backbone: FrozenBackbone, threads: int = 2, dies: int | None = None):
        self.backbone, self.threads, self.dies = backbone, threads, dies
        self.images = 0

    def __call__(self, parts: Sequence[Part]) -> Iterator[Block]:
        for number, part in enumerate(parts):
            if number == self.dies:
                raise KeyboardInterrupt
            for block in in_threads(self.backbone, [part], self.threads):
                self.images += len(block.ids)
                yield block


def test_features_are_the_networks_before_its_head(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    store = FeatureStore(str(tmp_path), backbone, digits)
    assert fill(store, ["test"], Extraction(backbone, threads=3)) == 200
    ids, features = store.read("test")
    assert features.shape == (200, 32) and features.dtype == np.float16
    network: Any = create_model(VIT, 1, RECIPE, VIT_ARGS, False, 0)
    network.load_state_dict(
        create_model(VIT, 5, RECIPE, VIT_ARGS, False, 3).state_dict()
        | {name: v for name, v in network.state_dict().items() if name.startswith("head.")}
    )
    network.eval()
    head, expected, names = network.get_classifier(), [], []
    with torch.inference_mode():
        for batch in EvalBatches(digits.read("test"), backbone.views, 64):
            logits = network(normalize(batch.views["eval"], backbone.views))
            expected.append(logits.numpy())
            names += batch.ids
    assert ids == names
    with torch.inference_mode():
        found = head(torch.from_numpy(features).float()).numpy()
    assert found == pytest.approx(np.concatenate(expected), abs=2e-3)  # half precision


def test_a_gpu_computes_in_float32_while_any_thread_makes_features(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    """Here without a GPU: the settings that torch's CUDA kernels obey."""
    settings: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [each.fp32_precision for each in settings]
    assert before[0] == "tf32"  # torch's default
    seen: list[str] = []
    meeting = threading.Barrier(2, timeout=60)

    calls = Counter[int]()

    def forward(*call: Any) -> None:
        calls[threading.get_ident()] += 1
        if calls[threading.get_ident()] <= 5:
            meeting.wait()  # both threads are inside; one leaves before the other
        seen.extend(each.fp32_precision for each in settings)

    watched = replace(backbone)
    hook = watched.network.patch_embed.register_forward_pre_hook(forward)
    store = FeatureStore(str(tmp_path), watched, digits)
    fill(store, ["pool"], Extraction(watched, threads=2))
    hook.remove()
    assert seen == ["ieee"] * len(seen) and len(seen) >= 2 * 1200 // 64
    assert [each.fp32_precision for each in settings] == before


def test_nothing_is_made_twice_whatever_ends_it(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    store = FeatureStore(str(tmp_path), backbone, digits)
    told: list[tuple[int, int]] = []
    dying = Extraction(backbone, dies=2)  # the pool has three parts
    with pytest.raises(KeyboardInterrupt):
        fill(store, ["test", "pool"], dying)
    resumed = Extraction(backbone)
    assert dying.images == 200 + 512
    assert fill(store, ["test", "pool"], resumed, lambda *at: told.append(at)) == 688
    assert resumed.images == 688 and told[0] == (712, 1400) and told[-1] == (1400, 1400)
    fresh = FeatureStore(str(tmp_path / "other"), backbone, digits)
    fill(fresh, ["pool"], Extraction(backbone, threads=1))
    assert np.array_equal(store.read("pool")[1], fresh.read("pool")[1])  # by any number of threads

    # a damaged file and a missing one are made again, and no other
    first, second, _ = (f for f in store.storage.names() if f.startswith("pool"))
    folder = store.storage.local_path()
    assert folder is not None
    content = (folder / first).read_bytes()
    (folder / first).write_bytes(content[:-9] + b"x" + content[-8:])
    (folder / second).unlink()
    assert [part.name for part in store.missing(["test", "pool"])] == ["pool-000000", "pool-000001"]
    again = Extraction(backbone)
    assert fill(store, ["test", "pool"], again) == again.images == 1024
    assert (folder / first).read_bytes() == content

    # a damaged one that other arithmetic made, under another name
    name = "pool-000000-ffffffffffffffff.parquet"
    (folder / name).write_bytes(content)
    assert fill(store, ["pool"], Extraction(backbone)) == 512
    assert (folder / first).read_bytes() == content and not (folder / name).exists()


def test_whatever_changes_a_feature_has_a_folder_of_its_own(
    digits: Dataset, backbone: FrozenBackbone
) -> None:
    other = Dataset(digits.storage, digits.manifest.model_copy(update={"fingerprint": "other"}))
    stores = [
        FeatureStore("memory://features", backbone, digits),
        FeatureStore("memory://features", backbone, other),
        FeatureStore("memory://features", replace(backbone, sha256="0"), digits),
        FeatureStore("memory://features", replace(backbone, backbone_args={}), digits),
        *(
            FeatureStore("memory://features", replace(backbone, recipe=recipe), digits)
            for recipe in (
                RECIPE.model_copy(update={"img_size": 32}),
                RECIPE.model_copy(update={"global_pool": "max"}),
            )
        ),
    ]
    assert len({store.storage.root for store in stores}) == len(stores)


def test_a_bucket_keeps_features_too(digits: Dataset, backbone: FrozenBackbone) -> None:
    store = FeatureStore("memory://kept", backbone, digits)
    assert fill(store, ["test"], Extraction(backbone)) == 200
    assert (
        fill(FeatureStore("memory://kept", backbone, digits), ["test"], Extraction(backbone)) == 0
    )
    assert store.read("test")[1].shape == (200, 32)


def test_another_process_is_waited_for_and_leaves_nothing_to_do(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    store = FeatureStore(str(tmp_path), backbone, digits)
    folder = store.storage.local_path()
    assert folder is not None
    folder.mkdir()
    waits = threading.Event()
    mine = Extraction(backbone)
    work = threading.Thread(target=fill, args=(store, ["test"], mine), kwargs={"wait": waits.set})
    with locked(folder / LOCK):
        work.start()
        assert waits.wait(60)
        part = store.parts(["test"])[0]
        store.write(part, Block.joined(list(in_threads(backbone, [part], 1))))
    work.join(60)
    assert not work.is_alive() and mine.images == 0 and not store.missing(["test"])


def test_storage_that_is_away_is_waited_for_and_never_made(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    home, away = tmp_path / "run", tmp_path / "unmounted"
    home.mkdir()
    (home / "experiment.yaml").touch()

    class Leaving(FeatureStore):
        def _files(self) -> dict[str, tuple[str, str]]:
            found = super()._files()
            home.rename(away)  # between the list of files and the first look into one
            return found

    def back(after: Callable[[], object]) -> None:
        work = threading.Thread(target=after)
        work.start()
        work.join(0.5)
        assert work.is_alive() and not home.exists()
        away.rename(home)
        work.join(60)

    store, leaving = (
        kind(open_storage(home, 60).folder("features"), backbone, digits)
        for kind in (FeatureStore, Leaving)
    )
    made: list[object] = []

    def enter() -> None:
        with store.alone():
            made.append(fill)

    home.rename(away)
    back(enter)
    assert made == [fill]
    fill(store, ["test"], Extraction(backbone))
    back(lambda: made.append(leaving.missing(["test"])))
    assert made == [fill, []]


def test_images_that_cannot_be_decoded(
    digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    good = digits.read("test", np.arange(3)).images
    rows = [
        StoredImage(f"{split}{n}", good[n], None if split == "pool" else 0, split, f"{split}{n}")
        for split in ("train", "val", "test", "pool")
        for n in range(2)
    ]
    rows = [replace(r, image=b"no") if r.image_id in ("pool1", "test0") else r for r in rows]
    write_dataset(str(tmp_path / "d"), rows, name="d", classes=["a"], license="", source="")
    store = FeatureStore(str(tmp_path / "f"), backbone, open_dataset(str(tmp_path / "d")))
    fill(store, ["test", "pool"], Extraction(backbone))
    ids, features = store.read("pool")
    assert (features[ids.index("pool1")] == 0).all() and (features[ids.index("pool0")] != 0).any()
    with pytest.raises(InputError, match="the image test0 cannot be decoded: not an image"):
        store.read("test")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_not_kept(
    wrong: float, digits: Dataset, backbone: FrozenBackbone, tmp_path: Path
) -> None:
    store = FeatureStore(str(tmp_path), backbone, digits)
    (part,) = store.parts(["test"])
    made = Block.joined(list(in_threads(backbone, [part], 2)))
    made.rows[7, 3] = wrong
    with pytest.raises(InputError, match=f"{made.ids[7]}: {VIT} makes features of it that half"):
        store.write(part, made)
    assert not store.storage.exists() and store.missing(["test"]) == [part]
    made.errors[7] = "no image"  # it is not decoded, so what was made of it means nothing
    store.write(part, made)
    assert not store.missing(["test"])


def test_hub_weights_are_those_that_name_the_folder(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    name = "test_resnet.r160_in1k"
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    file = repository / "snapshots/abc/model.safetensors"
    save_file(timm.create_model(name.partition(".")[0]).state_dict(), file)
    known = FrozenBackbone.of(name, hub_weights(name), False, 32)
    assert known.sha256 == file_hash(str(file))
    replace(known).check()
    save_file(timm.create_model(name.partition(".")[0]).state_dict(), file)  # others, at random
    with pytest.raises(InputError, match=f"not the weights with sha256 {known.sha256[:12]}"):
        replace(known).check()


def test_images_of_a_size_that_the_network_does_not_take_are_refused(
    backbone: FrozenBackbone,
) -> None:
    backbone.check()
    wrong = replace(backbone, recipe=RECIPE.model_copy(update={"img_size": 20}))
    with pytest.raises(InputError, match=f"{VIT} does not take images of 20 pixels"):
        wrong.check()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray's own warnings
def test_ray_data_makes_the_same_features(
    cluster: None,
    digits: Dataset,
    backbone: FrozenBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from semigrid.trainers.cluster import ray_tasks

    monkeypatch.setattr(ray_tasks, "TASK_IMAGES", 128)  # several tasks for each part
    stores = [FeatureStore(str(tmp_path / name), backbone, digits) for name in ("ray", "threads")]

    def by_ray(parts: Sequence[Part]) -> Iterator[Block]:
        ranges = [part.images for part in parts]
        workers = ray_tasks.Workers(2, 1, 0)
        return ray_tasks.work_in_order(ranges, backbone.views, backbone.features, workers)

    assert fill(stores[0], ["test", "pool"], by_ray) == 1400
    fill(stores[1], ["test", "pool"], Extraction(backbone))
    for split in ("test", "pool"):
        (ids, features), (names, expected) = (store.read(split) for store in stores)
        assert ids == names and np.array_equal(features, expected)
