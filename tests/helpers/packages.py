"""Packages that bring a method, as pip would install them, in a folder on ``sys.path``."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semigrid.trainers.methods import registry

DOCUMENT = Path(__file__).parents[2] / "docs/your-own-method.md"


def from_document(folder: Path, version: str = "0.1.0", **how: Any) -> str:
    """Installs the package that the document shows, and returns the name of its module.

    ``how`` is passed to ``install``.
    """
    text = DOCUMENT.read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [project] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    [module] = re.findall(r"`(\w+)\.py`:\n\n```python", text)
    (folder / f"{module}.py").write_text(code)
    content = tomllib.loads(project)["project"]
    points = content["entry-points"]["semigrid.methods"]
    assert content["version"] == "0.1.0"
    install(folder, content["name"], version, points, requires=content["dependencies"], **how)
    return module


def install(
    folder: Path,
    name: str,
    version: str,
    points: dict[str, str],
    origin: dict[str, object] | None = None,
    requires: Sequence[str] = (),
) -> None:
    """What pip writes about an installed package; ``origin`` is None for one of an index."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    about = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *about, ""]))
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    lines = [f"{key} = {value}" for key, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[semigrid.methods]", *lines]))


@contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Packages in a folder are installed while the block runs."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    registry.forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
        registry.forget()
