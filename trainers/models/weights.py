"""Pretrained weights: their source, their licence, and the hash of their bytes."""

import contextlib
import hashlib
import re

from pydantic import BaseModel, ConfigDict

from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.storage import cache_folder, open_storage
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


def file_hash(uri: str) -> str:
    """SHA-256 of a file, cached for as long as the file's size and time stay the same.

    Raises ``InputError`` if there is no such file.
    """
    storage = open_storage(uri)
    try:
        version = storage.version()
        key = hashlib.sha256(f"{uri} {version}".encode()).hexdigest()
        cache = open_storage(cache_folder()).folder("hashes")
        if version and cache.exists(key):
            return cache.read(key).decode()
        with storage.open(ahead=True) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (RefusedError, StorageGoneError):  # their messages are clear already
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{uri!r}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{uri!r}: cannot be read: {error}") from error
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        cache.write(key, digest.encode())
    return digest


def _cached_hash(repository: str) -> str | None:
    """SHA-256 of the weights in the hub's cache on this machine; None if they are not there."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return file_hash(path)
    return None
