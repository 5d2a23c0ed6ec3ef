"""Every fenced block of the pages is run, compared or declared a drawing; a block that is none of these fails here."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # with importlib mode a test cannot import its neighbours otherwise
from pages import PAGES, ROOT, Block, read_blocks, section_of  # noqa: E402
from rehearsals import REHEARSALS, Rehearsal  # noqa: E402
from stage import Stage  # noqa: E402

SHELL, PYTHON, SHOWN = ("bash",), ("python",), ("text", "json")


def shows_commands(block: Block) -> bool:
    return block.language == "text" and block.code.startswith("$ ")


def check_of(rehearsal: Rehearsal, block: Block) -> str | None:
    """Return the beginning under which a block of text is declared."""
    return next((start for start in rehearsal.shown if block.code.startswith(start)), None)


def problems(block: Block) -> list[str]:
    """Return why a block has no rehearsal."""
    if block.is_doctest:
        collected = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
        at_home = block.page in collected or block.page.split("/")[0] in collected
        return [] if at_home else [f"{block}: pytest does not collect the page's doctests"]
    if block.language not in SHELL + PYTHON + SHOWN:
        return [f"{block}: say its language: bash, python, json, or text for what does not run"]
    if block.page not in REHEARSALS:
        return [f"{block}: the page has no rehearsal; add one to tests/docs/rehearsals.py"]
    declared = shows_commands(block) or check_of(REHEARSALS[block.page], block) is not None
    if block.language in SHOWN and not declared:
        return [f"{block}: neither a command with what it prints nor declared in tests/docs/rehearsals.py"]
    return []


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_rehearsal(page: str) -> None:
    assert [problem for block in read_blocks(page) for problem in problems(block)] == []


@pytest.mark.parametrize(
    ("page", "text", "problem"),
    [
        ("docs/new.md", "```bash\nframeseg score x\n```\n", "docs/new.md:2 (bash): the page has no rehearsal"),
        ("docs/decoders.md", "# A\n\n```text\nF  frames\n```\n", "docs/decoders.md:4 (text): neither a command"),
        ("docs/decoders.md", "```\nfree\n```\n", "docs/decoders.md:2 (no language): say its language"),
        ("docs/decoders.md", "  ```console\n  $ x\n  ```\n", "docs/decoders.md:2 (console): say its language"),
        ("CONTRIBUTING.md", "```python\n>>> 1\n1\n```\n", "pytest does not collect"),
    ],
)
def test_a_planted_block_is_found(page: str, text: str, problem: str) -> None:
    (block,) = read_blocks(page, text)
    assert [problem in found for found in problems(block)] == [True]


def test_an_open_block_is_found() -> None:
    with pytest.raises(ValueError, match=r"docs/x\.md:3: the block has no end"):
        read_blocks("docs/x.md", "a\n\n```bash\nmake\n")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page in REHEARSALS])
def test_the_blocks_of_the_page_run(page: str, stage: Stage) -> None:
    rehearsal = REHEARSALS[page]
    blocks = [block for block in read_blocks(page) if not block.is_doctest]
    unused = set(rehearsal.shorter)

    def shorten(block: Block) -> str:
        code = block.code
        for printed, short in rehearsal.shorter.items():
            if printed in code:
                unused.discard(printed)
                code = code.replace(printed, short)
        return code

    rehearsal.prepare(stage)
    script = [block for block in blocks if block.language in PYTHON]
    if script:
        stage.python(script, [shorten(block) for block in script], rehearsal.given)
    for block in blocks:
        if block.language in SHELL:
            stage.printed[block.code.splitlines()[0]] = stage.shell(shorten(block), str(block))
        elif shows_commands(block):
            command, _, output = block.code.partition("\n")
            assert stage.shell(f"{command[2:]} || true", str(block)).splitlines() == output.splitlines()
        elif block.language in SHOWN and (check := rehearsal.shown[check_of(rehearsal, block)]):
            check(stage, block)
    rehearsal.check(stage)
    assert unused == set(), "these abbreviations occur nowhere on the page"
    assert [start for start in rehearsal.shown if not any(block.code.startswith(start) for block in blocks)] == []
    assert [name for name in rehearsal.stand_ins if not stage.calls(name)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page in REHEARSALS])
def test_what_is_stood_in_for_is_called_not_run(page: str) -> None:
    for block in read_blocks(page):
        for name in REHEARSALS[page].stand_ins:
            if block.language in SHELL and re.search(rf"^ *{re.escape(name)} ", block.code, re.MULTILINE):
                assert "not run" in section_of(page, block.section), f"{block} needs {name}: say what was not run"
