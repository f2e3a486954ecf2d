"""The borders between the packages, and the core that needs no Ray."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import semigrid.data
import semigrid.grid
import semigrid.trainers

ROOT = Path(__file__).parent.parent

# the modules that design keeps for Ray; everything else must import where Ray cannot
RAY_MODULES = {
    "semigrid.data.builder.ingest_ray",
    "semigrid.data.stream",
    "semigrid.trainers.ray_nodes",
    "semigrid.trainers.ray_worker",
    "semigrid.grid.cluster.autoscaler",
    "semigrid.grid.cluster.node_check",
    "semigrid.grid.cluster.ray_private",
    "semigrid.grid.run.tune",
    "semigrid.grid.predict.ray_data",
    "semigrid.grid.submit.jobs",
}
PACKAGES = {"data": semigrid.data, "trainers": semigrid.trainers, "grid": semigrid.grid}
ALLOWED = {"data": {"data"}, "trainers": {"data", "trainers"}, "grid": {"data", "trainers", "grid"}}


def module_names() -> list[str]:
    return [
        name
        for package in PACKAGES.values()
        for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    ]


def test_everything_but_the_ray_modules_imports_where_ray_does_not() -> None:
    names = [name for name in module_names() if name not in RAY_MODULES]
    assert len(names) > 25
    program = (
        "import sys; sys.modules['ray'] = None\n"  # makes `import ray` raise ImportError
        "import importlib\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert not any(m.startswith('ray.') for m in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_ray_modules_are_those_that_import_ray() -> None:
    importing = set()
    for name in module_names():
        path = ROOT / "src" / (name.replace(".", "/") + ".py")
        if path.exists() and any(
            line.startswith(("import ray", "from ray")) for line in path.read_text().splitlines()
        ):
            importing.add(name)
    assert importing == RAY_MODULES


def test_packages_import_in_one_direction_only() -> None:
    for package, allowed in ALLOWED.items():
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                roots = {n.split(".")[1] for n in names if n.startswith("semigrid.")}
                assert roots <= allowed, f"{path} imports {roots - allowed}"
