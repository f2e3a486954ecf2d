"""The methods by name: those of semigrid, and those that other packages bring.

A package brings a method by the entry point group ``semigrid.methods``: the name that experiment
files write, and a ``Stepped`` of that name (docs/your-own-method.md). It is imported when a file
or a job names it, by the command line and by workers alike.
"""

import contextlib
import json
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Annotated, Any

from pydantic import AfterValidator

from semigrid.data.errors import InputError
from semigrid.trainers.methods.distill import DISTILL
from semigrid.trainers.methods.finetune import FINETUNE
from semigrid.trainers.methods.fixmatch import FIXMATCH
from semigrid.trainers.methods.method import Method, Stepped
from semigrid.trainers.methods.probe import PROBE
from semigrid.trainers.methods.recorded import Package, RecordedMethod
from semigrid.trainers.methods.semi import SEMI

GROUP = "semigrid.methods"
BUILT_IN: tuple[Method[Any], ...] = (FINETUNE, SEMI, FIXMATCH, DISTILL, PROBE)
# methods without their packages, as the runs that are looked at wrote them down
_recalled: dict[str, RecordedMethod] = {}


@cache
def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages by the name of their method."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def forget() -> None:
    """Looks for installed packages anew at the next question."""
    _entries.cache_clear()
    find_method.cache_clear()
    _recalled.clear()


def recall(recorded: RecordedMethod) -> None:
    """Makes a method known whose package is not installed here."""
    _recalled[recorded.name] = recorded
    find_method.cache_clear()


def package_gone(name: str) -> str | None:
    """That the package of a method is gone, and what to do; None where it is there."""
    gone = name in _recalled and name not in method_names()
    return _recalled[name].problem if gone else None


def method_names() -> list[str]:
    """The names of all methods that can train, those of installed packages last."""
    return list(dict.fromkeys([*(method.name for method in BUILT_IN), *sorted(_entries())]))


@cache
def find_method(name: str) -> Method[Any]:
    """The method of a name; a stand-in for one that was recalled.

    Raises ``InputError`` for one that nobody brings or two packages do, and for one whose package
    cannot be imported.
    """
    own = [method for method in BUILT_IN if method.name == name]
    entries = _entries().get(name, ())
    if len(own) + len(entries) > 1:
        packages = [*("semigrid" for _ in own), *map(package_name, entries)]
        raise InputError(
            f"there are several methods of the name {name!r}, of the packages "
            f"{', '.join(packages)}: uninstall one of them (pip uninstall)"
        )
    if own:
        return own[0]
    if not entries and name in _recalled:
        return _recalled[name].stand_in()
    if not entries:
        raise InputError(f"{name!r} {_unknown()}")
    return _load(entries[0])


def _load(entry: EntryPoint) -> Method[Any]:
    where = f"method {entry.name!r} of the package {package_name(entry)} ({entry.value})"
    try:
        method = entry.load()
    # whatever somebody else's module does when it is imported
    except (Exception, SystemExit) as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{where} cannot be loaded: {type(error).__name__}: {first_line}; mend the package or "
            "install another version of it"
        ) from error
    if not isinstance(method, Stepped):
        raise InputError(
            f"{where} is no Stepped but of type {type(method).__name__}; mend the package"
        )
    if method.name != entry.name:
        raise InputError(f"{where} has the name {method.name!r}: make the two the same")
    if type(method.version) is not int:
        raise InputError(
            f"{where} has the version {method.version!r}: let it be a whole number, 1 at first"
        )
    return method


def package_name(entry: EntryPoint) -> str:
    return "?" if entry.dist is None else entry.dist.name


def package_of(name: str) -> Package | None:
    """The package that brings a method; None for one of semigrid, or of nobody."""
    for entry in _entries().get(name, ()):
        if entry.dist is not None:
            module = entry.module.partition(".")[0]
            return Package(
                name=entry.dist.name,
                version=entry.dist.version,
                module=module,
                pip=_pip(entry.dist),
            )
    return None


def _pip(package: Distribution) -> str | None:
    """By where pip says that it was installed from (PEP 610); from an index it says nothing."""
    origin = json.loads(package.read_text("direct_url.json") or "null")
    if origin is None:
        return f"{package.name}=={package.version}"
    if origin["url"].startswith("file:"):
        return None
    url = origin["url"]
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    folder = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    return f"{package.name} @ {url}{folder}"


def who_uses(setting: str) -> str | None:
    """``only semi uses it``, of a recipe's field; None if no method has it.

    A package that cannot be imported is not asked.
    """
    names = []
    for name in method_names():
        with contextlib.suppress(InputError):
            if setting in find_method(name).recipe.model_fields:
                names.append(name)
    if not names:
        return None
    *first, last = names
    return f"only {', '.join(first)} and {last} use it" if first else f"only {last} uses it"


def _unknown() -> str:
    return (
        f"is not a method; there are {', '.join(method_names())}; methods of other packages are "
        "there once those are installed (pip install), here and on every node"
    )


def _known(name: str) -> str:
    if name not in method_names() and package_gone(name) is None:
        raise ValueError(_unknown())
    return find_method(name).name


MethodName = Annotated[str, AfterValidator(_known)]
