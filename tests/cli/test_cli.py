"""The command line: what it passes on, what it prints, and one line for every error a user can mend."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
import pytest

from hf_frameseg import cli
from hf_frameseg._options import options_of
from hf_frameseg.cli import predict
from hf_frameseg.cli.parser import Parser
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.prepared.settings import StorageSettings
from hf_frameseg.proposals.settings import OWN_OPTIONS, ProposalSettings
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.visualization.save import save_figure

GRID = FrameGrid.middle(duration_seconds=8.0, num_frames=4)


def predict_stub(query: str, moments: tuple[Moment, ...], *, fallback: bool = False) -> FramePrediction:
    probs = np.array([0.0, 1.0, 0.5, 0.1])
    return FramePrediction(GRID, np.array([0, 1, 1, 0], dtype=bool), probs, moments, probs, fallback, query)


class Room(ModuleType):
    """A stand-in for one of the package's modules that records how it was called."""

    def __init__(self, name: str, **members: object) -> None:
        super().__init__(name)
        self.__dict__.update(members)


class UnreadableError(RuntimeError):
    """Stands for VideoReadError, which is none of the built-in errors that the command line reports."""


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """Replace what `predict` calls; return the calls by name."""
    calls: dict[str, list] = {"probe": [], "load": [], "decoder": [], "reading": [], "read": [], "ask": [], "draw": []}

    class Frames:
        grid = GRID
        frames = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)

    class Retriever:
        @classmethod
        def from_pretrained(
            cls, path: str | None, *, proposals: ProposalSettings, model_kwargs: dict, **reading: str | float
        ) -> Retriever:
            assert model_kwargs == {"heads": False}
            calls["load"].append(path)
            calls["reading"].append(reading)
            calls["decoder"].append(proposals.decoder)
            return cls()

        def read(self, video: Path) -> Frames:
            calls["read"].append(video)
            return Frames()

        def predict(
            self, frames: Frames, queries: list[str], *, vid: str, num_beams: int | None
        ) -> list[FramePrediction]:
            calls["ask"].append((vid, queries, num_beams))
            return [predict_stub(query, (Moment(2.0, 6.0, 0.75),)) for query in queries]

    class Figure:
        def savefig(self, file: IO[bytes], *, format: str) -> None:
            file.write(format.encode())

    def qualitative_figure(prediction: FramePrediction, *, frames: np.ndarray) -> Figure:
        calls["draw"].append((prediction.query, frames))
        return Figure()

    members = {
        "hf_frameseg.video.read": {
            "probe_duration": lambda path, *, timeout_seconds: calls["probe"].append((path, timeout_seconds)),
            "read_frames": lambda path, grid, **reading: calls["reading"].append(reading) or Frames(),
            "VideoReadError": UnreadableError,
        },
        "hf_frameseg.inference": {"MomentRetriever": Retriever},
        "hf_frameseg.visualization": {"qualitative_figure": qualitative_figure, "save_figure": save_figure},
        "matplotlib": {},
    }
    for name, values in members.items():
        monkeypatch.setitem(sys.modules, name, Room(name, **values))
    calls["frames"] = [Frames.frames]
    return calls


def test_predict_prints_table_and_saliency(rooms: dict[str, list], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "v.mp4", "a red circle"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a red circle",
        "  start        end  score",
        "  00:02.0  00:06.0  0.750",
        "  saliency  ▁█▅▂",
    ]
    assert rooms["probe"] == [(Path("v.mp4"), 120.0)]
    assert rooms["load"] == [None]
    assert rooms["decoder"] == ["runs"]
    assert rooms["read"] == [Path("v.mp4")]
    assert rooms["ask"] == [("v", ["a red circle"], None)]  # the number of beams that the model is saved with
    assert rooms["draw"] == []


def test_predict_passes_options_on(rooms: dict[str, list]) -> None:
    assert cli.main(["predict", "v.mp4", "a", "b", "--model", "runs/demo/model", "--num-beams", "4"]) == 0
    assert rooms["load"] == ["runs/demo/model"]
    assert rooms["read"] == [Path("v.mp4")]  # once for all queries
    assert rooms["ask"] == [("v", ["a", "b"], 4)]


def test_predict_passes_the_decoder_on(rooms: dict[str, list], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "v.mp4", "a", "--decoder", "runs+fill"]) == 0
    assert rooms["decoder"] == ["runs+fill"]
    with pytest.raises(SystemExit):
        cli.main(["predict", "v.mp4", "a", "--decoder", "run"])
    assert "choose from" in capsys.readouterr().err


