from __future__ import annotations

import importlib
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hf_frameseg.moments import FrameGrid
from hf_frameseg.video import file as video_file
from hf_frameseg.video import index as video_index
from hf_frameseg.video import picture_list
from hf_frameseg.video import read as video
from hf_frameseg.video.file import VideoReadError, VideoRefusedError
from hf_frameseg.video.index import index_video
from hf_frameseg.video.picture_list import Picture
from hf_frameseg.video.read import probe_duration, read_frames, read_variants, resize_frame
from hf_frameseg.video.readers import READERS, load_reader
from hf_frameseg.video.sampling import select_frames
from hf_frameseg.video.worker import thread_worker

NUM_SOURCE = 120
_RATE_30 = {"pts": np.arange(NUM_SOURCE), "time_base": Fraction(1, 30)}


@pytest.fixture(scope="module")
def constant(tmp_path_factory, write_video):
    return write_video(tmp_path_factory.mktemp("video") / "constant.mp4", **_RATE_30)


@pytest.fixture
def hostile(monkeypatch):
    """Let "hostile_readers:function" be found, here and in the processes started now."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for name in ("pyav", "decord"):
        thread_worker(load_reader, name).close()
    return importlib.import_module("hostile_readers")


def numbers_of(frames, read_number):
    return np.array([[read_number(picture) for picture in window] for window in frames])


def test_the_grid_is_trusted_over_the_file(constant, read_number):
    result = read_variants(constant, FrameGrid.middle(2.0, 4))
    assert result.duration_seconds == pytest.approx(4.0)
    assert numbers_of(result.frames, read_number)[:, 1].tolist() == [7, 22, 37, 52]
    assert result.grid == FrameGrid.middle(2.0, 4)


def test_a_file_up_to_two_seconds_short_repeats_its_last_frame(constant, read_number):
    result = read_variants(constant, FrameGrid.middle(6.0, 6))
    assert numbers_of(result.frames, read_number)[-1].tolist() == [119, 119, 119]
    with pytest.raises(VideoReadError, match=r"lasts 4\.00 s, the annotations say 6\.5 s.*duration_tolerance_seconds"):
        read_variants(constant, FrameGrid.middle(6.5, 6))
    assert read_variants(constant, FrameGrid.middle(6.5, 6), duration_tolerance_seconds=3).frames.shape[0] == 6


def test_of_a_part_only_that_part_is_looked_at(constant, read_number):
    part = FrameGrid.middle(2, 2).part(1.5, 3.0)  # 1.875 and 2.625 s, windows of 0.75 s
    result = read_variants(constant, part, variant_offset_frames=30)
    assert numbers_of(result.frames, read_number).tolist() == [[45, 56, 67], [68, 78, 89]]
    assert (result.grid, result.duration_seconds) == (part, pytest.approx(4.0))
    assert (result.times_seconds >= 1.5 - 1e-3).all()
    with pytest.raises(VideoReadError, match=r"lasts 4\.00 s, the annotations say 6\.5 s"):
        read_variants(constant, part.part(6.0, 6.5))


@pytest.mark.parametrize(
    ("grid", "offset"),
    [
        (FrameGrid.middle(4, 4), {"variant_offset_frames": 5}),
        (FrameGrid.middle(4, 4), {"variant_offset_seconds": 0.3}),
        (FrameGrid.uniform(4, 4), {}),
        (FrameGrid.phase(4, 4, 0.25), {}),
    ],
)
def test_grids_and_offsets_are_passed_on(constant, read_number, grid, offset):
    expected = select_frames(np.arange(NUM_SOURCE) / 30, grid, **offset)
    np.testing.assert_array_equal(numbers_of(read_variants(constant, grid, **offset).frames, read_number), expected)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_a_download_that_broke_off_is_refused(tmp_path, write_video, reader):
    path = write_video(tmp_path / "cut.mp4", **_RATE_30, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])  # the header still claims 4 s
    with pytest.raises(VideoReadError, match="could not be decoded|annotations say 4 s"):
        read_variants(path, FrameGrid.middle(4, 4), reader=reader, duration_tolerance_seconds=0.5)


def test_only_the_distinct_chosen_frames_are_decoded(constant, monkeypatch):
    asked = []

    def spy(index, positions):
        asked.extend(positions.tolist())
        return READERS["decord"](index, positions)

    monkeypatch.setitem(READERS, "pyav", spy)
    read_variants(constant, num_frames=4, timeout_seconds=None)
    assert asked == sorted(set(np.ravel(select_frames(np.arange(NUM_SOURCE) / 30, FrameGrid.middle(4, 4))).tolist()))


@pytest.mark.parametrize("kind", ["middle", "uniform"])
def test_one_frame_a_window_is_a_third_of_the_work_and_the_same_middle_picture(constant, monkeypatch, kind):
    asked = []

    def spy(index, positions):
        asked.append(len(positions))
        return READERS["decord"](index, positions)

    monkeypatch.setitem(READERS, "pyav", spy)
    grid = getattr(FrameGrid, kind)(4, 6)
    one, three = (read(constant, grid, timeout_seconds=None, frame_size=16) for read in (read_frames, read_variants))
    ends = 1 if kind == "uniform" else 0  # at the start and the end of the video, variants fall together
    assert asked == [6, 3 * 6 - 2 * ends]
    assert (one.frames.shape, one.times_seconds.shape, one.damaged.shape) == ((6, 16, 16, 3), (6,), (6,))
    np.testing.assert_array_equal(one.frames, three.frames[:, 1])
    np.testing.assert_array_equal(one.times_seconds, three.times_seconds[:, 1])
    assert (one.grid, one.duration_seconds, one.reader) == (three.grid, three.duration_seconds, three.reader)


@pytest.mark.parametrize(
    ("settings", "shape"), [({}, (64, 80)), ({"short_side": 32}, (32, 40)), ({"frame_size": 20}, (20, 20))]
)
def test_one_frame_a_window_has_the_size_that_was_asked_for(constant, settings, shape):
    result = read_frames(constant, num_frames=3, **settings)
    assert result.frames.shape == (3, *shape, 3)
    np.testing.assert_array_equal(result.frames, read_variants(constant, num_frames=3, **settings).frames[:, 1])


def test_pictures_are_resized_one_by_one(constant, monkeypatch):
    events = []

    def spy(index, positions):
        for picture in READERS["decord"](index, positions):
            events.append("decoded")
            yield picture

    monkeypatch.setitem(READERS, "pyav", spy)
    monkeypatch.setattr(video, "resize_frame", lambda *args: events.append("resized") or resize_frame(*args))
    read_variants(constant, num_frames=4, frame_size=16, timeout_seconds=None)
    assert events == ["decoded", "resized"] * (len(events) // 2)


def test_defaults_are_the_papers(constant):
    assert read_variants(constant, frame_size=8).frames.shape == (25, 3, 8, 8, 3)


@pytest.mark.parametrize(("size", "shape"), [(None, (64, 80)), (20, (20, 20)), ((30, 12), (30, 12))])
def test_frame_size(constant, size, shape):
    result = read_variants(constant, num_frames=2, frame_size=size)
    assert result.frames.shape == (2, 3, *shape, 3)


@pytest.mark.parametrize("size", [(24, 24), (60, 30), (55, 90)])
def test_resizing_is_float_bicubic_with_antialiasing_clamped_and_rounded(size):
    picture = np.random.default_rng(0).choice([0, 255], (40, 56, 3)).astype(np.uint8)
    pixels = torch.tensor(picture).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    assert expected.min() < 0  # there is something to clamp
    assert expected.max() > 255
    expected = expected.clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
    difference = np.abs(resize_frame(picture, size) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 2e-3  # what lies between two grey levels; float32 sums differ in their last bit


def test_resizing_leaves_the_right_size_alone():
    picture = np.zeros((4, 6, 3), np.uint8)
    assert resize_frame(picture, (4, 6)) is picture


def test_probe_duration(constant, tmp_path, write_video):
    assert probe_duration(constant) == pytest.approx(4.0, abs=1e-6)
    # From the first frame, not from 0; the file gives the last frame 1/30 s.
    path = write_video(tmp_path / "late_start.mkv", np.arange(NUM_SOURCE) * 40 + 2500)
    assert probe_duration(path, timeout_seconds=None) == pytest.approx(119 * 0.04 + 1 / 30, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hang", r"gave no answer within 0\.5 s"),
        ("segfault", r"crashed \(SIGSEGV\)"),
        ("fail", "could not be decoded by hostile_readers:fail: KeyError: 'frames'"),
        ("stop_early", "could not be decoded by hostile_readers:stop_early: the reader gave 1 of 12 frames"),
    ],
)
def test_a_reader_of_your_own_is_named_and_what_it_does_wrong_reported(constant, hostile, name, message):
    reader = f"hostile_readers:{name}"
    timeout_seconds = 0.5 if name == "hang" else 60
    with pytest.raises(VideoReadError, match=rf"^constant\.mp4: [^\n]*{message}$") as caught:
        read_variants(constant, num_frames=4, reader=reader, timeout_seconds=timeout_seconds)
    assert caught.value.attempts == ((reader, str(caught.value)),)


def test_a_hang_or_a_crash_moves_on_to_the_next_reader(constant, hostile, monkeypatch):
    result = read_variants(constant, num_frames=2, reader="decord")  # its library is loaded from here on
    for name in ("hang", "segfault"):
        monkeypatch.setitem(READERS, "pyav", getattr(hostile, name))
        fallen_back = read_variants(constant, num_frames=2, timeout_seconds=2 if name == "hang" else 60)
        assert fallen_back.reader == "decord"
        np.testing.assert_array_equal(fallen_back.frames, result.frames)


def test_every_readers_failure_is_listed(constant, hostile, monkeypatch):
    monkeypatch.setattr(video, "reader_names", lambda reader: ("pyav", "decord"))
    monkeypatch.setitem(READERS, "pyav", hostile.hang)
    monkeypatch.setitem(READERS, "decord", hostile.abort)
    with pytest.raises(VideoReadError) as caught:
        read_variants(constant, num_frames=2, timeout_seconds=0.5)
    assert str(caught.value) == "constant.mp4: pyav gave no answer within 0.5 s; decord crashed (SIGABRT)"
    assert caught.value.attempts == (
        ("pyav", "constant.mp4: pyav gave no answer within 0.5 s"),
        ("decord", "constant.mp4: decord crashed (SIGABRT)"),
    )


def test_listing_the_frames_is_limited_too(constant, hostile, monkeypatch):
    monkeypatch.setattr(video, "index_video", hostile.hang_at_once)
    for read in (read_variants, probe_duration):
        with pytest.raises(VideoReadError, match=r"^constant\.mp4: pyav gave no answer within 0\.5 s$"):
            read(constant, timeout_seconds=0.5)


def test_a_reader_that_only_this_process_knows_cannot_be_killed(constant, monkeypatch):
    monkeypatch.setitem(READERS, "pyav", lambda index, positions: READERS["decord"](index, positions))
    with pytest.raises(TypeError, match="define it at the top of a module"):
        read_variants(constant, num_frames=2)
    assert read_variants(constant, num_frames=2, timeout_seconds=None).reader == "pyav"


def test_one_process_reads_many_videos_and_leaves_nothing_open(constant, tmp_path, hostile):
    path = tmp_path / "copy.mp4"
    path.write_bytes(constant.read_bytes())
    expected = read_variants(constant, num_frames=3).frames
    read_variants(path, num_frames=3, reader="hostile_readers:count")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        result = read_variants(path, num_frames=3, reader="hostile_readers:count")
    assert len(set(path.with_suffix(".pids").read_text().split())) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    np.testing.assert_array_equal(result.frames, expected)
    result.frames[:] = 0  # an array like any other


def test_without_a_time_limit_no_process_is_started(constant, monkeypatch):
    monkeypatch.setattr(video, "thread_worker", None)
    limited = read_variants(constant, num_frames=2, timeout_seconds=None)
    assert limited.frames.shape == (2, 3, 64, 80, 3)


def test_auto_tries_the_next_reader_and_says_so(constant, monkeypatch):
    def fail(index, positions):
        raise VideoReadError("pyav: no")

    monkeypatch.setitem(READERS, "pyav", fail)
    assert read_variants(constant, num_frames=2, reader="auto", timeout_seconds=None).reader == "decord"
    with pytest.raises(VideoReadError, match="pyav: no"):  # never another reader on its own
        read_variants(constant, num_frames=2, reader="pyav", timeout_seconds=None)


def test_auto_goes_on_where_a_library_is_missing_and_names_it(constant, monkeypatch):
    def fail(index, positions):
        raise ValueError("no")

    def load(name):
        if name == "decord":
            raise ImportError("decord is not installed")
        return load_reader(name)

    monkeypatch.setattr(video, "reader_names", lambda reader: ("pyav", "decord") if reader == "auto" else (reader,))
    monkeypatch.setattr(video, "load_reader", load)
    monkeypatch.setitem(READERS, "pyav", fail)
    with pytest.raises(VideoReadError) as caught:
        read_variants(constant, timeout_seconds=None)
    assert str(caught.value) == "constant.mp4: could not be decoded by pyav: no; decord is not installed"
    with pytest.raises(ImportError, match="decord is not installed"):
        read_variants(constant, reader="decord", timeout_seconds=None)


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 400], ids=["empty", "text"])
@pytest.mark.parametrize("timeout_seconds", [None, 60])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, content, timeout_seconds):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoReadError, match=r"^broken\.mp4: could not be opened[^\n]*$") as caught:
        read_variants(path, timeout_seconds=timeout_seconds)
    assert caught.value.attempts == ()


@pytest.mark.parametrize(
    "content", ["ffconcat version 1.0\nfile {name}\n", "#EXTM3U\n#EXTINF:4,\n{name}\n#EXT-X-ENDLIST\n"]
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_a_playlist_opens_no_other_file(constant, content, suffix):
    path = constant.with_name(f"list{suffix}")
    path.write_text(content.format(name=constant.name))
    with pytest.raises(VideoReadError, match=r"^list\.\w+: (the file is a playlist|could not be opened)"):
        read_variants(path)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoReadError, match="no video stream"):
        read_variants(path)


@pytest.mark.parametrize("timeout_seconds", [None, 60])
def test_a_missing_file_is_named(tmp_path, timeout_seconds):
    with pytest.raises(FileNotFoundError, match=r"no video file at .*nothing\.mp4"):
        read_variants(tmp_path / "nothing.mp4", timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("timeout_seconds", [None, 60])
def test_pipes_folders_and_devices_are_refused_and_not_waited_for(tmp_path, timeout_seconds):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    for name, kind in (("pipe.mp4", "a pipe or a device"), ("folder.mp4", "a folder"), ("null.mp4", "a pipe or a dev")):
        for read in (read_variants, probe_duration):
            with pytest.raises(VideoRefusedError, match=rf"^{name}: expected a file, got {kind}.*; copy the video"):
                read(tmp_path / name, timeout_seconds=timeout_seconds)


def test_a_loop_of_links_is_no_file(tmp_path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="no video file at"):
        read_variants(tmp_path / "a.mp4")


def test_a_name_that_steers_the_terminal_is_shown_as_text(tmp_path):
    path = tmp_path / "a\x1b[2J\nb.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(VideoReadError, match=r"^a\\x1b\[2J\\nb\.mp4: could not be opened"):
        read_variants(path)


@pytest.mark.parametrize("name", ["http:a.mp4", "a %03d.mp4", "-i.mp4", "ä\udcff.mp4", "file:b.mp4"])
def test_any_file_name_is_a_file_name(constant, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(constant.read_bytes())
    assert read_variants(name, num_frames=2, reader="pyav").frames.shape == (2, 3, 64, 80, 3)


def test_a_process_started_elsewhere_finds_relative_paths(constant, tmp_path, monkeypatch):
    read_variants(constant, num_frames=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.mp4").write_bytes(constant.read_bytes())
    assert read_variants("here.mp4", num_frames=2).frames.shape == (2, 3, 64, 80, 3)


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [
        (video_file, "MAX_FRAME_SIDE", 79),
        (video_file, "MAX_FRAME_PIXELS", 64 * 80 - 1),
        (video_index, "MAX_VIDEO_SECONDS", 3.9),
        (picture_list, "MAX_SOURCE_FRAMES", 119),
        (video, "MAX_FRAMES_BYTES", 2 * 3 * 64 * 80 * 3 - 1),
    ],
)
def test_limits(constant, monkeypatch, module, limit, value):
    read_variants(constant, num_frames=2, timeout_seconds=None)
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(VideoReadError, match=r"^constant\.mp4: "):
        read_variants(constant, num_frames=2, timeout_seconds=None)


def patched(path: Path, *changes: tuple[bytes, int, int]) -> Path:
    """Overwrite numbers of an MP4 file, each given as (box, offset in the box's content, value)."""
    content = bytearray(path.read_bytes())
    for box, offset, value in changes:
        struct.pack_into(">I", content, content.index(box) + 4 + offset, value)
    damaged = path.with_name("patched.mp4")
    damaged.write_bytes(content)
    return damaged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(b"stts", 12, 0x7FFFFFFF)], r"claims \d+ s, expected above 0 and up to 14400 s"),  # a frame lasts for days
        ([(b"stsz", 4, 1), (b"stsz", 8, 0xFFFFFFF0), (b"stts", 8, 0xFFFFFFF0)], "holds no frame"),  # 4 billion frames
        (
            [(b"stsz", 4, 1), (b"stsz", 8, 3_000_000), (b"stts", 8, 3_000_000), (b"stsc", 12, 3_000_000)],
            "more frames|holds no frame",
        ),
    ],
)
def test_absurd_claims_of_the_header_are_refused(constant, changes, message):
    with pytest.raises(VideoReadError, match=rf"^patched\.mp4: .*({message})"):
        read_variants(patched(constant, *changes), num_frames=2, reader="pyav")


