"""A figure as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_frameseg._files import atomic_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all.

    Args:
        figure: The figure.
        path: The file; its suffix says the format.

    Raises:
        OSError: If it cannot be written; the message names the path.
        ValueError: If matplotlib does not know the format.
    """
    path = Path(path)
    with atomic_writer(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower())