def test_predict_says_how_the_video_is_read(rooms: dict[str, list], tmp_path: Path) -> None:
    assert cli.main(["predict", "v.mp4", "a"]) == 0
    words = ["--damaged", "keep", "--reader", "pyav", "--timeout-seconds", "7", "--output", str(tmp_path / "p.png")]
    assert cli.main(["predict", "v.mp4", "a", *words]) == 0
    asked = {"damaged": "keep", "reader": "pyav", "timeout_seconds": 7.0}
    assert rooms["reading"] == [{}, asked, asked]  # also where it is read for the picture
    assert [seconds for _, seconds in rooms["probe"]] == [120.0, 7.0]
    assert cli.main(["predict", "v.mp4", "a", "--reader", "ffmpeg"]) == 2
    assert len(rooms["load"]) == 2  # said before a model is loaded


def test_predict_draws_the_middle_frames(rooms: dict[str, list], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = tmp_path / "new" / "predict.PNG"
    assert cli.main(["predict", "v.mp4", "a", "--output", str(picture)]) == 0
    assert picture.read_bytes() == b"png"
    (query, frames) = rooms["draw"][0]
    assert query == "a"
    np.testing.assert_array_equal(frames, rooms["frames"][0])
    assert str(picture) in capsys.readouterr().out


def test_predict_numbers_the_pictures_of_several_queries(rooms: dict[str, list], tmp_path: Path) -> None:
    assert cli.main(["predict", "v.mp4", "a", "b", "--output", str(tmp_path / "p.png")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-1.png", "p-2.png"]


def test_predict_writes_submission_rows(rooms: dict[str, list], tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.json"
    assert cli.main(["predict", "clips/v.mp4", "a", "b", "--json", str(path)]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["qid"], row["query"], row["vid"]) for row in rows] == [(1, "a", "v"), (2, "b", "v")]
    assert rows[0]["pred_relevant_windows"] == [[2.0, 6.0, 0.75]]
    assert rows[0]["pred_saliency_scores"] == [0.0, 1.0, 0.5, 0.1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["v.mp4", "a", "--json", "v.mp4"], "--json v.mp4 is an input: it would be overwritten; name another file"),
        (["v.mp4", "a", "--json", "link.mp4"], "--json link.mp4 is an input"),
        (["v.mp4", "a", "--json", "model/config.json", "--model", "model"], "--json model/config.json is an input"),
        (["v.png", "a", "--output", "v.png"], "--output v.png is an input"),
        (["v-2.png", "a", "b", "--output", "v.png"], "--output of query 2 v-2.png is an input"),
        (["v.mp4", "a", "--json", "p.png", "--output", "p.png"], "--output and --json both name p.png"),
        (["v.mp4", "a", "--json", "model"], "--json model is a folder; name a file in it"),
        (["v.mp4", "a", "--output", "model.png"], "--output model.png is a folder"),
        (
            ["v.mp4", "a", "--output", "picture"],
            "--output picture does not say what picture it is: end the name in one",
        ),
        (["v.mp4", "a", "--output", "p.exe"], "--output p.exe does not say what picture it is"),
        (["v.mp4", "a", "--output", "/dev/null"], "--output /dev/null does not say what picture it is"),
        (["v.mp4", "a", "--output", "pipe.png"], "--output pipe.png is there and is no file; name one"),
        (["v.mp4", "a", "--num-beams", "0"], "--num-beams to be a whole number of at least 1 and at most 256, got 0"),
        (["v.mp4", "a", "--num-beams", "1000000"], "--num-beams to be a whole number of at least 1 and at most 256"),
        (["v.mp4", "a", " "], "expected a query with a word in it"),
        (["v.mp4", "a" * 100_000], "expected a query of at most 4000 characters, got 100000"),
        (["v.mp4", "a \udcff"], r"expected a query without \udcff"),
    ],
)
def test_predict_refuses_before_a_model_is_loaded(
    rooms: dict[str, list],
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v.mp4", "v.png", "v-2.png", "model/config.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("precious")
    Path("link.mp4").symlink_to("v.mp4")
    Path("model.png").mkdir()
    os.mkfifo("pipe.png")
    assert cli.main(["predict", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("frameseg: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert rooms["load"] == []
    assert all(Path(name).read_text() == "precious" for name in ("v.mp4", "v.png", "v-2.png", "model/config.json"))


def test_what_others_wrote_is_printed_as_text(
    rooms: dict[str, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", "v.mp4", "a\x1b[2J\r0 problems", "--output", "p\x1b.png"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == r"a\x1b[2J\r0 problems"
    assert out.splitlines()[-1] == r"  picture   p\x1b.png"
    assert cli.main(["predict", "v.mp4", "a", "--output", "p\x1b[2Jq"]) == 2
    assert r"--output p\x1b[2Jq does not say" in capsys.readouterr().err


def test_letters_without_a_glyph_are_said_in_one_line(
    rooms: dict[str, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Figure:
        def savefig(self, file: IO[bytes], *, format: str) -> None:
            for letter in "犬走":
                warnings.warn(f"Glyph {ord(letter)} missing from font(s) DejaVu Sans.", stacklevel=1)

    monkeypatch.setattr(sys.modules["hf_frameseg.visualization"], "qualitative_figure", lambda *_, **__: Figure())
    assert cli.main(["predict", "v.mp4", "犬走", "--output", str(tmp_path / "p.png")]) == 0
    assert capsys.readouterr().err == (
        f"frameseg: warning: the font lacks letters of the query in {tmp_path / 'p.png'}\n"
    )


def test_a_failed_picture_leaves_the_old_one(
    rooms: dict[str, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prediction: FramePrediction, *, frames: np.ndarray) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sys.modules["hf_frameseg.visualization"], "qualitative_figure", fail)
    (tmp_path / "p.png").write_text("old")
    assert cli.main(["predict", "v.mp4", "a", "--output", str(tmp_path / "p.png")]) == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_describe_says_when_nothing_was_marked() -> None:
    best_frame = predict_stub("q", (Moment(2.0, 4.0, 0.4),), fallback=True)
    assert "no frame was marked" in predict.describe(best_frame)
    assert "no frame was marked" not in predict.describe(predict_stub("q", (Moment(2.0, 4.0, 0.4),)))
    assert "no moment found" in predict.describe(predict_stub("q", ()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "00:00.0"), (59.94, "00:59.9"), (59.95, "01:00.0"), (150.0, "02:30.0")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert predict.format_seconds(seconds) == text


def test_sparkline_keeps_the_peak_and_the_scale() -> None:
    assert predict.sparkline([]) == ""
    assert predict.sparkline([0.01, 0.02]) == "▁▁"  # 1 is a full bar, whatever the largest value
    line = predict.sparkline([0.0] * 900 + [1.0] + [0.0] * 99)
    assert len(line) == 100
    assert line.index("█") == 90
    assert line.count("█") == 1


def test_synth_leaves_defaults_to_the_data_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def record(out: Path, **settings: object) -> None:
        calls.append((out, settings))

    monkeypatch.setattr("hf_frameseg.datasets.synthetic.write_dataset", record)
    assert cli.main(["synth", str(tmp_path)]) == 0
    assert cli.main(["synth", str(tmp_path), "--num-train", "3", "--num-val", "0", "--seed", "0"]) == 0
    assert calls == [
        (tmp_path, {"progress": True, "num_proc": 1}),
        (tmp_path, {"progress": True, "num_proc": 1, "num_train_videos": 3, "num_val_videos": 0, "seed": 0}),
    ]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected 4 frames,\n  got 3"),
        FileNotFoundError("no such folder: x"),
        ImportError("matplotlib is needed"),
    ],
)
def test_user_errors_are_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path, **settings: object) -> None:
        raise error

    monkeypatch.setattr("hf_frameseg.datasets.synthetic.write_dataset", fail)
    assert cli.main(["synth", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"frameseg: error: {' '.join(str(error).split())}\n"
    assert captured.out == ""
    with pytest.raises(type(error)):
        cli.main(["synth", "x", "--debug"])


def test_an_unreadable_video_is_one_line(
    rooms: dict[str, list], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, **reading: float) -> None:
        raise UnreadableError(f"{path}: no video stream")

    monkeypatch.setattr(sys.modules["hf_frameseg.video.read"], "probe_duration", fail)
    assert cli.main(["predict", "v.mp4", "a"]) == 2
    assert capsys.readouterr().err == "frameseg: error: v.mp4: no video stream\n"
    assert rooms["load"] == []


def test_mistakes_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path, **settings: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("hf_frameseg.datasets.synthetic.write_dataset", fail)
    with pytest.raises(KeyError):
        cli.main(["synth", "x"])


def test_missing_matplotlib_is_reported_before_a_model_is_loaded(
    rooms: dict[str, list], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setattr("hf_frameseg._imports.import_module", _not_installed)
    assert cli.main(["predict", "v.mp4", "a", "--output", "p.png"]) == 2
    assert "pip install 'hf_frameseg[viz]'" in capsys.readouterr().err
    assert rooms["load"] == []


def _not_installed(name: str) -> ModuleType:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly\x1b[2J"],
        ["predict"],
        ["predict", "v.mp4"],
        ["predict", "v.mp4", "a", "--fast\x1b[2J"],
        ["synth"],
        ["synth", "x", "--seed", "a"],
        ["prepare", "--data-dir", "x", "--num-frames", "many"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(argv)
    captured = capsys.readouterr()
    assert (exit_info.value.code, captured.out) == (2, "")
    assert captured.err.startswith("frameseg: error: ")
    assert captured.err.endswith("--help\n")
    assert captured.err[:-1].isprintable()


def test_no_help_loads_a_heavy_library() -> None:
    script = """
import contextlib, io, sys
from hf_frameseg import cli
from hf_frameseg._options import options_of
for module in (None, *cli.COMMANDS):
    words = [] if module is None else [module.__name__.rpartition(".")[2]]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    loaded = {"torch", "datasets", "matplotlib", "transformers", "av", "PIL", "rich"} & set(sys.modules)
    loaded |= {"numpy"} & set(sys.modules) if module is None else set()
    assert not loaded, (words, loaded)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_options_say_what_their_fields_say() -> None:
    parser = cli.build_parser("prepare")
    help_of = {name: action.help for name, action in _command(parser, "prepare").options().items()}
    documented = {**field_texts(FrameSettings), **field_texts(StorageSettings)}
    assert {name: help_of[name] for name in documented} == documented
    assert help_of["num_frames"] == "frames per video (default: 25)"
    assert help_of["short_side"].endswith("keeping the aspect ratio")  # None is no default to be shown
    assert help_of["allow_links"] == "follow links that lead out of the video folder"


def test_only_the_named_command_gets_its_options() -> None:
    parser = cli.build_parser("synth")
    assert "seed" in _command(parser, "synth").options()
    assert "decoder" not in _command(parser, "predict").options()
    assert "decoder" in _command(cli.build_parser(), "predict").options()


def test_the_decoder_of_predict_has_its_own_default() -> None:
    decoder = _command(cli.build_parser("predict"), "predict").options()["decoder"]
    assert decoder.help == f"how frames become windows: {', '.join(OWN_OPTIONS)} (default: runs)"
    assert decoder.choices == tuple(OWN_OPTIONS)


def _command(parser: Parser, name: str) -> Parser:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[name]


def field_texts(settings: type) -> dict[str, str]:
    return {option.name: option.shown_help for option in options_of(settings)}


def test_settings_complain_about_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", str(tmp_path / "x"), "--num-train", "-1"]) == 2
    assert capsys.readouterr().err == "frameseg: error: expected --num-train-videos to be at least 1, got -1\n"
    assert cli.main(["synth", str(tmp_path / "x"), "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "frameseg: error: expected --seed to be at least 0, got -1\n"


def test_a_damaged_video_names_the_option(
    rooms: dict[str, list], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, **reading: float) -> None:
        raise UnreadableError("damaged.mp4: FFmpeg patched up 3 pictures; damaged='keep' takes what players show")

    monkeypatch.setattr(sys.modules["hf_frameseg.video.read"], "probe_duration", fail)
    assert cli.main(["predict", "damaged.mp4", "a"]) == 2
    assert capsys.readouterr().err == (
        "frameseg: error: damaged.mp4: FFmpeg patched up 3 pictures; --damaged keep takes what players show\n"
    )


@pytest.mark.parametrize(("close", "status"), [("| head -c 1 > /dev/null; exit ${PIPESTATUS[0]}", 0), (">&-", 0)])
def test_output_that_nobody_reads_is_no_error(tmp_path: Path, close: str, status: int) -> None:
    row = {"qid": 1, "query": "q", "vid": "v", "duration": 12, "relevant_windows": [[2, 6]]}
    row |= {"relevant_clip_ids": [1, 2], "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    script = "import sys; from hf_frameseg.cli import main; sys.exit(main(sys.argv[1:]))"
    command = f'"{sys.executable}" -c "{script}" audit "{tmp_path}/a.jsonl" --num-frames $(seq 1 200) {close}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (status, b"")