def test_a_picture_without_duration_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "still.gif", [0], Fraction(1, 100), codec="gif", pixel_format="rgb8")
    content = path.read_bytes()
    at = content.index(b"\x21\xf9\x04") + 4  # the delay of the graphic control extension
    path.write_bytes(content[:at] + b"\0\0" + content[at + 2 :])
    index = index_video(path)  # FFmpeg shows it for a tenth of a second
    assert index.duration_seconds == pytest.approx(0.1)
    assert read_variants(path, num_frames=2).frames.shape == (2, 3, 64, 80, 3)


def test_time_stamps_far_apart_do_not_overflow():
    pictures = [Picture(pts, 0, True) for pts in (-(2**62), 2**62, 2**62 + 10)]
    assert video_index._shown_seconds(pictures, Fraction(1, 1000)) > 4e15


def test_a_very_wide_picture_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "wide.mkv", np.arange(2) * 40, size=(16, 8200), codec="ffv1")
    with pytest.raises(VideoRefusedError, match="claims 8200 x 16 pixels, expected sides of 1 to 8192"):
        read_variants(path)


def test_pixels_of_absurd_width_are_refused_or_squashed(tmp_path, write_video):
    path = write_video(tmp_path / "wide.mp4", **_RATE_30, pixel_aspect=Fraction(3, 2))
    assert read_variants(path, num_frames=2).frames.shape == (2, 3, 64, 120, 3)
    path = patched(path, (b"pasp", 0, 4000), (b"pasp", 4, 1))
    with pytest.raises(VideoRefusedError, match="claims 320000 x 64 pixels"):
        read_variants(path, num_frames=2)
    assert read_variants(path, num_frames=2, frame_size=32).frames.shape == (2, 3, 32, 32, 3)


