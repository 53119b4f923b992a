"""The SDK of AIaaS: call models on a server, or in this process, from Python.

    from aiaas_client import Client

    client = Client("http://127.0.0.1:8000")
    result = client.model("digits").infer(x=array)

`Client` is for threads, `AsyncClient` for asyncio; they have the same names. The public names stand
in `_exports` and are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from aiaas_client._exports import *  # noqa: F403  # for type checkers: all the names


def _homes() -> dict[str, str]:
    """Run `_exports` with an `import` that notes what it would load, and loads nothing."""
    homes: dict[str, str] = {}

    def note(module: str, _: Any, __: Any, names: tuple[str, ...], ___: int) -> Any:
        homes.update(dict.fromkeys(names, module))
        return SimpleNamespace(**dict.fromkeys(names))

    spec = find_spec("aiaas_client._exports")
    exec(spec.loader.get_code(spec.name), {"__builtins__": {"__import__": note}})  # type: ignore[union-attr]  # a module of this package
    return homes


if not TYPE_CHECKING:
    _HOMES = _homes()
    __all__ = sorted(_HOMES)

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module(f"{__name__}._config").VERSION
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
