from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import pytest
import torch

from hf_frameseg.data import video, video_index
from hf_frameseg.data.sampling import select_frames
from hf_frameseg.data.video import READERS, VideoReadError, probe_duration, read_frames, resize_frame
from hf_frameseg.moments import FrameGrid

READER_NAMES = tuple(READERS)
NUM_SOURCE = 120
_RATE_30 = {"pts": np.arange(NUM_SOURCE), "time_base": Fraction(1, 30)}
_UNEVEN = np.cumsum(np.random.default_rng(0).integers(10, 120, NUM_SOURCE))
CASES = {
    "constant.mp4": _RATE_30,
    "ntsc.mp4": {"pts": np.arange(NUM_SOURCE) * 1001, "time_base": Fraction(1, 30000)},
    "variable.mp4": {"pts": _UNEVEN},
    "variable.mkv": {"pts": _UNEVEN},
    "b_frames.mp4": {**_RATE_30, "options": {"bf": "4", "b_strategy": "0", "g": "25"}},
    # decord numbers the key frames of open groups wrongly and then returns other frames than asked for.
    "open_groups.mp4": {
        **_RATE_30,
        "options": {"bf": "4", "b_strategy": "0", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"},
    },
    "odd_size.mp4": {**_RATE_30, "size": (71, 93), "pixel_format": "yuv444p"},
    "narrow.mp4": {**_RATE_30, "size": (98, 22)},
    "late_start.mp4": {"pts": np.arange(NUM_SOURCE) * 40 + 2500},
    "late_start.mkv": {"pts": np.arange(NUM_SOURCE) * 40 + 2500},
    "no_b_frames.avi": {**_RATE_30, "codec": "mpeg4"},
    "realtime.webm": {"pts": np.arange(NUM_SOURCE) * 33, "codec": "libvpx", "options": {"deadline": "realtime"}},
}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory, write_video):
    """Write every case once."""
    folder = tmp_path_factory.mktemp("numbered")
    return {name: write_video(folder / name, **case) for name, case in CASES.items()}


@pytest.fixture
def constant(numbered):
    return numbered["constant.mp4"]


def numbers_of(frames, read_number):
    return np.array([[read_number(picture) for picture in window] for window in frames])