def test_descriptions_that_are_no_text_are_ignored(tmp_path, constant):
    path = tmp_path / "described.mp4"
    content = constant.read_bytes()
    at = content.index(b"Lavf")
    path.write_bytes(content[:at] + b"\xff\xfe\xff\xfe" + content[at + 4 :])
    assert read_variants(path, num_frames=2, reader="pyav").frames.shape == (2, 3, 64, 80, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reader": "ffmpeg"}, r"reader to be one of \['pyav', 'decord', 'torchcodec', 'auto'\] or .*, got 'ffmpeg'"),
        ({"frame_size": 0}, "frame_size"),
        ({"frame_size": (3, 4, 5)}, "frame_size"),
        ({"num_frames": 10**9}, "num_frames to be a whole number of at least 1 and at most 10000, got 1000000000"),
        ({"damaged": "ignore"}, r"damaged to be one of \['raise', 'keep'\], got 'ignore'"),
        ({"grid": FrameGrid.middle(4, 4), "num_frames": 5}, "num_frames = 4 of the grid, got 5"),
        ({"duration_tolerance_seconds": -1}, "duration_tolerance_seconds of at least 0"),
        ({"variant_offset_seconds": -1}, "variant_offset_seconds"),
        *(({"timeout_seconds": value}, "timeout_seconds above 0") for value in (0, -1, float("nan"), float("inf"))),
    ],
)
def test_bad_arguments(constant, options, message):
    with pytest.raises(ValueError, match=message):
        read_variants(constant, **options)


