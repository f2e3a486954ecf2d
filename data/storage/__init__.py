"""Files in folders and buckets: whole-file reads, and writes that happen whole or not at all."""

from semigrid.data.storage.storage import FileFacts, Storage, cache_folder

__all__ = ["FileFacts", "Storage", "cache_folder"]
