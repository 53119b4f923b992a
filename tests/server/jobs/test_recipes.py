"""The catalogue of recipes: found by name, told as documents, and light to import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes import (
    RECIPES,
    AnyRecipe,
    check_installed,
    describe,
    read_params,
    recipe,
    recipes,
)

HEAVY = (
    "sklearn",
    "skl2onnx",
    "scipy",
    "joblib",
    "pandas",
    "pyarrow",
    "onnx",
    "torch",
    "onnxruntime",
)


def test_all_recipes_are_listed_without_any_heavy_library() -> None:
    """A server names them and their parameters; only the process of a job trains."""
    code = (
        "import sys\n"
        "from aiaas_server.jobs.recipes import describe, recipes\n"
        "print(len([describe(one) for one in recipes()]))\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    ).replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, heavy = done.stdout.splitlines()
    assert int(count) >= len(RECIPES)
    assert heavy == "[]"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_the_catalogue_has_it_and_its_defaults_are_parameters(
    name: str,
) -> None:
    found = recipe(name)
    assert found.name == name
    told = describe(found)
    properties = told.params.get("properties", {})
    assert all("description" in one for one in properties.values()), "a form shows what it is"
    assert read_params(found, {}) == read_params(found, found.params().model_dump())


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        InvalidInput, match="'random-forrest-classifier'; did you mean 'random-forest-"
    ):
        recipe("random-forrest-classifier")
    with pytest.raises(InvalidInput, match=r"no recipe 'xyzzy'\. The recipes: cnn-classifier, decision-tree"):
        recipe("xyzzy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"neighbors": 3}, "no parameter 'neighbors'; did you mean 'neighbours'"),
        ({"zzz": 1}, "no parameter 'zzz'. It has"),
        ({"neighbours": 0}, "'neighbours': Input should be greater than or equal to 1, got 0"),
        ({"neighbours": "many"}, "'neighbours': .*integer.* got 'many'"),
        ({"missing": "mean"}, "'missing': .*got 'mean'"),
    ],
)
def test_a_wrong_parameter_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_params(recipe("knn-classifier"), values)


def test_installed_recipes_join_and_do_not_replace_ours() -> None:
    own = recipe("ridge")

    def others() -> dict[str, Callable[[], AnyRecipe]]:
        return {"theirs": lambda: own, "lasso": lambda: own}

    assert recipe("theirs", others) is own
    assert recipe("lasso", others).name == "lasso"


def test_what_is_not_installed_is_said() -> None:
    found = recipe("ridge")
    assert describe(found).extra == ""
    found.modules = ("no_such_module",)  # type: ignore[misc]
    assert describe(found).extra == "train"
    with pytest.raises(InvalidInput, match=r'needs no_such_module .*"aiaas-client\[train\]"'):
        check_installed(found)


def test_recipes_are_sorted_by_name() -> None:
    names = [one.name for one in recipes()]
    assert names == sorted(names)
