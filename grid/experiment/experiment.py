"""A valid experiment: its file, its datasets' manifests and its weights, none of which change."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from semigrid.data.schema import Dataset
from semigrid.data.splits import pool_subset
from semigrid.data.storage import open_storage
from semigrid.grid.experiment.schema import OF_ADAPTATION, ExperimentFile, ModelConfig
from semigrid.trainers.methods import find_method, published, users_of
from semigrid.trainers.models.weights import Weights
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import Recipe

# Keys of a recipe that a model takes over from the one it starts from: both see the same images and
# pool their features alike, and their logits mean the same.
_INHERITED = ("img_size", "hflip", "global_pool", "logit_adjustment")
# Keys that a compute control has as published: it is as long as the cell beside it costs.
_LENGTH = ("batch_size", "steps", "epochs", "warmup_steps", "warmup_epochs")


@dataclass(frozen=True)
class Experiment:
    """An experiment that ``load_experiment`` has read and checked.

    ``source`` is the path for messages, ``text`` the file as the run's folder keeps it.
    ``weights`` are by model, for the models with a backbone that starts from pretrained weights;
    the hash of weights that are not downloaded yet is None.
    """

    source: str
    file: ExperimentFile
    text: str
    datasets: Mapping[str, Dataset]
    weights: Mapping[str, Weights]

    @property
    def folder(self) -> str:
        """Folder or URI of the run: its ledger, weights and predictions."""
        return f"{self.file.storage.rstrip('/')}/{self.file.name}"

    def dataset_uri(self, name: str) -> str:
        """The dataset's URI as any process can open it, whatever its working directory."""
        uri = self.file.datasets[name].uri
        return uri if uri.startswith("builtin://") else open_storage(uri).uri

    def pool_unit(self, name: str) -> int:
        """Pool images that the multiplier 100 % means."""
        return self.file.datasets[name].pool_unit or self.datasets[name].manifest.pool_unit

    def epoch_pool(self, name: str, multiplier: Fraction) -> int:
        """Pool images that make an epoch: those of 100 %, unless ``steps_follow_pool``."""
        followed = multiplier if self.file.steps_follow_pool else Fraction(1)
        return pool_subset(self.pool_unit(name), followed)

    def backbone_of(self, model: str) -> ModelConfig:
        """The model that gives a model its backbone: itself, or the one it comes ``from``."""
        config = self.file.models[model]
        # no further: none starts from one that starts from another (checks), and in a file that
        # was never checked, such as the copy of an earlier run, they may go round in a circle
        return config if config.parent is None else self.file.models[config.parent]

    def train_of(self, model: str) -> TrainOptions:
        """How a model's trainings run: the file's ``train``, overridden by the model's own."""
        own = self.file.models[model].train
        update = {} if own is None else own.model_dump(exclude_unset=True)
        return self.file.train.model_copy(update=update)

    def weights_of(self, model: str) -> Weights | None:
        """The pretrained weights that a model, or the one it comes ``from``, starts with."""
        parent = self.file.models[model].parent
        return self.weights.get(model if parent is None else parent)

    def recipe_of(self, model: str, beside: str | None = None) -> Recipe:
        """The model's unresolved recipe: the published one, overridden by the file.

        Raises pydantic's ``ValidationError`` for a recipe that cannot be.

        Args:
            beside: a model that starts from this one, whose adapter, or none, and whose logit
                adjustment the recipe has instead of its own. Where only one of the two trains an
                adapter, optimiser, learning rate and layer decay are as published.
        """
        config = self.file.models[model]
        backbone = self.backbone_of(model).backbone
        assert backbone is not None
        inherited: dict[str, Any] = {}
        if config.parent is not None:
            page, parent = find_method(config.method), self.file.models[config.parent]
            of_start = find_method(parent.method).recipe.model_fields
            keys = [key for key in _INHERITED if key in of_start and not users_of(key, page)]
            start = published(
                parent.method, backbone, {k: v for k, v in parent.recipe.items() if k in keys}
            )
            inherited = {key: getattr(start, key) for key in keys}
        own = {**inherited, **config.recipe}
        if beside is not None:
            its = self.file.models[beside].recipe
            if self.file.adapts_otherwise(model, beside):
                own = {key: value for key, value in own.items() if key not in OF_ADAPTATION}
            own["adapter"] = its.get("adapter")
            own |= {key: its[key] for key in ("logit_adjustment",) if key in its}
        return published(config.method, backbone, own)

    def control_recipe(self, model: str) -> Recipe:
        """The recipe of a control of a model that starts from a backbone, before it is lengthened.

        As published for the method of the control, with all that the file sets for the model but
        its length: control and cell differ in the pool, and in what the methods publish.
        """
        config = self.file.models[model]
        assert config.backbone is not None
        control = find_method(find_method(config.method).control)
        own = {
            key: value
            for key, value in config.recipe.items()
            if key in control.recipe.model_fields and key not in _LENGTH
        }
        return published(control.name, config.backbone, own)
