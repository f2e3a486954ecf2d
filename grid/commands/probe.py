"""``semigrid probe``: the learning curve of a frozen backbone, before anything is trained."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.escape import file_name
from semigrid.data.schema import Dataset
from semigrid.data.storage import cache_folder, open_storage
from semigrid.grid.cluster.machines import Demand
from semigrid.grid.commands.console import (
    INTERRUPTED,
    SOME_FAILED,
    echo,
    echo_json,
    not_writable,
    out,
    prepare_for_ray,
    progress_bar,
    say,
    say_problem,
    this_command,
    write_file,
)
from semigrid.grid.commands.options import JsonOption, option
from semigrid.grid.run.surroundings import check_surroundings
from semigrid.trainers.backbones import backbone_problem
from semigrid.trainers.models.weights import Weights, file_weights, hub_weights

if TYPE_CHECKING:
    from semigrid.data.ranges import Block
    from semigrid.trainers.features.backbone import FrozenBackbone
    from semigrid.trainers.features.store import FeatureStore, Part
    from semigrid.trainers.probe.curve import Point

# The splits that a probe learns from and is tested on: it needs no val labels.
_SPLITS = ("train", "test")
# Images from which on Ray makes the features: it takes as long to start as a thousand small ones.
_MANY = 2000


def probe(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Folder or URI of a built dataset.")
    ],
    backbone: Annotated[
        str,
        option("NAME", help="timm's name with tag, as vit_small_patch14_dinov2.lvd142m."),
    ],
    pretrained: Annotated[
        str | None, option("FILE", help="File or URI of the weights; default: those of the tag.")
    ] = None,
    img_size: Annotated[
        int, option("PIXELS", min=1, help="Side of the images that the backbone sees.")
    ] = 224,
    features: Annotated[
        str | None, option("URI", help="Folder to keep features in; default: this user's cache.")
    ] = None,
    picture: Annotated[
        str | None,
        option("FILE", help="The curve, .png or .svg; default: probe-DATASET-NAME.png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how accuracy grows with labels on a frozen backbone, in minutes, without training."""
    if (problem := backbone_problem(backbone, pretrained is None)) is not None:
        instead = problem.replace("write pretrained: false", "give --pretrained FILE")
        raise InputError(f"--backbone {backbone}: {instead}")
    if picture is not None and not picture.lower().endswith((".png", ".svg")):
        raise InputError(f"--picture {picture}: pictures are .png or .svg files")
    opened = open_dataset(dataset)
    _check_labels(opened)
    for split in _SPLITS:  # features and labels are those of the images that the manifest names
        opened.check(split)
    if picture is None and not as_json:
        picture = file_name(f"probe-{opened.manifest.name}-{backbone}") + ".png"
    if picture is not None:
        try:
            open_storage(posixpath.dirname(picture) or ".").check_could_write()
        except OSError as error:
            raise not_writable(f"--picture {picture}", error) from error
    file = None if pretrained is None else file_weights(pretrained, None, backbone)
    # these import PyTorch, which takes seconds: errors so far came without it
    import torch

    from semigrid.trainers.features.backbone import FrozenBackbone

    weights = file or hub_weights(backbone)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FrozenBackbone.of(backbone, weights, file is not None, img_size, device)
    model.check()
    if file is None:  # known once they were downloaded
        weights = hub_weights(backbone)
        model = replace(model, sha256=weights.sha256).using(model.network)
    made, points, test_labels = _curve(opened, model, features)
    _show(opened, model, weights, made, points, test_labels, picture, as_json)


def _check_labels(dataset: Dataset) -> None:
    manifest, where = dataset.manifest, dataset.storage.uri
    if len(manifest.classes) < 2:
        raise InputError(f"{where}: one class only; a probe needs two or more to tell apart")
    without = [name for name in manifest.classes if not manifest.counts["train"][name]]
    if without:
        raise InputError(
            f"{where}: {len(without)} of {len(manifest.classes)} classes have no labelled image in "
            f"train, the first is {without[0]!r}; label some, or build the dataset without them"
        )


