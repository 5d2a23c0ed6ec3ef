from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hf_frameseg.prepared.sources import folder as video_folder
from hf_frameseg.prepared.sources.folder import VideoFolder, VideoMissingError
from hf_frameseg.prepared.sources.memory import MEMORY_FILE, VideoMemory


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    return path


def test_files_are_found_by_name_without_suffix(folder):
    for name in ("a_0.0_10.0.mp4", "b.webm", "b.mkv", "c.MOV", "d.txt", "e.avi.part"):
        (folder / name).touch()
    found, missing = VideoFolder(folder).locate(["c", "b", "a_0.0_10.0", "d", "e"])
    assert {vid: file.path.name for vid, file in found.items()} == {
        "c": "c.MOV",
        "b": "b.mkv",  # the suffix that comes first in VIDEO_SUFFIXES
        "a_0.0_10.0": "a_0.0_10.0.mp4",
    }
    assert list(found) == ["c", "b", "a_0.0_10.0"]
    assert set(missing) == {"d", "e"}


def test_folders_inside_are_searched(folder):
    (folder / "part 1" / "x").mkdir(parents=True)
    (folder / "part 1" / "x" / "a.mp4").touch()
    file = VideoFolder(folder).find("a")
    assert file.path == folder.resolve() / "part 1" / "x" / "a.mp4"


def test_two_files_for_one_vid_are_a_failure_of_that_video_only(folder):
    for name in ("1", "2"):
        (folder / name).mkdir()
        (folder / name / "a.mp4").touch()
    (folder / "b.mp4").touch()
    found, missing = VideoFolder(folder).locate("ab")
    assert list(found) == ["b"]
    assert missing == {"a": f"2 files for this vid in the video folder {folder}: 1/a.mp4, 2/a.mp4; keep one"}


def test_upper_and_lower_case_are_told_apart_and_said(folder):
    (folder / "Ab.mp4").touch()
    with pytest.raises(VideoMissingError, match=r"no such file in .*; there is Ab\.mp4, spelled with other upper"):
        VideoFolder(folder).find("ab")


@pytest.mark.parametrize(
    "vid",
    ["../outside", "/etc/passwd", "..", ".", "", "a/b", "..\\outside", "C:\\a", "a\0b", "v" * 5000, "a\nb", "\ud800"],
)
def test_a_vid_is_never_a_path(folder, vid):
    (folder.parent / "outside.mp4").touch()
    (folder / "a.mp4").touch()
    with pytest.raises(VideoMissingError, match="no such file"):
        VideoFolder(folder).find(vid)


def test_the_video_folder_may_be_a_link(folder):
    (folder / "a.mp4").touch()
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert VideoFolder(link).find("a").path == folder.resolve() / "a.mp4"


def test_a_link_out_of_the_folder_is_followed_only_if_allowed(folder):
    outside = folder.parent / "outside"
    (outside / "more").mkdir(parents=True)
    (outside / "a.mp4").touch()
    (outside / "more" / "b.mp4").touch()
    (folder / "a.mp4").symlink_to(outside / "a.mp4")
    (folder / "more").symlink_to(outside / "more")
    _, missing = VideoFolder(folder).locate("ab")
    assert "is a link that leads out of the video folder; copy the file there or pass allow_links=True" in missing["a"]
    assert "no such file" in missing["b"]
    found, _ = VideoFolder(folder, allow_links=True).locate("ab")
    assert set(found) == {"a", "b"}


def test_a_link_inside_the_folder_is_fine(folder):
    (folder / "a.mp4").touch()
    (folder / "b.mp4").symlink_to("a.mp4")
    assert VideoFolder(folder).find("b").size_bytes == 0


def test_links_in_a_circle_end(folder):
    (folder / "loop").symlink_to(folder)
    (folder / "a.mp4").touch()
    assert VideoFolder(folder, allow_links=True).find("a").path.name == "a.mp4"


