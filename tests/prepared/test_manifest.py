"""Prepared data that is damaged is told from data, named, and made again from what is there: the same bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.cli import main
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.prepared import jobs as video_jobs
from hf_frameseg.prepared import manifest
from hf_frameseg.prepared.cache import DamagedCacheError
from hf_frameseg.prepared.manifest import MANIFEST_FILE, check_prepared, find_damage
from hf_frameseg.prepared.report import FAILURES_FILE
from hf_frameseg.shards.shares import decode_share
from hf_frameseg.video.settings import FrameSettings

FILE = "highlight_val_release.jsonl"
FRAMES = FrameSettings(num_frames=3, frame_size=16, timeout_seconds=None)
OPTIONS: dict[str, Any] = {"frames": FRAMES, "frame_format": "raw"}


@pytest.fixture(scope="module")
def source(tmp_path_factory, write_video):
    """Three videos of 2 s and one that is none; five queries."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "videos").mkdir()
    for number in range(3):
        write_video(folder / "videos" / f"v{number}.mp4", np.arange(number, 20 + number), Fraction(1, 10))
    (folder / "videos" / "v3.mp4").write_bytes(b"no video" * 100)
    labels = {"relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]}
    vids = ["v0", "v1", "v2", "v3", "v1"]
    rows = [{"qid": qid, "query": "a", "duration": 2, "vid": vid, **labels} for qid, vid in enumerate(vids)]
    (folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pristine(source, tmp_path_factory):
    """A finished cache."""
    cache = tmp_path_factory.mktemp("pristine") / "cache"
    load_rows("qvhighlights", source, "val", cache_dir=cache, on_error="skip", **OPTIONS)
    return cache


@pytest.fixture
def cache(pristine, tmp_path):
    """The finished cache, to be damaged."""
    return shutil.copytree(pristine, tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch):
    """Record which videos are decoded."""
    calls = []
    original = video_jobs.prepare_video

    def spy(path, *args):
        calls.append(path.stem)
        return original(path, *args)

    monkeypatch.setattr(video_jobs, "prepare_video", spy)
    return calls


def prepared(cache: Path) -> Path:
    """Return the folder of the prepared data."""
    (folder,) = [path.parent for path in cache.rglob("*.arrow") if ".incomplete" not in str(path)] or [
        path for path in cache.glob("*/*/*") if path.suffix != ".lock"
    ]
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path, place: float) -> None:
    """Flip a bit at a place from 0 (the start) to 1."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def arrow(folder: Path) -> Path:
    (path,) = folder.glob("*.arrow")
    return path


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


INFO = "dataset_info.json"
SEEN_WHEN_OPENED: dict[str, Callable[[Path], Any]] = {
    "info cut": lambda folder: cut(folder / INFO, 0.5),
    "info empty": lambda folder: (folder / INFO).write_bytes(b""),
    "info a list": lambda folder: (folder / INFO).write_text("[1, 2]"),
    "info a folder": lambda folder: folder_in_its_place(folder / INFO),
    "info gone": lambda folder: (folder / INFO).unlink(),
    "info flipped": lambda folder: flip(folder / INFO, 0.5),
    "report cut": lambda folder: cut(folder / FAILURES_FILE, 0.5),
    "report a list": lambda folder: (folder / FAILURES_FILE).write_text("[]\n"),
    "report a folder": lambda folder: folder_in_its_place(folder / FAILURES_FILE),
    "report gone": lambda folder: (folder / FAILURES_FILE).unlink(),
    "rows cut by a byte": lambda folder: cut(arrow(folder), 0.99999),
    "rows cut": lambda folder: cut(arrow(folder), 0.4),
    "rows empty": lambda folder: arrow(folder).write_bytes(b""),
    "rows a folder": lambda folder: folder_in_its_place(arrow(folder)),
    "rows gone": lambda folder: arrow(folder).unlink(),
    "rows a link": lambda folder: arrow(folder).symlink_to(arrow(folder).rename(folder.parent / "x")),
    "manifest cut": lambda folder: cut(folder / MANIFEST_FILE, 0.5),
    "manifest gone": lambda folder: (folder / MANIFEST_FILE).unlink(),
    "manifest a list": lambda folder: (folder / MANIFEST_FILE).write_text("[]"),
    "manifest that names others": lambda folder: (folder / MANIFEST_FILE).write_text(
        json.dumps({"../../x": {"bytes": 1, "sha256": ""}})
    ),
    "manifest a folder": lambda folder: folder_in_its_place(folder / MANIFEST_FILE),
    "the folder empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "the folder a file": lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"x")),
}
FLIPS = [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0]


@pytest.mark.parametrize("damage", SEEN_WHEN_OPENED)
def test_what_is_cut_or_gone_is_seen_when_it_is_opened_and_made_again(damage, cache, source, pristine, caplog):
    folder, before = prepared(cache), contents(prepared(pristine))
    SEEN_WHEN_OPENED[damage](folder)
    states = list(check_prepared(cache))
    assert [state.folder for state in states if state.damage] == ([folder] if folder.is_dir() else [])
    dataset = load_rows("qvhighlights", source, "val", cache_dir=cache, on_error="skip", **OPTIONS)
    (line,) = [line for line in caplog.messages if "is damaged" in line]
    assert line.startswith(f"the prepared data in {folder} is damaged (")
    assert line.endswith("); it is prepared again")
    assert dataset["vid"][:] == ["v0", "v1", "v2", "v1"]
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert find_damage(folder, contents=True) is None
    assert not list(cache.rglob("*.parts"))


@pytest.mark.parametrize("place", FLIPS)
def test_a_flipped_bit_is_found_by_reading_all(place, cache, pristine, capsys):
    folder = prepared(cache)
    assert main(["verify", "--cache", str(cache)]) == 0
    assert capsys.readouterr().out.startswith(f"sound    {folder}  3 files, ")
    flip(arrow(folder), place)
    assert main(["verify", "--cache", str(cache)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"damaged  {folder}  {arrow(folder).name} has another content than was written",
        "1 of 1 prepared folder is damaged; `frameseg prepare` with the same options makes it again",
    ]


@pytest.fixture
def large(monkeypatch):
    """Take the rows for a file that is too large to be read whenever it is opened."""
    monkeypatch.setattr(manifest, "_SMALL_BYTES", 10_000)


def test_a_mending_uses_the_parts_that_are_there(cache, source, pristine, decoded, large):
    folder, before = prepared(cache), contents(prepared(pristine))
    flip(arrow(folder), 0.5)
    builder = QVHighlights(data_dir=str(source), cache_dir=str(cache), splits=("val",), on_error="skip", **OPTIONS)
    builder.download_and_prepare()
    assert decoded == []  # opening reads no pictures
    cut(arrow(folder), 0.5)
    assert decode_share(builder, 0, 2) == 2  # parts, as a mending that was killed leaves them
    decoded.clear()
    builder.repair()
    assert decoded == ["v1", "v3"]
    after = contents(folder)
    assert {name: after[name] for name in before} == before


def test_prepare_mends_a_flipped_bit(source, tmp_path, capsys, caplog, large):
    command = [
        "prepare",
        "--data-dir",
        str(source),
        "--split",
        "val",
        "--cache-dir",
        str(tmp_path),
        "--on-error",
        "skip",
    ]
    command += ["--num-frames", "3", "--frame-size", "16", "--frame-format", "raw"]
    assert main(command) == 0
    folder = Path(capsys.readouterr().out.split()[-1])
    before = contents(folder)
    flip(arrow(folder), 0.6)
    assert main(command) == 0
    assert f"the prepared data in {folder} is damaged ({arrow(folder).name} has another content" in caplog.text
    assert contents(folder) == before
    assert str(folder) in capsys.readouterr().out


def test_rows_that_cannot_be_opened_are_made_again(cache, source, pristine, caplog, large):
    folder, before = prepared(cache), contents(prepared(pristine))
    builder = QVHighlights(data_dir=str(source), cache_dir=str(cache), splits=("val",), on_error="skip", **OPTIONS)
    with pytest.raises(ValueError, match='Unknown split "train"'):  # what is not there is no damage
        builder.as_dataset("train")
    arrow(folder).write_bytes(os.urandom(arrow(folder).stat().st_size))
    builder = QVHighlights(data_dir=str(source), cache_dir=str(cache), splits=("val",), on_error="skip", **OPTIONS)
    with pytest.raises(
        DamagedCacheError, match=r"^the prepared data in .* is damaged \(.*prepare it again with the sam"
    ):
        builder.as_dataset("val")
    load_rows("qvhighlights", source, "val", cache_dir=cache, on_error="skip", **OPTIONS)
    assert "it is prepared again" in caplog.text
    after = contents(folder)
    assert {name: after[name] for name in before} == before


def test_verify_needs_something_to_verify(tmp_path, capsys):
    assert main(["verify"]) == 2
    assert "to verify videos, or --cache [DIR]" in capsys.readouterr().err
    assert main(["verify", "--cache", str(tmp_path / "nowhere")]) == 2
    assert "no cache folder at" in capsys.readouterr().err
    assert main(["verify", "--cache", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("nothing is prepared there; `frameseg prepare`")


def test_verify_takes_the_cache_of_datasets_by_default_and_writes_a_report(
    cache, source, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    flip(arrow(prepared(cache)), 0.5)
    report = tmp_path / "report.json"
    assert main(["verify", "--json", str(report), "--cache"]) == 1
    (one,) = json.loads(report.read_text())["prepared"]
    assert one["folder"] == str(prepared(cache))
    assert one["damage"].endswith("has another content than was written")


def test_what_others_keep_in_a_cache_is_nobodys_damage(cache):
    folder = prepared(cache)
    (folder / "cache-0123.arrow").write_bytes(b"of map")
    for name in ("other/default-0123456789abcdef/0.0.0", "x/val-3f-16px-raw-0123456789abcdef/2.0.0"):
        (cache / name).mkdir(parents=True)
        (cache / name / "x.arrow").write_bytes(b"x")
    assert [one.damage for one in check_prepared(cache)] == [None]


def test_large_files_are_not_read_when_a_cache_is_opened(cache, source, monkeypatch):
    read = []
    original = manifest._sha256
    monkeypatch.setattr(manifest, "_SMALL_BYTES", arrow(prepared(cache)).stat().st_size - 1)
    monkeypatch.setattr(manifest, "_sha256", lambda path, **kwargs: read.append(path.name) or original(path, **kwargs))
    load_rows("qvhighlights", source, "val", cache_dir=cache, on_error="skip", **OPTIONS)
    assert set(read) == {INFO, FAILURES_FILE}


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/nothing/there", "/dev/null", "/dev/null/x", "/sys"])
def test_where_nothing_can_be_written_is_said_at_once(source, place):
    with pytest.raises(OSError, match=r"^cannot write to the cache /.*pass another cache_dir") as caught:
        load_rows("qvhighlights", source, "val", cache_dir=place, on_error="skip", **OPTIONS)
    assert "\n" not in str(caught.value)


# Several preparations in one folder


@pytest.fixture
def stop(monkeypatch):
    """Stop the next preparation after its videos, before its rows are written."""

    def call(load, **options):
        with monkeypatch.context() as patch:
            patch.setattr(QVHighlights, "_split_generators", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                load(**options)

    return call


@pytest.fixture
def load(source, tmp_path):
    def call(**options):
        return load_rows("qvhighlights", source, "val", cache_dir=tmp_path / "cache", **OPTIONS, **options)

    return call


def parts(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.rglob("*.part")}


def test_opening_a_data_set_leaves_the_parts_of_another_preparation(load, stop, tmp_path, decoded):
    load(on_error="skip")
    stop(load, on_error="blank")
    waiting = parts(tmp_path)
    assert len(waiting) == 3
    (folder,) = tmp_path.rglob("*.parts")
    decoded.clear()
    with hold(folder):  # the other one runs: opening waits for nobody
        load(on_error="skip")
    assert parts(tmp_path) == waiting
    load(on_error="skip")
    assert parts(tmp_path) == waiting
    load(on_error="blank")
    assert decoded == ["v3"]  # it goes on from its parts
    assert not list(tmp_path.rglob("*.parts"))


def hold(folder: Path) -> Any:
    """Hold the lock of a preparation, as another process does."""
    from filelock import FileLock

    return FileLock(f"{folder}.lock", is_singleton=False, timeout=0)


def test_what_was_not_deleted_before_a_kill_is_deleted_later(load, stop, tmp_path, monkeypatch):
    from hf_frameseg.prepared.parts import Parts

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "delete", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(on_error="skip")
    assert len(parts(tmp_path)) == 3
    (folder,) = tmp_path.rglob("*.parts")
    with hold(folder):
        load(on_error="skip")
    assert len(parts(tmp_path)) == 3  # another process is there
    load(on_error="skip")
    assert not list(tmp_path.rglob("*.parts"))


def test_a_preparation_takes_over_what_another_was_about_to_delete(load, stop, tmp_path, monkeypatch, decoded):
    from hf_frameseg.prepared.parts import Parts

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "delete", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(on_error="skip")
    decoded.clear()
    stop(load, on_error="blank")
    assert decoded == ["v3"]
    load(on_error="skip")
    assert len(parts(tmp_path)) == 3


def test_a_finished_preparation_deletes_its_own_parts_only(source, load, stop, tmp_path):
    other = tmp_path / "data"
    (other).mkdir()
    (other / FILE).write_text("".join((source / FILE).read_text().splitlines(keepends=True)[:2]))
    options = {"cache_dir": tmp_path / "cache", "video_dir": str(source / "videos"), **OPTIONS}
    stop(lambda **kwargs: load_rows("qvhighlights", other, "val", **options, **kwargs))
    (other / FILE).write_text("".join((source / FILE).read_text().splitlines(keepends=True)[1:3]))
    load_rows("qvhighlights", other, "val", **options)
    assert len(parts(tmp_path)) == 1  # v0 is the stopped one's alone


def test_two_machines_at_the_same_share_give_the_same_parts(source, tmp_path, monkeypatch):
    """Both write a part at the same moment: each of them is whole, whichever comes last."""
    from hf_frameseg.prepared.parts import Parts

    def machine() -> QVHighlights:
        choices = {"data_dir": str(source), "cache_dir": str(tmp_path / "cache"), "splits": ("val",), **OPTIONS}
        return QVHighlights(on_error="skip", **choices)

    replace, inside = Path.replace, []

    def other_first(self: Path, target: Path) -> Path:
        if not inside and target.suffix == ".part":
            inside.append(target)
            assert decode_share(machine(), 0, 1) == 3
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", other_first)
    assert decode_share(machine(), 0, 1) == 3
    assert len(parts(tmp_path)) == 3
    assert not list(tmp_path.rglob("*.tmp"))
    folder = machine().parts()
    assert isinstance(folder, Parts)
    assert all(folder.read(path.removesuffix(".part")) is not None for path in parts(tmp_path))


def test_a_part_whose_file_is_taken_away_is_written_again(source, tmp_path, monkeypatch):
    replace, cleared = Path.replace, []

    def cleared_first(self: Path, target: Path) -> Path:
        if not cleared and target.suffix == ".part":
            cleared.append(target)
            self.unlink()  # who finishes a data set clears the folder
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cleared_first)
    builder = QVHighlights(
        data_dir=str(source), cache_dir=str(tmp_path / "c"), splits=("val",), on_error="skip", **OPTIONS
    )
    assert decode_share(builder, 0, 1) == 3
    assert len(parts(tmp_path)) == 3
