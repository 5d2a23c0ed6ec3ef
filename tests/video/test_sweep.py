"""A part of the sweep (video_sweep.py): generated videos are read rightly or refused, never wrongly."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from hf_frameseg.video.index import index_video

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent)
    video_sweep = importlib.import_module("video_sweep")
Case, check, write = video_sweep.Case, video_sweep.check, video_sweep.write

CASES = list(video_sweep.cases())
SURE = ("plain", "late", "both late", "sound first", "pictures first", "aspect", "rotation", "exif", "no key table")
SURE += ("no order table", "all-key index", "hidden", "uneven", "edit list", "rotation and aspect")
ALONE = ("h264_b.mp4", "hevc_open.mkv", "vp8.webm", "mpeg4_b.avi", "mpeg2_b.mpg", "mpeg2_b.ts", "wmv2.wmv", "mjpeg.avi")


def chosen() -> list[Case]:
    """Choose some cases of each kind that have to be read, by a seed."""
    rng = np.random.default_rng(0)
    some = []
    for kind in SURE:
        of_kind = [case for case in CASES if case.kind == kind]
        some += [of_kind[i] for i in sorted(rng.permutation(len(of_kind))[:5])]
    plain = [case for case in CASES if case.kind == "plain" and f"{case.codec}.{case.suffix}" in ALONE]
    return list({case.name: case for case in (*some, *plain)}.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


def written(case, folder):
    path = folder / case.name
    return path if path.exists() else write(case, folder)


def test_a_number_survives_every_codec():
    assert [video_sweep.read_number(video_sweep.draw(number, 64, 80)) for number in (0, 1, 40503, 65535)] == [
        0,
        1,
        40503,
        65535,
    ]
    assert len({video_sweep.number_of(position) for position in range(200)}) == 200


def test_the_check_finds_a_wrong_picture_a_wrong_time_and_a_wrong_number(folder, monkeypatch):
    case = Case("plain", "mpeg4", "mp4")
    path = written(case, folder)
    assert check(case, path, "pyav", 7) == "right"
    later = Case("plain", "mpeg4", "mp4", times=tuple(range(3, 83)), sound_start=0)
    assert check(later, path, "pyav", 7).startswith("wrong: ")
    longer = Case("plain", "mpeg4", "mp4", times=tuple(range(81)))
    assert "80 frames, not 81" in check(longer, path, "pyav", 7)
    monkeypatch.setattr(video_sweep, "number_of", lambda position: (position * 40503 + 3) & 0xFFFF)
    assert "no such number" in check(case, path, "pyav", 7)


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.name)
def test_generated_videos_are_read_rightly(folder, case):
    assert [check(case, written(case, folder), "pyav", num_frames) for num_frames in (7, 25)] == ["right"] * 2


@pytest.mark.parametrize("case", chosen()[::3], ids=lambda case: case.name)
def test_other_readers_read_rightly_or_refuse(folder, case, reader):
    outcome = check(case, written(case, folder), reader, 7)
    assert outcome.startswith(("right", "refused: ")), outcome


def test_damaged_videos_give_what_a_decode_from_the_start_gives_or_are_refused(folder):
    # HEVC in transport streams: where a slice is lost, FFmpeg (8.1) shows what was in the memory, and says nothing.
    damaged = [case for case in CASES if case.is_damaged and (case.codec, case.suffix) != ("hevc_open", "ts")]
    some = [damaged[i] for i in np.random.default_rng(1).permutation(len(damaged))[:30]]
    outcomes = {case.name: check(case, write(case, folder), "pyav", 25) for case in some}
    words = Counter(outcome.partition(":")[0] for outcome in outcomes.values())
    assert words["wrong"] == 0, outcomes
    assert words["refused"] > 10
    assert words["right"] > 3


@pytest.mark.parametrize("every", [5, 11])
@pytest.mark.parametrize("suffix", ["webm", "mkv", "ivf"])
def test_packets_that_are_not_shown_are_no_frames(folder, suffix, every):
    case = next(
        case for case in CASES if (case.kind, case.codec, case.suffix, case.hidden) == ("hidden", "vp8", suffix, every)
    )
    path = written(case, folder)
    with av.open(str(path)) as container:
        num_packets = sum(packet.size > 0 for packet in container.demux(video=0))
    with av.open(str(path)) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    index = index_video(path)
    assert index.pts.tolist() == times
    assert num_packets == 80 > len(times)
    assert not index.by_count  # without decoding
