"""Results appear whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import hf_frameseg._files as files
from hf_frameseg._files import (
    atomic_write,
    atomic_writer,
    check_outputs,
    refuse_to_overwrite,
    replace_folder,
    restore_folder,
)


def folder_of(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "content").write_text(content)
    return path


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "result.json"
    atomic_write(target, "first")
    target.chmod(0o640)
    atomic_write(target, b"second")
    assert target.read_bytes() == b"second"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["result.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(OSError, match=r"cannot write .*result.json \(No space left on device\)"):
        write_half(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def write_half(target: Path) -> None:
    with atomic_writer(target) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    atomic_write(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_as_it_is(name: str, tmp_path: Path) -> None:
    code = f"from hf_frameseg._files import atomic_write; print('before'); atomic_write({name!r}, 'text')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (b"before\ntext", b"")
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"before\ntext"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_loop_of_links_or_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(OSError, match="cannot write"):
            atomic_write(path, "text")


def test_a_device_is_written_as_it_is() -> None:
    atomic_write("/dev/null", "text")
    assert not Path("/dev/null").is_file()


def test_half_characters_are_escaped(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "\\ud800"


def test_an_input_is_not_overwritten_by_any_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("annotations")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for output in (source, tmp_path / "link", tmp_path / "hard", tmp_path / "." / "source"):
        with pytest.raises(ValueError, match=r"--json .* is an input"):
            refuse_to_overwrite(output, [None, source], "--json")
    refuse_to_overwrite(tmp_path / "other", [source], "--json")
    refuse_to_overwrite("/dev/null", ["/dev/null"], "--json")
    refuse_to_overwrite(None, [source], "--json")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    for content in ("first", "second"):
        replace_folder(folder_of(tmp_path / "new", content), tmp_path / "folder")
        assert (tmp_path / "folder" / "content").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_names_are_exchanged_at_once_here(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a", "a"), folder_of(tmp_path / "b", "b")
    if sys.platform != "linux" or not files._exchange(first, second):
        pytest.skip("this file system cannot exchange two names")
    assert (first / "content").read_text() == "b"


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """Where names cannot be exchanged, the old folder comes back the next time."""
    folder_of(tmp_path / "folder", "old")
    folder_of(tmp_path / "new", "new")
    code = (
        "import os, signal; from pathlib import Path; import hf_frameseg._files as files\n"
        "files._exchange = lambda first, second: False\n"
        "rename = Path.rename\n"
        "def killed(path, target):\n"
        "    if path.name == 'new': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(path, target)\n"
        "Path.rename = killed\n"
        "files.replace_folder('new', 'folder')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "folder").exists()
    restore_folder(tmp_path / "folder")
    assert (tmp_path / "folder" / "content").read_text() == "old"
    replace_folder(tmp_path / "new", tmp_path / "folder")
    assert (tmp_path / "folder" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_results_cost_no_input_and_no_other_result(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("precious")
    check_outputs({"--json": tmp_path / "new", "--csv": tmp_path / "other", "--png": None}, [tmp_path / "in", None])
    check_outputs({"--json": "/dev/null", "--csv": "/dev/null"}, [])
    for outputs, message in [
        ({"--json": tmp_path / "in"}, "--json .*in is an input"),
        ({"--json": tmp_path}, "--json .* is a folder; name a file in it"),
        ({"--json": tmp_path / "a", "--csv": tmp_path / "x" / ".." / "a"}, "--json and --csv both name"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_outputs(outputs, [tmp_path / "in"])
