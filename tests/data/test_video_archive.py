from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.data import video_jobs
from hf_frameseg.data.qvhighlights import load_qvhighlights
from hf_frameseg.data.video import VideoReadError
from hf_frameseg.data.video_archive import ArchiveError, VideoArchive, unpack_in_order
from hf_frameseg.data.video_folder import VideoMissingError

FILE = "highlight_val_release.jsonl"
MODES = {"tar": "w", "tar.gz": "w:gz"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Four videos of 2 s with different pictures, in folders."""
    folder = tmp_path_factory.mktemp("source") / "videos"
    for number, vid in enumerate("abcd"):
        place = folder / f"part {number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        write_video(place / f"{vid}.mp4", np.arange(number * 37, number * 37 + 2000, 100))
    return folder


@pytest.fixture
def data_dir(tmp_path, annotation, write_annotations):
    """Annotations of five queries, without videos."""
    labels = {"duration": 2, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]}
    folder = tmp_path / "data"
    folder.mkdir()
    write_annotations(folder / FILE, [annotation(qid=qid, vid=vid, **labels) for qid, vid in enumerate("abcda")])
    return folder


@pytest.fixture
def pack(tmp_path):
    """Make an archive of files and (name, content) members, in this order."""

    def call(kind: str, *members: Path | tuple[str, bytes | str]) -> Path:
        path = tmp_path / f"videos.{kind}"
        with tarfile.open(path, MODES[kind]) as archive:
            for member in members:
                if isinstance(member, Path):
                    archive.add(member, member.name)
                    continue
                name, content = member
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return path

    return call


@pytest.fixture
def load(data_dir, tmp_path):
    def call(video_dir, cache="cache", **options):
        choices = {"num_frames": 3, "frame_size": 16, "frame_format": "raw", "cache_dir": tmp_path / cache, **options}
        return load_qvhighlights(data_dir, "val", video_dir=str(video_dir), **choices)

    return call


def content(dataset) -> dict[str, bytes]:
    """Return the files of a data set."""
    folder = Path(dataset.cache_files[0]["filename"]).parent
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_archive_gives_the_files_that_a_folder_gives(load, videos, pack, tmp_path, kind, num_proc):
    archive = pack(kind, videos)
    assert content(load(archive, num_proc=num_proc)) == content(load(videos, "other"))
    assert not list(tmp_path.rglob("scratch"))


@pytest.mark.parametrize("kind", MODES)
def test_only_what_is_not_finished_is_read_again(load, videos, pack, tmp_path, monkeypatch, kind):
    archive = pack(kind, videos / "part 0", videos / "part 1")
    prepare_video = video_jobs.prepare_video
    decoded = []

    def spy(path, *args):
        decoded.append(path.stem)
        if decoded == ["a", "c", "b"]:
            raise KeyboardInterrupt
        return prepare_video(path, *args)

    monkeypatch.setattr(video_jobs, "prepare_video", spy)
    with pytest.raises(KeyboardInterrupt):
        load(archive)
    assert not list(tmp_path.rglob("scratch/*"))
    load(archive)
    assert decoded == ["a", "c", "b", "b", "d"]  # the order of the archive
    load(archive)
    assert len(decoded) == 5


@pytest.mark.parametrize("kind", MODES)
def test_names_in_an_archive_lead_nowhere(load, videos, pack, tmp_path, kind):
    video = (videos / "part 0" / "a.mp4").read_bytes()
    outside = tmp_path / "outside.mp4"
    archive = pack(
        kind,
        (f"{'../' * 12}a.mp4", video),
        ("/b.mp4", video),
        (f"{'long' * 50}/{'x' * 250}.mp4", video),
        ("c.mp4", str(videos / "part 0" / "c.mp4")),
        ("..", b""),
        (".mp4", video),
        ("d.mp4", video),
    )
    dataset = load(archive, on_error="skip")
    assert dataset["vid"][:] == ["a", "b", "d", "a"]
    report = json.loads((Path(dataset.cache_files[0]["filename"]).parent / "failures.jsonl").read_text())
    assert report["error"] == f"c.mp4 in the archive {archive} is no ordinary file; put the video itself there"
    assert not outside.exists()
    found, missing = VideoArchive(archive).locate(["x" * 250, "../a", "..", "/b"])
    assert [file.member[-6:] for file in found.values()] == ["xx.mp4"]
    assert set(missing) == {"../a", "..", "/b"}
    with found["x" * 250].on_disk(tmp_path / "scratch") as path:
        assert path.name == "video.mp4"  # too long to be written in some places
        assert path.read_bytes() == video
    assert not path.exists()


@pytest.mark.parametrize("kind", MODES)
def test_the_rules_of_a_folder_hold(pack, kind):
    twice = [("1/a.mp4", b"x"), ("2/a.mp4", b"y")]
    suffixes = [("b.webm", b"1"), ("b.mkv", b"22")]
    archive = VideoArchive(pack(kind, *twice, *suffixes, ("c.mp4", b""), ("c.mp4", b"3")))
    with pytest.raises(VideoMissingError, match=r"2 files for this vid in the archive .*: 1/a\.mp4, 2/a\.mp4; keep"):
        archive.find("a")
    assert archive.find("b").member == "b.mkv"
    assert archive.find("c").length == 1  # of several members with one name the last counts, as when unpacking


def test_a_video_with_two_lengths_is_read_twice_from_a_compressed_archive(pack, tmp_path):
    file = VideoArchive(pack("tar.gz", ("a.mp4", b"abc"), ("b.mp4", b"de"))).find("a")
    content = []
    for _, one in unpack_in_order([file, file], tmp_path / "scratch"):
        with one.on_disk(tmp_path / "scratch") as path:
            content.append(path.read_bytes())
    assert content == [b"abc", b"abc"]


@pytest.mark.parametrize("kind", MODES)
def test_an_archive_that_is_cut_off_is_said(load, videos, pack, kind):
    archive = pack(kind, videos)
    archive.write_bytes(archive.read_bytes()[:-20_000] if kind == "tar" else archive.read_bytes()[:-600])
    with pytest.raises(ArchiveError, match=r"^cannot read the archive .*videos\.tar.*; download it again$"):
        load(archive)


def test_what_is_no_archive_is_said(load, tmp_path):
    (tmp_path / "videos.tar").write_bytes(b"PK\3\4 no tar" * 1000)
    with pytest.raises(ArchiveError, match="cannot read the archive"):
        load(tmp_path / "videos.tar")
    (tmp_path / "videos.tar").write_bytes(b"")
    with pytest.raises(ArchiveError, match="cannot read the archive"):
        load(tmp_path / "videos.tar")


@pytest.mark.parametrize("kind", MODES)
def test_a_broken_video_in_an_archive_is_named(load, videos, pack, kind):
    archive = pack(kind, ("a.mp4", b"no video" * 100), videos / "part 1", videos / "part 0" / "c.mp4")
    with pytest.raises(VideoReadError, match=r"val: video a: a\.mp4: could not be opened"):
        load(archive)
    dataset = load(archive, on_error="skip")
    assert dataset["vid"][:] == list("bcd")
    report = json.loads((Path(dataset.cache_files[0]["filename"]).parent / "failures.jsonl").read_text())
    assert (report["file"], report["queries"]) == (f"{archive}:a.mp4", 2)


def test_a_changed_archive_is_prepared_again(load, videos, pack):
    first = load(pack("tar", videos))
    second = load(pack("tar", videos, ("e.mp4", b"")))
    assert first.cache_files != second.cache_files
