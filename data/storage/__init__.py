"""Files in folders and buckets: whole-file reads, and writes that happen whole or not at all."""

from semigrid.data.storage.local import cache_folder
from semigrid.data.storage.opening import open_storage
from semigrid.data.storage.protocol import FileFacts, Storage

__all__ = ["FileFacts", "Storage", "cache_folder", "open_storage"]