@pytest.mark.parametrize("reader", READER_NAMES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_frames", [7, 40])
def test_the_pictures_are_the_frames_shown_at_the_chosen_times(numbered, read_number, name, reader, num_frames):
    case = CASES[name]
    times = (case["pts"] - case["pts"][0]) * float(case.get("time_base", Fraction(1, 1000)))
    result = read_frames(numbered[name], num_frames=num_frames, reader=reader)
    expected = select_frames(times, FrameGrid(result.duration_seconds, num_frames))
    np.testing.assert_array_equal(numbers_of(result.frames, read_number), expected)
    np.testing.assert_allclose(result.times_seconds, times[expected], rtol=0, atol=1e-6)
    assert result.frames.shape == (num_frames, 3, *case.get("size", (64, 80)), 3)
    assert result.frames.dtype == np.uint8
    assert result.reader == reader


@pytest.mark.parametrize("reader", READER_NAMES)
def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path, numbered, read_number, reader):
    path = tmp_path / "edited.mp4"
    with (
        av.open(str(numbered["b_frames.mp4"])) as source,
        av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        hidden = round(Fraction(30, 30) / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream, packet.pts, packet.dts = stream, packet.pts - hidden, packet.dts - hidden
                target.mux(packet)
    result = read_frames(path, num_frames=6, reader=reader)
    assert result.duration_seconds == pytest.approx(3.0)
    expected = 30 + select_frames(np.arange(90) / 30, FrameGrid(3, 6))
    np.testing.assert_array_equal(numbers_of(result.frames, read_number), expected)


def test_a_container_that_seeks_too_far_is_read_from_its_start(tmp_path, write_video, read_number):
    options = {"bf": "2", "g": "12"}
    path = write_video(tmp_path / "stream.ts", np.arange(100) * 3600 + 250_000, Fraction(1, 90_000), options=options)
    result = read_frames(path, num_frames=10, reader="pyav")
    expected = select_frames(np.arange(100) / 25, FrameGrid(4, 10))
    np.testing.assert_array_equal(numbers_of(result.frames, read_number), expected)


# Display matrices (a, b, c, d) of the track header for pictures that a player turns clockwise.
MATRICES = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


@pytest.mark.parametrize("reader", READER_NAMES)
@pytest.mark.parametrize("quarter_turns", MATRICES)
def test_stored_rotation_is_applied(tmp_path, write_video, read_number, reader, quarter_turns):
    path = write_video(tmp_path / "turned.mp4", **_RATE_30, quarter_turns=quarter_turns)
    content = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[quarter_turns])
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    result = read_frames(path, num_frames=5, reader=reader)
    assert result.frames.shape[2:4] == (64, 80)
    expected = select_frames(np.arange(NUM_SOURCE) / 30, FrameGrid(4, 5))
    np.testing.assert_array_equal(numbers_of(result.frames, read_number), expected)


def test_the_grid_is_trusted_over_the_file(constant, read_number):
    result = read_frames(constant, FrameGrid(2.0, 4))
    assert result.duration_seconds == pytest.approx(4.0)
    assert numbers_of(result.frames, read_number)[:, 1].tolist() == [7, 22, 37, 52]
    assert result.grid == FrameGrid(2.0, 4)


def test_a_file_up_to_two_seconds_short_repeats_its_last_frame(constant, read_number):
    result = read_frames(constant, FrameGrid(6.0, 6))
    assert numbers_of(result.frames, read_number)[-1].tolist() == [119, 119, 119]
    with pytest.raises(VideoReadError, match=r"lasts 4\.00 s, the annotations say 6\.5 s.*duration_tolerance_seconds"):
        read_frames(constant, FrameGrid(6.5, 6))
    assert read_frames(constant, FrameGrid(6.5, 6), duration_tolerance_seconds=3).frames.shape[0] == 6


@pytest.mark.parametrize("reader", READER_NAMES)
def test_a_download_that_broke_off_is_refused(tmp_path, write_video, reader):
    path = write_video(tmp_path / "cut.mp4", **_RATE_30, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])  # the header still claims 4 s
    with pytest.raises(VideoReadError, match="could not be decoded|annotations say 4 s"):
        read_frames(path, FrameGrid(4, 4), reader=reader, duration_tolerance_seconds=0.5)


def test_only_the_distinct_chosen_frames_are_decoded(constant, monkeypatch):
    asked = []

    def spy(index, positions):
        asked.extend(positions.tolist())
        return READERS["pyav"](index, positions)

    monkeypatch.setitem(READERS, "decord", spy)
    read_frames(constant, num_frames=4)
    assert asked == sorted(set(np.ravel(select_frames(np.arange(NUM_SOURCE) / 30, FrameGrid(4, 4))).tolist()))


def test_defaults_are_the_papers(constant):
    assert read_frames(constant, frame_size=8).frames.shape == (25, 3, 8, 8, 3)


@pytest.mark.parametrize(("size", "shape"), [(None, (64, 80)), (20, (20, 20)), ((30, 12), (30, 12))])
def test_frame_size(constant, size, shape):
    result = read_frames(constant, num_frames=2, frame_size=size)
    assert result.frames.shape == (2, 3, *shape, 3)


def test_resizing_is_float_bicubic_with_antialiasing_clamped_and_rounded():
    picture = np.random.default_rng(0).choice([0, 255], (40, 56, 3)).astype(np.uint8)
    pixels = torch.tensor(picture).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(pixels, (24, 24), mode="bicubic", antialias=True)
    assert expected.min() < 0  # there is something to clamp
    assert expected.max() > 255
    expected = expected.clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resize_frame(picture, (24, 24)), expected)


def test_resizing_leaves_the_right_size_alone():
    picture = np.zeros((4, 6, 3), np.uint8)
    assert resize_frame(picture, (4, 6)) is picture


def test_probe_duration(numbered):
    assert probe_duration(numbered["constant.mp4"]) == pytest.approx(4.0, abs=1e-6)
    # From the first frame, not from 0; the file gives the last frame 1/30 s.
    assert probe_duration(numbered["late_start.mkv"]) == pytest.approx(119 * 0.04 + 1 / 30, abs=1e-3)


