"""Methods that other packages bring: found, named in messages, refused where they are broken."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pydantic import ValidationError
from tests.helpers.packages import from_document, install, on_path

from semigrid.data.errors import InputError
from semigrid.grid.experiment.schema import ModelConfig
from semigrid.trainers.methods import find_method, method_names, package_of, who_uses
from semigrid.trainers.methods.method import Stepped
from semigrid.trainers.methods.semi import SEMI, SemiRecipe

PAGE = "from semigrid.trainers.methods.semi import SEMI\n"
PLAIN = """from semigrid.trainers.methods.finetune import FINETUNE
from semigrid.trainers.methods.method import Method
X = Method(name="odd", recipe=FINETUNE.recipe, search_space=FINETUNE.search_space)
"""
SHORT = """from dataclasses import replace
from semigrid.trainers.methods.finetune import FINETUNE
from semigrid.trainers.recipe import Recipe
X = replace(FINETUNE, name="odd", recipe=Recipe)
"""
VERSIONED = (
    PAGE
    + """from dataclasses import replace
X = replace(SEMI, name="odd", version="1.2.0")
"""
)


def test_an_unknown_method_names_those_there_are_and_what_to_install() -> None:
    with pytest.raises(ValidationError) as refused:
        ModelConfig.model_validate({"method": "mean-teacher"})
    message = str(refused.value)
    assert f"is not a method; there are {', '.join(method_names())}; methods of" in message
    assert "once those are installed (pip install), here and on every node" in message


def test_an_installed_package_brings_its_method(tmp_path: Path) -> None:
    from_document(tmp_path)
    with on_path(tmp_path):
        assert method_names()[-1] == "mean-teacher"
        method = find_method("mean-teacher")
        assert isinstance(method, Stepped) and method.name == "mean-teacher"
        package = package_of("mean-teacher")
        assert package is not None and package.module == "semigrid_mean_teacher"
        assert package.pip == "semigrid-mean-teacher==0.1.0"
        assert who_uses("consistency_weight") == "only mean-teacher uses it"
        assert ModelConfig.model_validate({"method": "mean-teacher"}).method == "mean-teacher"
    assert "mean-teacher" not in method_names() and package_of("semi") is None


GIT = {"vcs": "git", "commit_id": "0123abcd"}


@pytest.mark.parametrize(
    ("origin", "pip"),
    [
        (None, "semigrid-mean-teacher==0.1.0"),
        ({"url": "file:///home/me/mt", "dir_info": {"editable": True}}, None),
        ({"url": "file:///home/me/mt-0.1.0.whl", "archive_info": {}}, None),
        (
            {"url": "https://git.example/mt", "vcs_info": GIT, "subdirectory": "a/b"},
            "semigrid-mean-teacher @ git+https://git.example/mt@0123abcd#subdirectory=a/b",
        ),
        (
            {"url": "https://example.org/mt.whl", "archive_info": {}},
            "semigrid-mean-teacher @ https://example.org/mt.whl",
        ),
    ],
)
def test_where_a_package_can_be_installed_from(
    tmp_path: Path, origin: dict[str, object] | None, pip: str | None
) -> None:
    from_document(tmp_path, origin=origin)
    with on_path(tmp_path):
        package = package_of("mean-teacher")
        assert package is not None and package.pip == pip
        assert pip is None or Requirement(pip).name == package.name


@pytest.mark.parametrize(
    ("code", "entry", "problem"),
    [
        ("1 / 0", "broken:X", "cannot be loaded: ZeroDivisionError: division by zero; mend"),
        ("", "broken:X", "cannot be loaded: AttributeError: "),
        ("import sys\nsys.exit(3)", "broken:X", "cannot be loaded: SystemExit: 3; mend the pack"),
        ("X = 3", "broken:X", "is no Stepped but of type int; mend the package"),
        (PLAIN, "broken:X", "is no Stepped but of type Method; mend the package"),
        (SHORT, "broken:X", "cannot be loaded: TypeError: method odd: Recipe does not extend Ste"),
        (VERSIONED, "broken:X", "has the version '1.2.0': let it be a whole number, 1 at first"),
        (PAGE, "broken:SEMI", "has the name 'semi': make the two the same"),
        ("", "nowhere:X", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_broken_package_is_one_message(
    tmp_path: Path, code: str, entry: str, problem: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    install(tmp_path, "acme-broken", "1.0", {"odd": entry})
    with on_path(tmp_path):
        with pytest.raises(InputError) as refused:
            find_method("odd")
        [message] = refused.value.problems
        assert message.startswith(f"method 'odd' of the package acme-broken ({entry}) {problem}")
        # it hinders nobody who does not name it
        assert find_method("semi") is SEMI and who_uses("mixup") is not None


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text(PAGE)
    install(tmp_path, "acme-one", "1.0", {"semi": "acme:SEMI", "other": "acme:SEMI"})
    install(tmp_path, "acme-two", "1.0", {"other": "acme:SEMI"})
    with on_path(tmp_path):
        for name, packages in (("semi", "semigrid, acme-one"), ("other", "acme-")):
            with pytest.raises(InputError, match=f"several methods of the name '{name}'") as error:
                find_method(name)
            assert packages in str(error.value) and "uninstall one of them" in str(error.value)
        assert find_method("finetune").name == "finetune"


def test_a_pool_and_its_settings_belong_together() -> None:
    with pytest.raises(TypeError, match="method odd: pool is none, and SemiRecipe extends Pool"):
        Stepped(
            name="odd",
            recipe=SemiRecipe,
            search_space=lambda recipe: {},
            forwards_per_step=lambda recipe, with_pool: 1,
            step_targets=SEMI.step_targets,
        )
