"""A figure appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_frameseg.visualization import save_figure


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")])
def test_the_suffix_is_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / "new" / f"figure{suffix}"
    save_figure(Figure(), path)
    assert path.read_bytes().startswith(start)


def test_an_old_figure_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    save_figure(Figure(), path)
    before = path.read_bytes()
    broken = Figure()
    broken.savefig = lambda file, **options: file.write(b"half") and 1 / 0
    with pytest.raises(ZeroDivisionError):
        save_figure(broken, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
