"""Files that were read wrongly or refused without need: each is read right, or ends in one line, by every reader.

Their pictures state their own number in 4 x 4 black or white blocks; block b is bit b.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.datasets.load import load_rows
from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.one_video import prepare_video
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.index import index_video
from hf_frameseg.video.read import probe_duration, read_frames, read_variants
from hf_frameseg.video.readers import load_reader
from hf_frameseg.video.settings import FrameSettings


@pytest.fixture
def faults(shared_dir: Path) -> Path:
    folder = shared_dir / "faults" / "video"
    if not folder.is_dir():
        pytest.skip(f"recorded inputs not found: {folder} does not exist")
    return folder


def number_of(picture: np.ndarray) -> int:
    blocks = [block for row in np.array_split(picture, 4) for block in np.array_split(row, 4, axis=1)]
    return sum(1 << bit for bit, block in enumerate(blocks) if block.mean() > 127)


def read_or_refused(path: Path, reader: str, **options: object):
    """Return what a reader reads; the others than PyAV may refuse a file instead."""
    refusal = None
    try:
        return read_variants(path, reader=reader, **options)
    except VideoReadError as error:
        refusal = str(error)
    assert reader != "pyav", refusal
    assert refusal.startswith(f"{path.name}: could not be decoded by {reader}: ")
    return None


@pytest.mark.parametrize("num_frames", [20, 25, 50, 75])
@pytest.mark.parametrize("name", ["altref.webm", "mpeg4_no_stss.mp4", "msmpeg4_all_key.avi", "good.mp4"])
def test_numbered_pictures_are_those_shown_at_their_times(faults, reader, name, num_frames):
    result = read_or_refused(faults / name, reader, num_frames=num_frames)
    if result is not None:
        found = [[number_of(picture) for picture in window] for window in result.frames]
        np.testing.assert_array_equal(found, np.rint(result.times_seconds * 25))
        assert result.duration_seconds == pytest.approx(20, abs=1e-3)


def test_a_picture_stays_on_display_while_packets_say_that_nothing_changed(faults, reader):
    result = read_or_refused(faults / "nvop.avi", reader, num_frames=25)
    if result is not None:
        found = [number_of(picture) for picture in result.frames[:, 1]]
        shown = np.floor(result.grid.times * 25 / 3 + 1e-6) * 3  # one picture of three is coded
        np.testing.assert_array_equal(found, np.minimum(shown, 498))


@pytest.mark.parametrize("name", ["vp9__roadtrip-vp92-10bit.webm", "packed_bframes.avi"])
def test_pictures_are_those_of_a_decode_from_the_start_in_the_order_of_display(faults, reader, name):
    import av

    with av.open(str(faults / name)) as container:
        every = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    index = index_video(faults / name)
    assert len(index.pts) == len(every)
    result = read_or_refused(faults / name, reader, num_frames=25)
    if result is not None:
        positions = np.searchsorted(index.times_seconds, result.times_seconds - 1e-6)
        for position, picture in zip(
            positions.ravel(), result.frames.reshape(-1, *result.frames.shape[2:]), strict=True
        ):
            distances = [np.abs(picture - other).mean() for other in every]
            assert int(np.argmin(distances)) == position or distances[position] < 2


def test_exif_turns_the_pictures_of_a_camera(faults, reader):
    result = read_or_refused(faults / "exif_orientation6.avi", reader, num_frames=25)
    if result is not None:
        assert result.frames.shape == (25, 3, 160, 120, 3)  # stored lying, 120 x 160
        # Turned back, what is stored states its number: orientation 6 is shown a quarter clockwise.
        found = [[number_of(np.rot90(picture)) for picture in window] for window in result.frames]
        np.testing.assert_array_equal(found, np.rint(result.times_seconds * 15))


def test_a_damaged_picture_is_a_reported_failure(faults, reader):
    path, grid = faults / "damaged.mp4", FrameGrid.middle(20, 25)
    line = (
        rf"^damaged\.mp4: could not be decoded by {reader}: 4 of 75 pictures \(5%\) are damaged, the first at 6\.680 s"
    )
    with pytest.raises(VideoReadError, match=line):
        read_variants(path, grid, reader=reader)
    kept = read_variants(path, grid, reader=reader, damaged="keep")
    good = read_variants(faults / "good.mp4", grid, reader=reader)
    difference = np.abs(kept.frames.astype(int) - good.frames).mean((2, 3, 4))
    assert difference[8, 1] > 10  # releases of FFmpeg patch it up differently
    assert kept.damaged[8, 1]
    assert difference[~kept.damaged].max() < 2
    assert not good.damaged.any()


def test_damage_counts_only_in_frames_that_are_read(faults, reader):
    path, grid = faults / "damaged.mp4", FrameGrid.middle(20, 25)
    with pytest.raises(VideoReadError, match=r"of 25 pictures .* are damaged"):
        read_frames(path, grid, reader=reader)
    kept = read_variants(path, grid, reader=reader, damaged="keep")
    np.testing.assert_array_equal(read_frames(path, grid, reader=reader, damaged="keep").damaged, kept.damaged[:, 1])
    wide = {
        "grid": FrameGrid.middle(20, 5),
        "variant_offset_seconds": 1.0,
        "reader": reader,
    }  # 5, 6, 7 s in window 1
    with pytest.raises(VideoReadError, match=r"1 of 15 pictures \(7%\) are damaged"):
        read_variants(path, **wide)
    assert not read_frames(path, **wide).damaged.any()  # nobody looks at 7 s


@pytest.mark.parametrize("seed", [34, 35])
def test_a_broken_packet_is_not_taken_for_one_that_nothing_refers_to(faults, tmp_path, seed):
    content = bytearray((faults / "good.mp4").read_bytes())
    first, last = content.index(b"mdat") + 4, content.rindex(b"moov") - 4
    rng = np.random.default_rng(seed)
    for at in rng.integers(first, last if last > first else len(content), size=3):
        content[at] = int(rng.integers(256))
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoReadError, match="pictures .* are damaged"):
        read_variants(path, FrameGrid.middle(20, 25), reader="pyav")


def test_times_count_from_the_earliest_stream(faults, reader):
    path = faults / "ghost.mp4"
    assert index_video(path).times_seconds[0] == pytest.approx(5.0)
    assert probe_duration(path) == pytest.approx(20.12, abs=0.01)
    result = read_variants(path, FrameGrid.middle(20, 25), reader=reader)
    assert result.times_seconds[:6, 1].tolist() == [5.0] * 6  # the first picture stands for what is before
    asked = np.maximum(result.grid.times, 5.0)
    assert (np.abs(asked - result.times_seconds[:, 1]) < 0.08).all()
    found = [[number_of(picture) for picture in window] for window in result.frames]
    np.testing.assert_array_equal(found, np.rint((result.times_seconds - 5.0) * 25) + 500)  # a cut from 20 s on


def test_pixels_are_made_square(faults, reader):
    settings = {"num_frames": 2, "reader": reader}
    shapes = [
        prepare_video(faults / "dvd.mp4", 6.0, FrameSettings(**settings, **size), "raw")["frame_shape"][2:4]
        for size in ({"short_side": 96}, {}, {"frame_size": 64})
    ]
    assert shapes == [[96, 171], [480, 853], [64, 64]]


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_damage_is_reported_by_readers_in_this_process_too(faults, reader):
    load_reader(reader)
    with pytest.raises(VideoReadError, match="are damaged"):
        read_variants(faults / "damaged.mp4", num_frames=25, reader=reader, timeout_seconds=None)


def test_what_is_done_about_damage_keys_the_cache():
    assert FrameSettings(damaged="keep").key() != FrameSettings().key()
    with pytest.raises(ValueError, match=r"damaged to be one of \['raise', 'keep'\], got 'skip'"):
        FrameSettings(damaged="skip")


@pytest.mark.parametrize("settings", [{}, {"short_side": 60}])
def test_a_prepared_video_keeps_damaged_pictures_if_asked_to(faults, settings):
    with pytest.raises(VideoReadError, match="are damaged"):
        prepare_video(faults / "damaged.mp4", 20.0, FrameSettings(**settings))
    columns = prepare_video(faults / "damaged.mp4", 20.0, FrameSettings(damaged="keep", **settings))
    assert columns["frame_shape"][0] == 25


@pytest.mark.parametrize("num_proc", [None, 2])
def test_the_share_of_kept_damage_is_in_the_report(faults, tmp_path, annotation, write_annotations, caplog, num_proc):
    labels = {"relevant_windows": [], "relevant_clip_ids": [], "saliency_scores": []}
    rows = [annotation(qid=qid, vid=vid, duration=20, **labels) for qid, vid in enumerate(("damaged", "good"))]
    write_annotations(tmp_path / "highlight_val_release.jsonl", rows)
    options = {"frame_size": 32, "video_dir": str(faults), "cache_dir": tmp_path / "cache", "num_proc": num_proc}
    with pytest.raises(VideoReadError, match=r"4 of 75 pictures \(5%\) are damaged"):
        load_rows("qvhighlights", tmp_path, "val", **options)
    dataset = load_rows("qvhighlights", tmp_path, "val", damaged="keep", **options)
    assert dataset["vid"][:] == ["damaged", "good"]
    assert "damaged_share" not in dataset.column_names
    assert "videos with damaged pictures, which were kept: 1; see " in caplog.text
    assert "missing or unreadable" not in caplog.text
    (report,) = (tmp_path / "cache").rglob("failures.jsonl")
    (line,) = [json.loads(line) for line in report.read_text().splitlines()]
    assert (line["vid"], line["error"]) == ("damaged", "5.3% of the chosen pictures are damaged; they were kept")
    assert line["damaged_share"] == pytest.approx(4 / 75)
