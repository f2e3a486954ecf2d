"""Pretrained weights: their source, their licence, and the hash of their bytes."""

import re

from pydantic import BaseModel, ConfigDict

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.hashes import file_hash
from semigrid.trainers.backbones import timm_names

UNSTATED = "not stated"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Weights(BaseModel):
    """Pretrained weights; ``source`` is a repository of the Hugging Face hub or a file's URI.

    ``sha256`` is None while weights from the hub are not on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    license: str = UNSTATED
    sha256: str | None = None

    def describe(self) -> str:
        """``timm/vit_base_patch16_224.mae, licence cc-by-nc-4.0 (not for commercial use), ...``"""
        license = f"licence {self.license}"
        if is_non_commercial(self.license):
            license += " (not for commercial use)"
        known = f"sha256 {self.sha256[:12]}" if self.sha256 else "not downloaded yet"
        return f"{self.source}, {license}, {known}"


def is_non_commercial(license: str) -> bool:
    """Whether a licence's name says so, as ``cc-by-nc-4.0`` and ``non-commercial`` do."""
    return re.search(r"\bnc\b|non-?commercial", license, re.IGNORECASE) is not None


def hub_weights(backbone: str) -> Weights:
    """The weights that timm loads for a backbone with a tag."""
    stated = timm_names().weights.get(backbone, {})
    repository = stated.get("hub", f"timm/{backbone}")
    return Weights(
        source=repository,
        license=stated.get("license", UNSTATED),
        sha256=_cached_hash(repository),
    )


def file_weights(uri: str, license: str | None, backbone: str) -> Weights:
    """The weights in a file; without a licence given, that of the backbone's tag is stated.

    Raises ``InputError`` if there is no such file.
    """
    if not uri.endswith(SUFFIXES):
        raise InputError(f"{uri!r}: weights are a file ending in {', '.join(SUFFIXES)}")
    tag = timm_names().weights.get(backbone, {}).get("license")
    return Weights(
        source=open_storage(uri).uri,
        license=license or (f"{tag} (timm's for {backbone})" if tag else UNSTATED),
        sha256=file_hash(uri),
    )


def _cached_hash(repository: str) -> str | None:
    """SHA-256 of the weights in the hub's cache on this machine; None if they are not there."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return file_hash(path)
    return None
