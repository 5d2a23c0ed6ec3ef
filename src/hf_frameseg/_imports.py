"""Optional dependencies: import them where they are used, and say how to install them where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