def test_decord_may_be_in_torch_mode(constant):
    decord.bridge.set_bridge("torch")
    try:
        result = read_frames(constant, num_frames=2)
    finally:
        decord.bridge.set_bridge("native")
    assert isinstance(result.frames, np.ndarray)


def test_auto_tries_the_next_reader_and_says_so(constant, monkeypatch):
    def fail(index, positions):
        raise VideoReadError("decord: no")

    monkeypatch.setitem(READERS, "decord", fail)
    assert read_frames(constant, num_frames=2, reader="auto").reader == "pyav"
    with pytest.raises(VideoReadError, match="decord: no"):
        read_frames(constant, num_frames=2, reader="decord")  # never another reader on its own


def test_auto_lists_every_readers_error(constant, monkeypatch):
    for name in READER_NAMES:

        def fail(index, positions, name=name):
            raise VideoReadError(f"{name}: no")

        monkeypatch.setitem(READERS, name, fail)
    with pytest.raises(VideoReadError, match="decord: no; pyav: no"):
        read_frames(constant, reader="auto")


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 400], ids=["empty", "text"])
@pytest.mark.parametrize("reader", [*READER_NAMES, "auto"])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, content, reader):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoReadError, match=r"^broken\.mp4: could not be opened[^\n]*$"):
        read_frames(path, reader=reader)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoReadError, match="no video stream"):
        read_frames(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video file at .*nothing\.mp4"):
        read_frames(tmp_path / "nothing.mp4")


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [
        (video_index, "MAX_FRAME_SIDE", 79),
        (video_index, "MAX_DURATION_SECONDS", 3.9),
        (video_index, "MAX_SOURCE_FRAMES", 119),
        (video, "MAX_FRAMES_BYTES", 2 * 3 * 64 * 80 * 3 - 1),
    ],
)
def test_limits(constant, monkeypatch, module, limit, value):
    read_frames(constant, num_frames=2)
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(VideoReadError):
        read_frames(constant, num_frames=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reader": "ffmpeg"}, r"reader to be one of \['decord', 'pyav', 'auto'\], got 'ffmpeg'"),
        ({"frame_size": 0}, "frame_size"),
        ({"frame_size": (3, 4, 5)}, "frame_size"),
        ({"grid": FrameGrid(4, 4), "num_frames": 5}, "num_frames = 4 of the grid, got 5"),
        ({"duration_tolerance_seconds": -1}, "duration_tolerance_seconds of at least 0"),
    ],
)
def test_bad_arguments(constant, options, message):
    with pytest.raises(ValueError, match=message):
        read_frames(constant, **options)


SHARED_SHAPES = {
    "av1_video.mkv": (360, 640),
    "h264_10bits.mp4": (200, 200),
    "h265_video.mp4": (128, 128),
    "nasa_13013.mp4": (270, 480),  # the best of its two video streams, not the first
    "unordered.mov": (50, 50),
    "video_90.mov": (568, 320),  # turned upright
}


@pytest.mark.parametrize("name", SHARED_SHAPES)
def test_both_readers_agree_on_real_files(shared_dir: Path, name):
    path = shared_dir / "videos" / name
    by_decord, by_pyav = (read_frames(path, num_frames=5, reader=reader) for reader in READER_NAMES)
    assert by_decord.frames.shape == (5, 3, *SHARED_SHAPES[name], 3)
    np.testing.assert_array_equal(by_decord.times_seconds, by_pyav.times_seconds)
    difference = np.abs(by_decord.frames.astype(int) - by_pyav.frames)
    # The libraries spread the colour planes of 10-bit video a little differently.
    assert difference.mean() < (2.0 if "10bits" in name else 0.5)


@pytest.mark.parametrize("reader", [*READER_NAMES, "auto"])
def test_a_damaged_real_file_is_refused_in_one_line(shared_dir: Path, reader):
    with pytest.raises(VideoReadError, match=r"^corrupted\.mp4: could not be decoded by [^\n]*$") as caught:
        read_frames(shared_dir / "videos" / "corrupted.mp4", reader=reader)
    assert ("PyAV" in str(caught.value)) == (reader != "decord")
    assert ("decord" in str(caught.value)) == (reader != "pyav")
