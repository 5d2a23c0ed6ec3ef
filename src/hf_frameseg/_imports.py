"""Imports on first use: optional dependencies, and the names of a package that costs nothing to import."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: dotted name of the module, e.g. ``matplotlib.pyplot``.
        extra: the extra of this package that installs it.

    Returns:
        The module.

    Raises:
        ImportError: if the dependency is not installed; the message holds the command that installs it.

    Example:
        >>> require("math", extra="viz").sqrt(9.0)
        3.0
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the dependency is there but something that it needs itself is not: that message says more
        raise ImportError(
            f"{package} is needed for this and is not installed; run: pip install 'hf_frameseg[{extra}]'"
        ) from error


def lazy(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the `__getattr__` and `__dir__` of a package whose names are imported when they are first used.

    Args:
        package: `__name__` of the package.
        module_of: Public name -> module below the package that owns it.

    Returns:
        `(__getattr__, __dir__)`.

    Example:
        >>> get, names = lazy("hf_frameseg", {"Moment": "moments"})
        >>> get("Moment").__name__, "Moment" in names()
        ('Moment', True)
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, names
