"""Which package imports which, and which modules import Ray."""

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

import semigrid.data
import semigrid.grid
import semigrid.trainers

ROOT = Path(__file__).parent.parent

# the modules that design keeps for Ray; everything else must import where Ray cannot
RAY_MODULES = {
    "semigrid.data.stream",
    "semigrid.trainers.cluster.ray_network",
    "semigrid.trainers.cluster.ray_nodes",
    "semigrid.trainers.cluster.ray_private",
    "semigrid.trainers.cluster.ray_tasks",
    "semigrid.trainers.ray_worker",
    "semigrid.grid.cluster.autoscaler",
    "semigrid.grid.cluster.ray_private",
    "semigrid.grid.run.reports",
    "semigrid.grid.run.room",
    "semigrid.grid.run.searcher",
    "semigrid.grid.run.start",
    "semigrid.grid.run.tasks",
    "semigrid.grid.run.tune",
    "semigrid.grid.predict.ray_data",
    "semigrid.grid.submit.jobs",
}
PACKAGES = {"data": semigrid.data, "trainers": semigrid.trainers, "grid": semigrid.grid}
ALLOWED = {"data": {"data"}, "trainers": {"data", "trainers"}, "grid": {"data", "trainers", "grid"}}
# the order in grid: a package imports itself and those that stand after it
GRID = [
    "commands", "probe", "report", "predict", "export", "submit", "tables", "analysis", "status",
    "run", "cluster", "trackers", "study", "experiment", "experiments",
]  # fmt: skip


def product_files() -> dict[str, Path]:
    """The modules of the product, and their files."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {
        f"semigrid.{name.removesuffix('.__init__')}": path
        for name, path in zip(names, paths, strict=True)
    }


def imported_modules(path: Path, modules: Collection[str] = ()) -> set[str]:
    """What a file imports anywhere; ``from a import b`` is a.b if that is one of the modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            taken = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else node.module for name in taken}
    return names


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Each module of the product, and those of the product that it imports."""
    files = product_files()
    found = {name: imported_modules(path, files) & files.keys() for name, path in files.items()}
    return {name: imported - {name} for name, imported in found.items()}


def test_only_the_run_asks_the_scheduler(imports: dict[str, set[str]]) -> None:
    importers = {
        name for name, names in imports.items() if "semigrid.grid.study.scheduler" in names
    }
    others = {name for name in importers if not name.startswith("semigrid.grid.run.")}
    assert importers and others <= {"semigrid.grid.commands.run"}


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
        # a module that imports one of them cannot be imported without Ray either
        starts = ("import ray", "from ray", *(f"from {module} import" for module in RAY_MODULES))
        if path.exists() and any(line.startswith(starts) for line in path.read_text().splitlines()):
            importing.add(name)
    assert importing == RAY_MODULES


def test_packages_import_in_one_direction_only(imports: dict[str, set[str]]) -> None:
    for module, imported in imports.items():
        packages = {each.split(".")[1] for each in imported}
        assert packages <= ALLOWED[module.split(".")[1]], f"{module} imports {packages}"


def test_packages_of_grid_import_those_below_them(imports: dict[str, set[str]]) -> None:
    assert {path.parent.name for path in (ROOT / "grid").glob("*/__init__.py")} == set(GRID)
    upward = set()
    for module, imported in imports.items():
        for each in imported:
            (_, one, *here), (_, other, *there) = module.split("."), each.split(".")
            if one == other == "grid" and here and there:
                pair = here[0], there[0]
                if GRID.index(pair[0]) > GRID.index(pair[1]):
                    upward.add(pair)
    assert not upward


def test_no_modules_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    left = dict(imports)
    while free := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_no_test_file_imports_another() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        files = {name.rpartition(".")[2] for name in imported_modules(path)}
        assert not any(name.startswith("test_") for name in files), path


def test_commands_know_the_types_of_what_they_print() -> None:
    files = (ROOT / "grid/commands").glob("*.py")
    names = {
        f.name: {n.id for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Name)}
        for f in files
    }
    assert names and not [file for file, used in names.items() if "Any" in used]
