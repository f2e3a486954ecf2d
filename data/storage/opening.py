"""Opens storage by path or URI."""

import re
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from semigrid.data.errors import InputError
from semigrid.data.storage.bucket import BucketStorage
from semigrid.data.storage.bucket_errors import CREDENTIALS
from semigrid.data.storage.fsspec_names import S3, open_filesystem
from semigrid.data.storage.local import LocalStorage
from semigrid.data.storage.patient import PatientStorage, storage_patience
from semigrid.data.storage.protocol import Storage


def open_storage(uri: str | Path, patience: float = 0, must_exist: bool = False) -> Storage:
    """A folder by path or URI (``results``, ``s3://shop/experiments``); it need not exist.

    Args:
        patience: seconds to wait for a local folder that vanished. The folder counts as away while
            it is missing or empty, so make it and give it a file first. Buckets are always waited
            for, by default for ``storage_patience()`` seconds.
        must_exist: a local folder counts as away while it is missing or empty, without waiting.

    Raises:
        InputError: a URI of an unknown kind, or with credentials in it.
    """
    fs, root = _filesystem(str(uri))
    root = root.rstrip("/") or "/"
    if not isinstance(fs, LocalFileSystem):
        return PatientStorage(BucketStorage(fs, root), patience or storage_patience())
    storage = LocalStorage(root, root if patience or must_exist else None)
    return PatientStorage(storage, patience) if patience else storage


def _filesystem(uri: str) -> tuple[object, str]:
    protocol, _, rest = uri.partition("://")
    if re.match(r"[^/@]*:[^/@]*@", rest):
        raise InputError(
            f"{protocol}://…@{rest.partition('@')[2]}: credentials in a URI would be written into "
            f"files and logs; leave them out and {CREDENTIALS}"
        )
    try:
        return open_filesystem(uri)
    except (ValueError, ImportError) as error:  # an unknown protocol or a missing package
        needs = "; pip install 'semigrid[aws]'" if protocol in S3 else ""
        raise InputError(f"{uri}: not a path or URI that can be opened: {error}{needs}") from error