def test_what_is_no_file_is_missing(folder):
    (folder / "a.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(folder / "b.mp4")  # opening it would wait for ever
    (folder / "c.mp4").mkdir()
    _, missing = VideoFolder(folder).locate("abc")
    assert "cannot be read (No such file or directory)" in missing["a"]
    assert "is no file" in missing["b"]
    assert "no such file" in missing["c"]


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # as root everything can be read
    with pytest.raises(OSError, match=r"^cannot read the video folder .*closed \(Permission denied\); make"):
        VideoFolder(folder).find("a")


def test_there_has_to_be_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video folder at .*; put the videos there as <vid>\.mp4"):
        VideoFolder(tmp_path / "videos")


def test_the_fingerprint_changes_with_the_files_that_are_asked_for(folder):
    for vid in "ab":
        (folder / f"{vid}.mp4").write_bytes(b"1")
    before = VideoFolder(folder).fingerprint("a")
    os.utime(folder / "b.mp4", ns=(1, 1))
    assert VideoFolder(folder).fingerprint("a") == before
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert VideoFolder(folder).fingerprint("a") != before


@pytest.mark.parametrize(
    "suffix", [".m4v", ".mpg", ".MPEG", ".wmv", ".mts", ".m2ts", ".3gp", ".flv", ".ogv", ".vob", ".ts"]
)
def test_the_suffixes_of_cameras_and_sites_are_videos(folder, suffix):
    (folder / f"a{suffix}").touch()
    assert VideoFolder(folder).find("a").path.name == f"a{suffix}"


def test_a_vid_may_have_its_suffix(folder):
    for name in ("a.m4v", "b.mp4", "b.avi", "c.avi.mp4"):
        (folder / name).touch()
    videos = VideoFolder(folder)
    assert videos.find("a.m4v").path.name == "a.m4v"
    assert videos.find("b.avi").path.name == "b.avi"
    assert videos.find("c.avi").path.name == "c.avi.mp4"
    with pytest.raises(VideoMissingError, match="no such file"):
        videos.find("a.mp4")


@pytest.mark.parametrize(
    ("vid", "hint"),
    [
        ("RoripwjYFp8", r"; did you mean RoripwjYFp8_60\.0_210\.0\.mp4\?$"),
        ("v_abcdefgh", r"; did you mean v_abcdefgi\.mkv\?$"),
        ("notes", r"; there is notes\.txt, whose suffix is none of a video's$"),
        ("ROOM\x1b", "in the video folder [^;]*$"),
        ("x", "in the video folder [^;]*$"),
    ],
)
def test_a_near_name_is_said(folder, vid, hint):
    for name in ("RoripwjYFp8_60.0_210.0.mp4", "v_abcdefgi.mkv", "notes.txt"):
        (folder / name).touch()
    with pytest.raises(VideoMissingError, match=hint):
        VideoFolder(folder).find(vid)


def test_names_of_others_are_printed_as_text(folder):
    (folder / "roo\x1b[2Jm.mp4").touch()
    with pytest.raises(VideoMissingError, match=r"did you mean roo\\x1b\[2Jm\.mp4\?$"):
        VideoFolder(folder).find("roo\x1b[2J")


def test_near_names_are_looked_for_a_few_times_only(folder, monkeypatch):
    (folder / "abcdef.mp4").touch()
    looked = []
    monkeypatch.setattr(video_folder, "get_close_matches", lambda *args, **kwargs: looked.append(args) or [])
    videos = VideoFolder(folder)
    videos.locate([f"unlike {number}" for number in range(100)])
    assert len(looked) == 20


def replaced(path: Path, content: bytes) -> None:
    """Replace a file by one of equal size and time, as `rsync --times` and restored copies do."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_another_content_of_equal_size_and_time_is_noticed(folder, tmp_path):
    path = folder / "a.mp4"
    path.write_bytes(b"a" * 100_000)
    memory = VideoMemory(tmp_path)
    before = VideoFolder(folder, memory=memory).fingerprint("a")
    memory.save()
    for content in (b"b" + b"a" * 99_999, b"a" * 99_999 + b"b"):
        replaced(path, content)
        assert VideoFolder(folder, memory=VideoMemory(tmp_path)).fingerprint("a") != before
        assert VideoFolder(folder).fingerprint("a") != before
    replaced(path, b"a" * 100_000)
    assert VideoFolder(folder, memory=VideoMemory(tmp_path)).fingerprint("a") == before


def test_what_is_known_of_a_file_is_not_read_again(folder, tmp_path, monkeypatch):
    (folder / "a.mp4").write_bytes(b"a")
    memory = VideoMemory(tmp_path)
    before = VideoFolder(folder, memory=memory).fingerprint("a")
    memory.save()
    monkeypatch.setattr(video_folder, "content_key", lambda path: pytest.fail("read again"))
    assert VideoFolder(folder, memory=VideoMemory(tmp_path)).fingerprint("a") == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"version": 1, "files": 3}', '{"version": 1, "files": {"a": 7}}', "null"]
)
def test_a_damaged_memory_is_forgotten(folder, tmp_path, content):
    (folder / "a.mp4").write_bytes(b"a")
    (tmp_path / MEMORY_FILE).write_text(content)
    memory = VideoMemory(tmp_path)
    assert VideoFolder(folder, memory=memory).fingerprint("a") == VideoFolder(folder).fingerprint("a")
    memory.save()
    assert list(json.loads((tmp_path / MEMORY_FILE).read_text())["files"]) == [str(folder.resolve() / "a.mp4")]
