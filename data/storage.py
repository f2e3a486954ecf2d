"""Files in a folder or bucket: whole-file reads and atomic whole-file writes through fsspec."""

import contextlib
import os
import posixpath
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data.errors import InputError


def cache_folder() -> Path:
    """Where this machine keeps what can be made again: ``$SEMIGRID_CACHE`` or a folder at home."""
    home = Path.home() / ".cache" / "semigrid"
    return Path(os.environ.get("SEMIGRID_CACHE") or home).absolute()


class Storage:
    """A folder by path or URI (``results``, ``s3://shop/experiments``).

    Names are relative paths with ``/``. A write is seen whole or not at all: on a local disk by
    writing beside the target and renaming, in a bucket because its put is atomic. Raises
    ``InputError`` for a URI of an unknown kind.
    """

    def __init__(self, uri: str | Path):
        try:
            self.fs, root = fsspec.core.url_to_fs(str(uri))
        except (ValueError, ImportError) as error:  # an unknown protocol, or its package missing
            raise InputError(f"{uri}: not a path or URI that can be opened: {error}") from error
        self.root: str = root.rstrip("/") or "/"
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.uri: str = self.root if self.is_local else self.fs.unstrip_protocol(self.root)

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.uri,)

    def path(self, *names: str) -> str:
        return posixpath.join(self.root, *names)

    def folder(self, *names: str) -> "Storage":
        return Storage(posixpath.join(self.uri, *names))

    def exists(self, name: str = "") -> bool:
        return bool(self.fs.exists(self.path(name) if name else self.root))

    def read(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(self.path(name)))

    def open(self, name: str = "") -> Any:
        """Opens a file to read parts of it: of a bucket just those, and nothing ahead of them."""
        path = self.path(name) if name else self.root
        if not self.is_local:
            with contextlib.suppress(TypeError):  # some file systems have no such choice
                return self.fs.open(path, "rb", cache_type="none")
        return self.fs.open(path, "rb")

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, making its folders; readers see the old content or the new."""
        path = self.path(name)
        if not self.is_local:
            self.fs.pipe_file(path, content)
            return
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        beside = os.path.join(folder, f".{os.path.basename(path)}.{uuid.uuid4().hex}.tmp")
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may keep the name and lose the bytes
            os.replace(beside, path)
        except BaseException:
            if os.path.exists(beside):
                os.remove(beside)
            raise

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Sorted names of the files directly in ``folder``; none if it is not there."""
        where = self.path(folder) if folder else self.root
        self.fs.invalidate_cache()  # another process may have written since the last listing
        if not self.fs.exists(where):
            return []
        entries = self.fs.ls(where, detail=True)
        names = (posixpath.basename(e["name"]) for e in entries if e["type"] == "file")
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def delete(self, name: str) -> None:
        """Removes a file or folder; nothing happens if it is not there."""
        path = self.path(name) if name else self.root
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def check_writable(self) -> None:
        """Raises ``OSError`` when nothing can be written here."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"semigrid")
        self.delete(probe)
