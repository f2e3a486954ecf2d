"""Reads a tar from a stranger: no member of it takes much time or memory before its bytes do."""

import re
import tarfile
from collections.abc import Iterator
from io import SEEK_SET, BufferedIOBase, BufferedReader

# largest text beside an image, such as its label
TEXT_BYTES = 2**20
# largest header of a member, with long names and extended attributes
_HEADER_BYTES = 2**20
# tarfile looks for numbers before "=" and "hdrcharset" by patterns that take quadratic time
_QUADRATIC = re.compile(rb"[0-9]{21}|hdrcharset=.*hdrcharset=", re.DOTALL)


class GuardedTar(BufferedIOBase):
    """A file for ``tarfile``, which reads headers from it and must not read or go where it likes.

    Python before 3.11.14 goes back for a member of negative size, and so never ends; no version
    limits headers. What is refused raises ``tarfile.ReadError``.
    """

    def __init__(self, file: BufferedReader):
        self._file = file
        self._read = 0  # bytes since the last member
        self._farthest = 0
        self._last = b""

    def members(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """The members one by one."""
        while True:
            self._read = 0
            if (member := tar.next()) is None:
                if self._last.strip(b"\0"):  # for tarfile, what it cannot read is the end
                    raise tarfile.ReadError(f"damaged before its byte {self._farthest:,}")
                return
            if member.size < 0 or member.offset_data < 0:
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            yield member

    def text(self, member: tarfile.TarInfo) -> bytes:
        """The bytes of a small member."""
        self._file.seek(member.offset_data)
        return self._file.read(min(member.size, TEXT_BYTES))

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, whence: int = SEEK_SET) -> int:
        # tarfile looks at the byte before the next header
        if not self._farthest - 1 <= position < 2**63:
            raise tarfile.ReadError("a member of negative size")
        return self._file.seek(position)

    def read(self, size: int | None = -1) -> bytes:
        size = -1 if size is None else size
        self._read += size
        if size < 0 or self._read > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of more than {_HEADER_BYTES:,} bytes")
        content = self._last = self._file.read(size)
        self._farthest = max(self._farthest, self._file.tell())
        if len(content) > tarfile.BLOCKSIZE and _QUADRATIC.search(content):
            raise tarfile.ReadError("a header that no program writes")
        return content