def _curve(
    dataset: Dataset, model: "FrozenBackbone", uri: str | None
) -> tuple[int, "list[Point]", np.ndarray]:
    """How many images' features were made now, the curve, and the classes of the test images."""
    from semigrid.grid.run.preflight import free_memory
    from semigrid.trainers.features.extract import fill
    from semigrid.trainers.features.store import FeatureStore
    from semigrid.trainers.probe.curve import Features, learning_curve

    store = FeatureStore(uri or str(cache_folder() / "features"), model, dataset)
    if store.missing(_SPLITS):  # a store that is complete may be read-only
        try:
            store.storage.check_writable()
        except OSError as error:
            raise not_writable(f"--features {store.storage.uri}", error) from error
    try:
        with progress_bar("features") as progress:
            made = fill(
                store,
                _SPLITS,
                lambda missing: _extract(store, missing),
                progress,
                lambda: say(f"{store.storage.uri}: another process makes these features; waiting"),
            )

        def features(split: str) -> Features:
            labels = np.asarray(dataset.column(split, "label"), dtype=np.int64)
            groups = np.unique(dataset.column(split, "group"), return_inverse=True)[1]
            return Features(*store.read(split), labels, groups)

        train, test = map(features, _SPLITS)
        with progress_bar("fits") as progress:
            points = learning_curve(
                train,
                test,
                np.ones(dataset.num_classes),  # C is chosen by balanced accuracy, as trials are
                threads=_cores(),
                memory=free_memory() / 2,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"interrupted: finished features are kept. To resume: {this_command()}")
        raise typer.Exit(INTERRUPTED) from None
    return made, points, test.labels


def _cores() -> int:
    """Cores that this process may use, or 8 of them."""
    return min(len(os.sched_getaffinity(0)), 8)


def _extract(store: "FeatureStore", missing: "Sequence[Part]") -> "Iterator[Block]":
    """The features of some parts: by threads where they are few, else by Ray Data."""
    from semigrid.trainers.features.extract import in_threads

    if sum(part.images.count for part in missing) < _MANY:
        yield from in_threads(store.backbone, missing, _cores())
        return
    check_surroundings(say)
    prepare_for_ray()
    from semigrid.grid.run.room import joined_machines
    from semigrid.grid.run.tasks import fitting, ray_for_tasks
    from semigrid.trainers.cluster.ray_tasks import TaskError, work_in_order

    try:
        with ray_for_tasks(store.storage):
            gpus = any(machine.gpus for machine in joined_machines())
            each = Demand(0.0, 1.0) if gpus else Demand(1.0, 0.0)
            model = replace(store.backbone, device="cuda" if gpus else "cpu")
            ranges = [part.images for part in missing]
            yield from work_in_order(ranges, model.views, model.features, fitting(None, each))
    except TaskError as error:
        say_problem(f"{error}; finished features are kept. To resume: {this_command()}")
        raise typer.Exit(SOME_FAILED) from error


def _show(
    dataset: Dataset,
    model: "FrozenBackbone",
    weights: Weights,
    made: int,
    points: "list[Point]",
    test_labels: np.ndarray,
    picture: str | None,
    as_json: bool,
) -> None:
    from semigrid.grid.probe.scores import curve_rows
    from semigrid.grid.probe.show import curve_json, curve_picture, curve_plot, curve_table

    manifest, size = dataset.manifest, model.views.img_size
    rows = curve_rows(points, test_labels, manifest.class_shares)
    draws, tested = len(points[0].cs), len(test_labels)
    images = tested + points[-1].images
    if as_json:
        echo_json(
            {
                "dataset": manifest.fingerprint,
                "backbone": model.backbone,
                "weights": weights.model_dump(),
                "img_size": size,
                "draws": draws,
                "test_images": tested,
                "features": {"images": images, "made_now": made},
                "curve": curve_json(rows),
            }
        )
    else:
        echo(f"{manifest.name}: {model.backbone}, frozen, images of {size} px")
        echo(f"weights: {weights.describe()}")
        echo(f"features: {images:,} images, {made:,} of them made now")
        out.print(curve_table(rows), width=80)
        for line in curve_plot(rows, out.width if out.is_terminal else 80):
            echo(line)
        echo(f"Acc@1 in % on {tested:,} test images, mean of {draws} draws of the train images.")
        echo("95% intervals are over test images and draws; all labels are one draw. No val")
        echo("label was used.")
    if picture is not None:  # last: the answer stands whatever becomes of the file
        title = f"{manifest.name}: {model.backbone}, frozen, {size} px"
        form = picture.rpartition(".")[2].lower()
        write_file(picture, curve_picture(rows, title, form))
