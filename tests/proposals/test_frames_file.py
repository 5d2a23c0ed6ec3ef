"""Frames files: the way out and back to the bit, and one line with its place for everything that is wrong."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg import _text_file
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.frames_file import FramesFileError, read_frames_file, write_frames_file
from hf_frameseg.proposals.prediction import probs_of, to_prediction
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings
from hf_frameseg.proposals.windows import DECODERS

PROPERTY = settings(deadline=None, derandomize=True)


def predict(
    log_odds: np.ndarray, mask: np.ndarray, grid: FrameGrid, how: ProposalSettings = PAPER_PROPOSALS, qid: Any = 1
) -> FramePrediction:
    logits = np.stack([np.zeros_like(log_odds), log_odds], axis=1)
    return to_prediction(mask, logits, grid, how, query="ein Gänseblümchen\u2028 \n", qid=qid, vid="v_0.0_150.0")


def equal(one: FramePrediction, other: FramePrediction) -> bool:
    """Tell whether two predictions are the same to the last bit."""
    arrays = ("mask", "probs", "saliency", "log_odds")
    plain = ("grid", "moments", "fallback", "query", "qid", "vid")
    same = (np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    return all(same) and all(getattr(one, name) == getattr(other, name) for name in plain)


def test_text_qids_survive(tmp_path: Path) -> None:
    written = predict(np.ones(3), np.ones(3, dtype=bool), FrameGrid.middle(6, 3), qid="s34-d28_0")
    write_frames_file(tmp_path / "frames.jsonl", [written])
    assert read_frames_file(tmp_path / "frames.jsonl")[0].qid == "s34-d28_0"


@PROPERTY
@given(
    log_odds=npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)),
    data=st.data(),
    seconds=st.floats(0.5, 400),
    grid=st.sampled_from([FrameGrid.middle, partial(FrameGrid.phase, phase=-0.25), FrameGrid.uniform]),
    decoder=st.sampled_from(sorted(DECODERS)),
)
def test_what_is_read_is_what_was_written_by_every_decoder(
    tmp_path_factory: pytest.TempPathFactory,
    log_odds: np.ndarray,
    data: st.DataObject,
    seconds: float,
    grid: Callable[[float, int], FrameGrid],
    decoder: str,
) -> None:
    mask = data.draw(npst.arrays(bool, len(log_odds)))
    how = ProposalSettings(decoder)
    written = predict(log_odds, mask, grid(seconds, len(log_odds)), how)
    path = tmp_path_factory.getbasetemp() / "frames.jsonl"
    write_frames_file(path, [written])
    (read,) = read_frames_file(path, how)
    assert equal(read, written)
    write_frames_file(path.with_stem("again"), [read])
    assert path.with_stem("again").read_bytes() == path.read_bytes()


def test_a_line_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    write_frames_file(path, [predict(np.array([0.1, -2.0, 1 / 3]), np.array([1, 0, 1]), FrameGrid.middle(6, 3), qid=7)])
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "qid": 7,
        "vid": "v_0.0_150.0",
        "query": "ein Gänseblümchen\u2028 \n",
        "duration_seconds": 6.0,
        "mask": "101",
        "log_odds": [0.1, -2.0, 1 / 3],
    }


def test_models_write_float32_differences_without_loss(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(25, 2), scale=20).astype(np.float32)
    written = to_prediction(np.ones(25), logits, FrameGrid.middle(150, 25), qid=1, vid="v")
    write_frames_file(tmp_path / "f.jsonl", [written])
    (read,) = read_frames_file(tmp_path / "f.jsonl")
    np.testing.assert_array_equal(read.log_odds, logits[:, 1].astype(np.float64) - logits[:, 0].astype(np.float64))
    assert equal(read, written)


def test_probabilities_may_stand_in_for_log_odds(tmp_path: Path) -> None:
    known = predict(np.array([1.0, -2.0]), np.array([1, 0]), FrameGrid.middle(4, 2), SCORING_PROPOSALS)
    write_frames_file(tmp_path / "f.jsonl", [replace(known, log_odds=None)])
    assert "log_odds" not in (tmp_path / "f.jsonl").read_text()
    (read,) = read_frames_file(tmp_path / "f.jsonl", SCORING_PROPOSALS)
    assert read.log_odds is None
    assert read.probs.tolist() == probs_of(np.array([1.0, -2.0])).tolist()
    assert read.moments == known.moments


def test_file_order_is_kept_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    grid = FrameGrid.middle(4, 2)
    write_frames_file(path, [predict(np.zeros(2), np.ones(2), grid, qid=qid) for qid in (3, 1, 2)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert [prediction.qid for prediction in read_frames_file(path)] == [3, 1, 2]


def test_all_forms_of_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    lines = [json.dumps({**LINE, "qid": qid}) for qid in (1, 2)]
    for text in ("\r".join(lines), f"[{lines[0]},\n{lines[1]}]", json.dumps({**LINE, "qid": 1}, indent=1) + lines[1]):
        for content in (text.encode(), gzip.compress(text.encode())):
            path.write_bytes(content)
            assert [prediction.qid for prediction in read_frames_file(path)] == [1, 2]


@pytest.mark.parametrize("missing", ["qid", "vid"])
def test_a_prediction_without_a_name_is_not_written(missing: str, tmp_path: Path) -> None:
    prediction = replace(predict(np.zeros(2), np.ones(2), FrameGrid.middle(4, 2)), **{missing: None})
    with pytest.raises(ValueError, match="needs qid and vid.*None.*dataclasses.replace"):
        write_frames_file(tmp_path / "f.jsonl", [prediction])
    assert not (tmp_path / "f.jsonl").exists()


LINE = {"qid": 2, "vid": "v", "query": "q", "duration_seconds": 6, "mask": "010", "log_odds": [0.5, 1, -2e3]}
GRID = {"grid_times": [1, 2.5, 4], "grid_edges": [0, 2, 3, 6]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qid": " "}, "expected qid to be a 64-bit integer or a text, got ' '"),
        ({"qid": True}, "expected qid to be a 64-bit integer or a text, got True"),
        ({"qid": 2**63}, "expected qid to be a 64-bit integer or a text"),
        ({"vid": 5}, "expected vid to be a text, got 5"),
        ({"query": None}, "expected query to be a text, got None"),
        ({"duration_seconds": 0}, "expected duration_seconds to be finite and above 0"),
        ({"duration_seconds": -6}, "expected duration_seconds to be finite and above 0"),
        ({"duration_seconds": "6"}, "expected duration_seconds to be a finite number, got '6'"),
        ({"duration_seconds": 10**400}, "expected duration_seconds to be a finite number"),
        ({"duration_seconds": 1e9}, r"expected duration_seconds to be .* up to 86400 \(a day\), got 1000000000.0"),
        ({"mask": "01" * 10_000}, "expected num_frames of at most 10000, got 20000"),
        ({"vi\x1b[2Jd": 1}, r"unknown key 'vi\\x1b\[2Jd'"),
        ({"mask": ""}, "expected mask to be a text of 0 and 1, one per frame, got ''"),
        ({"mask": "01O"}, "expected mask to be a text of 0 and 1, one per frame, got '01O'"),
        ({"mask": [0, 1, 0]}, r"expected mask to be a text of 0 and 1, one per frame, got \[0, 1, 0\]"),
        ({"mask": "0100"}, "expected log_odds to be a list of 4 numbers, one per digit of mask, got 3"),
        ({"log_odds": []}, "expected log_odds to be a list of 3 numbers, one per digit of mask, got 0"),
        ({"log_odds": "0.5"}, "expected log_odds to be a list of 3 numbers, one per digit of mask, got '0.5'"),
        ({"log_odds": [1, None, 2]}, "expected log_odds to be finite numbers, got None for frame 1"),
        ({"log_odds": [1, 2, "3"]}, "expected log_odds to be finite numbers, got '3' for frame 2"),
        ({"log_odds": [[1], [2], [3]]}, r"expected log_odds to be finite numbers, got \[1\] for frame 0"),
        ({"log_odds": [True, 2, 3]}, "expected log_odds to be finite numbers, got True for frame 0"),
        ({"log_odds": [10**400, 2, 3]}, "expected log_odds to be finite numbers, got 1000"),
        ({"log_odds": [1e308, 1e308, 0], "mask": "110"}, None),
        ({"probs": [0.1, 0.2, 0.3]}, "expected either log_odds or probs, one value per frame"),
        ({"logodds": [1, 2, 3]}, "unknown key 'logodds'"),
        ({"grid_kind": "uniform"}, "unknown key 'grid_kind'"),
        ({"grid_times": [1, 2, 4]}, "expected grid_times and grid_edges or neither, got no grid_edges; write both"),
        ({**GRID, "grid_times": [1, 2]}, "expected grid_times to be a list of 3 numbers, one per digit of mask, got 2"),
        ({**GRID, "grid_times": "1"}, "expected grid_times to be a list of 3 numbers, one per digit of mask, got '1'"),
        ({**GRID, "grid_edges": [0, 2, 6]}, "expected grid_edges to be a list of 4 numbers, one more than .*, got 3"),
        ({**GRID, "grid_edges": [0, 2, None, 6]}, "expected grid_edges to be finite numbers, got None for frame 2"),
        ({**GRID, "grid_times": [1, 4, 2]}, r"expected each frame inside its window, got frame 1 at 4 s outside"),
        ({**GRID, "grid_edges": [0, 3, 3, 6]}, "expected edges that ascend, got 3 before 3 s"),
        (
            {**GRID, "duration_seconds": 7},
            r"expected duration_seconds to be 6\.0, from the first to the last of .*got 7",
        ),
        ({**GRID, "grid_edges": [2, 3, 4, 8], "grid_times": [2, 3, 8]}, None),
    ],
)
def test_a_wrong_value_is_one_line_with_its_place(change: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({**LINE, "qid": 1}) + "\n\n" + json.dumps({**LINE, **change}) + "\n")
    if message is None:
        assert len(read_frames_file(path)) == 2
        return
    with pytest.raises(FramesFileError, match=rf"^f\.jsonl:3: .*{message}") as caught:
        read_frames_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["qid", "vid", "query", "duration_seconds", "mask", "log_odds"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({name: value for name, value in LINE.items() if name != key}))
    with pytest.raises(FramesFileError, match=rf"f\.jsonl:1: .*{key}"):
        read_frames_file(path)


@pytest.mark.parametrize("probs", [[0.1, 1.1, 0.3], [0.1, -0.1, 0.3]])
def test_probabilities_out_of_range_are_refused(probs: list[float], tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({**{key: LINE[key] for key in list(LINE)[:5]}, "probs": probs}))
    with pytest.raises(
        FramesFileError, match=r"expected probs in \[0, 1\], got .*1 for frame 1; logits go into log_odds"
    ):
        read_frames_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({**LINE, "log_odds": [1, float("nan"), 2]}), "got nan for frame 1; look for an overflow"),
        (json.dumps({**LINE, "log_odds": [1, float("-inf"), 2]}), "got -inf for frame 1; look for an overflow"),
        (json.dumps({**LINE, "duration_seconds": float("nan")}), "duration_seconds to be a finite number, got nan"),
        (json.dumps(LINE).replace("-2000.0", "1e999"), "expected log_odds to be finite numbers, got inf for frame 2"),
        (json.dumps(LINE)[:-10], "not JSON"),
        ("[1]", "f.jsonl:1: expected one JSON object per line, got list"),
        (json.dumps(LINE) + "\n[1]", "f.jsonl:2: expected one JSON object per line, got list"),
        ("[]", "f.jsonl: expected at least one query, got none; decode again"),
        ("3", "f.jsonl is not JSON .it starts with '3'.; expected a text file with one JSON object per line"),
        ("[" * 100_000, "not JSON"),
        (json.dumps(LINE) + "\n" + json.dumps(LINE), "f.jsonl:2: qid 2 is also on line 1; keep one of them"),
        ("", "f.jsonl is empty; expected a text file with one JSON object per line"),
        ("\n \n", "f.jsonl is empty"),
    ],
)
def test_a_broken_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(text)
    with pytest.raises(FramesFileError, match=message) as caught:
        read_frames_file(path)
    assert "\n" not in str(caught.value)


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f\x1b.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + b" " * 3_000_000)
    monkeypatch.setattr(_text_file, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(FramesFileError, match=r"f\\x1b.jsonl has more than .* MB of text"):
        read_frames_file(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="no frames file at"):
        read_frames_file(tmp_path / "pipe")


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("old")

    def predictions() -> Iterator[FramePrediction]:
        yield predict(np.zeros(2), np.ones(2), FrameGrid.middle(4, 2), qid=1)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        write_frames_file(path, predictions())
    with pytest.raises(OSError, match="cannot write"):
        write_frames_file(path / "below", [])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_bytes_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(b"\xff\xfe\x00{\x00")
    with pytest.raises(FramesFileError, match=r"f\.jsonl is UTF-16; .* save it as UTF-8"):
        read_frames_file(tmp_path / "f.jsonl")
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match="no frames file at .*; check the path"):
            read_frames_file(path)


def test_mutated_files_are_read_or_refused_never_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grid, path = FrameGrid.middle(6, 3), tmp_path / "f.jsonl"
    write_frames_file(path, [predict(rng.normal(size=3), rng.random(3) < 0.5, grid, qid=qid) for qid in range(3)])
    original, refused = path.read_bytes(), 0
    for _ in range(500):
        data = bytearray(original)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data))
        try:
            assert all(prediction.moments for prediction in read_frames_file(path))
        except FramesFileError:
            refused += 1
    assert 100 < refused < 500  # a changed letter of the query is still a query
