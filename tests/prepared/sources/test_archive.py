from __future__ import annotations

import gzip
import io
import json
import shutil
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.datasets.load import load_rows
from hf_frameseg.prepared import jobs as video_jobs
from hf_frameseg.prepared.cache import CacheError
from hf_frameseg.prepared.sources import archive as video_archive
from hf_frameseg.prepared.sources.archive import ArchiveError, unpack_in_order
from hf_frameseg.prepared.sources.folder import VideoMissingError
from hf_frameseg.prepared.sources.zip import ZipArchive, open_archive
from hf_frameseg.video.file import VideoReadError

FILE = "highlight_val_release.jsonl"
MODES = {"tar": "w", "tar.gz": "w:gz", "zip": None}
TARS = ["tar", "tar.gz"]


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
        if kind == "zip":
            return pack_zip(path, members)
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


def pack_zip(path: Path, members: tuple[Path | tuple[str, bytes | str], ...]) -> Path:
    """Make a zip archive, half of it deflated."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, member in enumerate(members):
            if isinstance(member, Path):
                for file in sorted(member.rglob("*")) if member.is_dir() else [member]:
                    archive.write(file, file.relative_to(member.parent), zipfile.ZIP_DEFLATED)
                continue
            info = zipfile.ZipInfo(member[0])
            info.external_attr = (stat.S_IFREG if isinstance(member[1], bytes) else stat.S_IFLNK) << 16
            info.compress_type = zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of two members with one name
                archive.writestr(info, member[1])
    return path


@pytest.fixture
def load(data_dir, tmp_path):
    def call(video_dir, cache="cache", **options):
        choices = {"num_frames": 3, "frame_size": 16, "frame_format": "raw", "cache_dir": tmp_path / cache, **options}
        return load_rows("qvhighlights", data_dir, "val", video_dir=str(video_dir), **choices)

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
    found, missing = open_archive(archive).locate(["x" * 250, "../a", "..", "/b"])
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
    archive = open_archive(pack(kind, *twice, *suffixes, ("c.mp4", b""), ("c.mp4", b"3")))
    with pytest.raises(VideoMissingError, match=r"2 files for this vid in the archive .*: 1/a\.mp4, 2/a\.mp4; keep"):
        archive.find("a")
    assert archive.find("b").member == "b.mkv"
    assert archive.find("c").length == 1  # of several members with one name the last counts, as when unpacking


def test_a_video_with_two_lengths_is_read_twice_from_a_compressed_archive(pack, tmp_path):
    file = open_archive(pack("tar.gz", ("a.mp4", b"abc"), ("b.mp4", b"de"))).find("a")
    content = []
    for _, one in unpack_in_order([file, file], tmp_path / "scratch"):
        with one.on_disk(tmp_path / "scratch") as path:
            content.append(path.read_bytes())
    assert content == [b"abc", b"abc"]


@pytest.mark.parametrize("kind", TARS)
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


# Archives that claim what they do not hold


def header(name: str, size: int | bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a tar member of any claimed size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT) if isinstance(size, int) else size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


CLAIMS = {
    "a member of terabytes": header("a.mp4", 2**42),
    "a member of more than there is": header("a.mp4", 2**20),
    "a negative member": header("a.mp4", -4096),
    "an impossible member": header("a.mp4", 2**80),
    "a long name of gigabytes": header("././@LongLink", 2**33, tarfile.GNUTYPE_LONGNAME),
    "fields of gigabytes": header("x", 2**33, tarfile.XHDTYPE),
    "global fields of gigabytes": header("x", 2**33, tarfile.XGLTYPE),
    "a size that is none": header("a.mp4", b"nonsense!!!\0"),
    "fields that say a negative size": header("x", 18, tarfile.XHDTYPE)
    + b"17 size=-1048576\n".ljust(512, b"\0")
    + header("a.mp4", 0),
}


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claimed_size_is_no_size(load, kind, claim, tmp_path):
    first = header("b.mp4", 4) + b"data".ljust(512, b"\0")
    content = first + CLAIMS[claim] + bytes(4096)
    path = tmp_path / f"videos.{kind}"
    path.write_bytes(gzip.compress(content) if kind == "tar.gz" else content)
    with pytest.raises(OSError, match=r"^\S") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("scratch/*"))


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_refused_before_it_is_unpacked(load, pack, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(video_archive, "_FREE_BYTES", 2**16)
    bomb = pack(kind, ("a.mp4", bytes(2**24)), ("b.mp4", b"x"))
    assert bomb.stat().st_size < 2**16
    unpacked = []
    monkeypatch.setattr(video_archive.ArchivedVideo, "unpack", lambda *args: unpacked.append(args))
    with pytest.raises(OSError, match=r"unpacks to \d+ bytes or more, over 100 times its size; use another archive"):
        load(bomb)
    assert unpacked == []


@pytest.mark.parametrize("kind", MODES)
def test_a_video_for_which_there_is_no_room_is_said(load, videos, pack, kind, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**30 + 10))
    with pytest.raises(CacheError, match=r"\(no room for \d+ bytes of .*mp4\); make room there"):
        load(pack(kind, videos))
    assert not list(tmp_path.rglob("scratch/*"))


@pytest.mark.parametrize("kind", MODES)
def test_a_huge_video_is_a_failure_of_that_video(videos, pack, kind, monkeypatch):
    monkeypatch.setattr(video_archive, "MAX_VIDEO_BYTES", 5)
    found, missing = open_archive(pack(kind, ("a.mp4", b"123456"), ("b.mp4", b"12345"))).locate("ab")
    assert list(found) == ["b"]
    assert "has 6 bytes, more than 5; use a folder" in missing["a"]


def test_a_zip_that_is_damaged_or_encrypted_is_said(load, videos, pack):
    good = pack("zip", videos)
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArchiveError, match=r"^cannot read the archive .*videos\.zip \(.*; download it again$"):
        load(good)
    flipped = bytearray(content)
    flipped[200] ^= 255  # in the first video
    good.write_bytes(flipped)
    with pytest.raises((ArchiveError, VideoReadError), match=r"cannot read the archive .*videos\.zip"):
        load(good)
    locked = bytearray(content)
    locked[content.rindex(b"PK\1\2") + 8] |= 1
    good.write_bytes(locked)
    with pytest.raises(FileNotFoundError, match="is encrypted; unpack the archive into a folder"):
        load(good)


def test_a_zip_of_videos_is_read(shared_dir):
    archive = open_archive(shared_dir / "faults" / "text" / "videos.zip")
    assert isinstance(archive, ZipArchive)
    assert archive._entries