def test_an_error_survives_the_way_between_processes(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nothing")
    by_worker, here = (
        pytest.raises(VideoReadError, read_variants, path, timeout_seconds=seconds).value for seconds in (60, None)
    )
    assert str(by_worker) == str(here)
    assert type(by_worker) is type(here)


SHARED_SHAPES = {
    "av1_video.mkv": (360, 640),
    "h264_10bits.mp4": (200, 200),
    "h265_video.mp4": (128, 128),
    "nasa_13013.mp4": (270, 480),  # the best of its two video streams, not the first
    "unordered.mov": (50, 50),
    "video_90.mov": (568, 320),  # turned upright
}


@pytest.mark.parametrize("name", SHARED_SHAPES)
def test_all_readers_agree_on_real_files(shared_dir: Path, name):
    path = shared_dir / "videos" / name
    by_pyav = read_variants(path, num_frames=5, reader="pyav")
    assert by_pyav.frames.shape == (5, 3, *SHARED_SHAPES[name], 3)
    for reader in video.reader_names("auto"):
        try:
            result = read_variants(path, num_frames=5, reader=reader)
        except ImportError:  # torchcodec without FFmpeg
            continue
        np.testing.assert_array_equal(result.times_seconds, by_pyav.times_seconds)
        assert np.abs(result.frames.astype(int) - by_pyav.frames).mean() < 0.5


@pytest.mark.parametrize("reader", ["pyav", "decord", "auto"])
def test_a_damaged_real_file_is_refused_in_one_line(shared_dir: Path, reader):
    with pytest.raises(VideoReadError, match=r"^corrupted\.mp4: could not be decoded by [^\n]*$") as caught:
        read_variants(shared_dir / "videos" / "corrupted.mp4", reader=reader)
    tried = [name for name, _ in caught.value.attempts]
    assert tried == list(video.reader_names(reader))
    assert all(f"by {name}: " in line or "libraries" in line for name, line in caught.value.attempts)
