"""Objects of the user's app, named as uvicorn does it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from langchain_ralmspec.errors import InvalidValueError


def named(name: str) -> Any:
    """Import what ``module:attribute`` names, with the current directory in the path.

    Raises:
        InvalidValueError: there is no such thing, or importing it failed.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise InvalidValueError(
            f"{name!r} does not name an object; write module:attribute, e.g. app:chat"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # for good: the app may import more when it is used
        sys.path.insert(0, here)
    found = _import(module_name, name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise InvalidValueError(
                f"{name!r}: {module_name!r} was imported and has no {path!r}"
            )
        found = getattr(found, attribute)
    return found


def _import(module: str, name: str) -> object:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the app raises
        said = f"importing {module!r} failed: {type(error).__name__}: {error}"
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # The module itself, or a package that it is in; else one that it imports.
        if missing and f"{module}.".startswith(f"{missing}."):
            where = f"{str(Path.cwd())!r} or among the installed ones"
            said = f"there is no module {module!r} in {where}"
        raise InvalidValueError(f"{name!r}: {said}") from error
