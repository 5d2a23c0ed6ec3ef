"""What stands in backticks within a sentence: options exist, files lie there, dotted names lead somewhere."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # with importlib mode a test cannot import its neighbours otherwise
from pages import FENCE, PAGES, ROOT  # noqa: E402

SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OPTION = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|jsonl?|md)")
MADE = ("runs/", "blip3_mr/", "datasets/")  # what a run leaves; repositories that are quoted
OTHERS = {  # options of commands that are not ours and not accelerate's
    "--cov": "pytest-cov",
    "--depth": "git clone",
    "--no-deps": "pip",
}


def spans(page: str) -> list[tuple[int, str]]:
    """Return (line, code) of what stands in backticks outside of blocks; a span may go over a line's end."""
    lines, inside = (ROOT / page).read_text("utf-8").splitlines(), False
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        inside ^= bool(fence)
        if fence or inside:
            lines[number] = ""
    text = "\n".join(lines)
    return [(text.count("\n", 0, span.start()) + 1, " ".join(span[1].split())) for span in SPAN.finditer(text)]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


@cache
def commands() -> dict[str, set[str]]:
    """Return the options of each `frameseg` command."""
    from hf_frameseg.cli import build_parser

    (choices,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {name: options_of(parser) for name, parser in choices.choices.items()}


@cache
def known() -> set[str]:
    """Return every option of the package, of its scripts, of `accelerate launch`, and of `OTHERS`."""
    from accelerate.commands.launch import launch_command_parser
    from transformers import HfArgumentParser

    spec = importlib.util.spec_from_file_location("run_qvh_options", ROOT / "examples" / "run_qvh.py")
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(script)
        groups = ("ModelArguments", "DataArguments", "RunArguments", "SegmentationSeq2SeqTrainingArguments")
        found = options_of(HfArgumentParser(tuple(getattr(script, group) for group in groups)))
    finally:
        del sys.modules[spec.name]
    found |= options_of(launch_command_parser()) | set(OTHERS) | set().union(*commands().values())
    for path in [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")]:
        found |= set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", path.read_text("utf-8")))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str) -> None:
    wrong = []
    for line, code in spans(page):
        command = re.match(r"frameseg (\w+)", code)
        allowed = commands().get(command[1], set()) if command else known()
        wrong += [f"{page}:{line}: {option} in {code!r}" for option in OPTION.findall(code) if option not in allowed]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_files_lie_there(page: str) -> None:
    roots = (ROOT, ROOT / "src", ROOT / "src" / "hf_frameseg", (ROOT / page).parent)
    found = [(line, path) for line, code in spans(page) for path in PATH.findall(code)]
    found = [(line, path) for line, path in found if not path.startswith(MADE)]
    wrong = [f"{page}:{line}: {path}" for line, path in found if not any((root / path).exists() for root in roots)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_lead_somewhere(page: str) -> None:
    wrong = []
    for line, code in spans(page):
        for name in re.findall(r"hf_frameseg(?:\.\w+)+(?!\.?[\w/])", code):
            try:
                importlib.import_module(name)
            except ImportError:
                module, _, attribute = name.rpartition(".")
                if not hasattr(importlib.import_module(module), attribute):
                    wrong.append(f"{page}:{line}: {name}")
    assert wrong == []


def test_a_planted_option_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("`frameseg\nscore --snap` and `--no-such-option`\n```bash\n`--x`\n```\n", "utf-8")
    monkeypatch.setattr(sys.modules[spans.__module__], "ROOT", tmp_path)
    assert spans("page.md") == [(1, "frameseg score --snap"), (2, "--no-such-option")]
    monkeypatch.undo()
    assert "--snap" not in commands()["score"]
    assert "--no-such-option" not in known()
