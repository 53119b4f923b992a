"""Recipes of training, one file each; others come by the entry points `aiaas.recipes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Final

from pydantic import ValidationError

from aiaas_client.protocol.jobs import RecipeInfo
from aiaas_server.core.describe.config import first_problem, nearest
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.recipe import Params, Recipe

AnyRecipe = Recipe[Any]

_HERE: Final = "aiaas_server.jobs.recipes"
# These read texts and pictures by the server's tasks, which this room does not know.
_THERE: Final = "aiaas_server.job_process.recipes"

# Name -> `module:Class`, a `recipe.Recipe`; loaded when it is asked for.
RECIPES: Mapping[str, str] = {
    "linear-regression": f"{_HERE}.linear:LinearRegression",
    "ridge": f"{_HERE}.linear:Ridge",
    "lasso": f"{_HERE}.linear:Lasso",
    "logistic-regression": f"{_HERE}.logistic_regression:LogisticRegression",
    "svm-classifier": f"{_HERE}.svm:SvmClassifier",
    "svm-regressor": f"{_HERE}.svm:SvmRegressor",
    "decision-tree-classifier": f"{_HERE}.decision_tree:DecisionTreeClassifier",
    "decision-tree-regressor": f"{_HERE}.decision_tree:DecisionTreeRegressor",
    "random-forest-classifier": f"{_HERE}.random_forest:RandomForestClassifier",
    "random-forest-regressor": f"{_HERE}.random_forest:RandomForestRegressor",
    "gradient-boosting-classifier": f"{_HERE}.gradient_boosting:GradientBoostingClassifier",
    "gradient-boosting-regressor": f"{_HERE}.gradient_boosting:GradientBoostingRegressor",
    "knn-classifier": f"{_HERE}.knn:KnnClassifier",
    "knn-regressor": f"{_HERE}.knn:KnnRegressor",
    "mlp-classifier": f"{_HERE}.mlp:MlpClassifier",
    "mlp-regressor": f"{_HERE}.mlp:MlpRegressor",
    "cnn-classifier": f"{_THERE}.cnn:CnnClassifier",
    "text-character-pairs": f"{_THERE}.text_character_pairs:TextCharacterPairs",
    "text-tfidf": f"{_THERE}.text_tfidf:TextTfidf",
    "text-minilm": f"{_THERE}.text_minilm:TextMinilm",
    "image-transfer": f"{_THERE}.image_transfer:ImageTransfer",
}


def installed_recipes() -> Mapping[str, Callable[[], AnyRecipe]]:
    """The recipes of installed packages, by their entry points; imported when they are called."""
    return {point.name: _late(point) for point in entry_points(group="aiaas.recipes")}


def recipe(
    name: str,
    find_others: Callable[[], Mapping[str, Callable[[], AnyRecipe]]] = installed_recipes,
) -> AnyRecipe:
    """A recipe by its name.

    Args:
        find_others: Gives third parties' by name; a name of ours cannot be replaced.
    Raises:
        InvalidInput: There is none of that name; tells the nearest, and all.
    """
    if name in RECIPES:
        module, _, kind = RECIPES[name].partition(":")
        made: AnyRecipe = getattr(import_module(module), kind)()
        return made
    others = find_others()
    if name in others:
        return others[name]()
    known = sorted({*RECIPES, *others})
    near = nearest(name, known)
    meant = f"; did you mean '{near}'?" if near else "."
    raise InvalidInput(f"there is no recipe '{name[:64]}'{meant} The recipes: {', '.join(known)}")


def recipes() -> list[AnyRecipe]:
    """All of them, by name."""
    others = installed_recipes()
    return [recipe(name, lambda: others) for name in sorted({*RECIPES, *others})]


def describe(found: AnyRecipe) -> RecipeInfo:
    """A recipe as `GET /api/v1/recipes` tells it."""
    is_whole = all(find_spec(module) is not None for module in found.modules)
    return RecipeInfo(
        name=found.name,
        title=found.title,
        description=found.description,
        task=found.task,
        columns=sorted(found.kinds),
        params=found.params.model_json_schema(),
        extra="" if is_whole else found.extra,
        parallel=found.parallel,
    )


def read_params(found: AnyRecipe, values: Mapping[str, Any]) -> Params:
    """The parameters of a recipe, those that are left out with their defaults.

    Raises:
        InvalidInput: An unknown parameter, with the nearest that there is, or a value out of range.
    """
    known = list(found.params.model_fields)
    for name in values:
        if name not in known:
            near = nearest(name, known)
            meant = f"; did you mean '{near}'?" if near else "."
            raise InvalidInput(
                f"recipe '{found.name}' has no parameter '{name[:64]}'{meant} "
                f"It has {', '.join(known) or 'none'}"
            )
    try:
        read: Params = found.params.model_validate(dict(values))
    except ValidationError as error:
        place, text, _ = first_problem(error)
        shown = repr(values.get(place.split(".")[0]))[:80]
        raise InvalidInput(
            f"recipe '{found.name}', parameter '{place}': {text}, got {shown}"
        ) from None
    return read


def check_installed(found: AnyRecipe) -> None:
    """See that what the recipe needs is there.

    Raises:
        InvalidInput: It is not; says what to install on the server.
    """
    missing = [module for module in found.modules if find_spec(module) is None]
    if missing:
        raise InvalidInput(
            f"recipe '{found.name}' needs {', '.join(missing)} on the server: "
            f'pip install "aiaas-client[{found.extra}]"'
        )


def _late(point: EntryPoint) -> Callable[[], AnyRecipe]:
    def made() -> AnyRecipe:
        load: Any = point.load()
        found: AnyRecipe = load()
        return found

    return made
