"""Files in folders and buckets: whole-file reads, and writes that happen whole or not at all."""

from semigrid.data.storage.files import FileFacts, FileStatus
from semigrid.data.storage.local import cache_folder
from semigrid.data.storage.storage import Storage, open_storage

__all__ = ["FileFacts", "FileStatus", "Storage", "cache_folder", "open_storage"]
