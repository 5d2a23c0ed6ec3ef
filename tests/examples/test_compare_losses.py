"""The comparison of losses: its table by hand, its bookkeeping with planted runs, and one real run of one step."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.metrics import HEADLINE_COLUMNS
from hf_frameseg.objectives import OBJECTIVES
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.video.settings import FrameSettings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script under its own name and with examples/ on the path, as its worker processes find it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        before = {name: sys.modules.pop(name, None) for name in ("compare_losses",)}
        yield importlib.import_module("compare_losses")
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def planted(variant: str, seed: int, free: float, forced: float) -> dict[str, Any]:
    """A finished run whose free-running and teacher-forced scores are one number each."""
    scores = {mode: dict.fromkeys(HEADLINE_COLUMNS, value) for mode, value in {"free": free, "forced": forced}.items()}
    return {"variant": variant, "seed": seed, "free_running": scores["free"], "teacher_forced": scores["forced"]}


# The table


def test_the_table_shows_mean_and_sample_deviation(script: ModuleType) -> None:
    runs = [planted("LM only", seed, free, 90.0) for seed, free in enumerate((10.0, 20.0, 60.0))]
    lines = script.table(runs).splitlines()
    assert len(lines) == 4
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    # mean 30; deviations -20, -10, 30: variance (400 + 100 + 900) / 2 = 700
    assert cells == ["LM only", "3", "free-running", *["30.0 ± 26.5"] * 5]
    assert lines[3].count("90.0 ± 0.0") == 5
    assert "teacher-forced" in lines[3]


def test_the_table_puts_each_metric_into_its_column(script: ModuleType) -> None:
    run = planted("LM + BCE", 0, 0.0, 0.0)
    run["free_running"] = {"R1@0.5": 1.0, "R1@0.7": 2.0, "mAP": 3.0, "HL-mAP": 4.0, "HIT@1": 5.0}
    head, _, row, _ = (line.strip("|").split("|") for line in script.table([run]).splitlines())
    assert [cell.strip() for cell in head[3:]] == ["R1@0.5", "R1@0.7", "mAP", "HL-mAP", "HIT@1"]
    assert [cell.strip() for cell in row[3:]] == [f"{value:.1f} ± 0.0" for value in range(1, 6)]


def test_the_table_has_the_order_of_the_variants_and_skips_what_was_not_run(script: ModuleType) -> None:
    names = list(script.VARIANTS)
    text = script.table([planted(name, 0, 1.0, 2.0) for name in (names[3], names[0])])
    rows = [line.strip("|").split("|")[0].strip() for line in text.splitlines()[2:]]
    assert rows == [names[0], names[0], names[3], names[3]]


def test_every_variant_is_a_setting_the_trainer_takes(script: ModuleType, tmp_path: Path) -> None:
    last: dict[str, dict[str, float]] = {}
    for name, (trainer_options, _) in script.VARIANTS.items():
        args = SegmentationSeq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **trainer_options)
        last[name] = args.loss_schedule(max_steps=110).at(110)
        assert sum(last[name].values()) == pytest.approx(1.0)  # the same scale, so one learning rate is fair
    assert last["LM only"] == {"lm": 1.0}
    assert set(last["paper's mix from the first step"]) == set(OBJECTIVES)
    assert last["segmentation losses only"]["lm"] == 0.0
    warm = SegmentationSeq2SeqTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, **script.VARIANTS["paper's mix, LM-only warm-up"][0]
    ).loss_schedule(max_steps=110)
    assert warm.at(0)["lm"] == 1.0
    assert warm.at(59)["lm"] > warm.at(60)["lm"] == pytest.approx(0.2)  # 6 of 11 epochs


# The bookkeeping


class InlinePool:
    """Stand in for the process pool: run at once, in this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *args: object) -> None:
        return None

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args))
        except RuntimeError as error:
            future.set_exception(error)
        return future


class Done(list):
    """The (variant, seed) of every run so far; `fails_at` raises instead."""

    fails_at: tuple[str, int] | None = None


@pytest.fixture
def done(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Done:
    """What was run, in order; a run costs nothing here."""
    ran = Done()

    def run(options: Namespace, variant: str, seed: int) -> dict[str, Any]:
        if (variant, seed) == ran.fails_at:
            raise RuntimeError("the machine went down")
        ran.append((variant, seed))
        return planted(variant, seed, 10.0 * (seed + 1), 50.0)

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(script, "load_rows", lambda *args, **kwargs: [])
    return ran


def compare(script: ModuleType, output: Path, *more: str) -> str:
    options = ["--data_dir", "data", "--output_dir", str(output), "--variants", "LM only", "LM + BCE"]
    return script.main([*options, "--seeds", "0", "1", "--model_name_or_path", "base", *more])


def test_an_interrupted_comparison_goes_on_where_it_stopped(script: ModuleType, done: Done, tmp_path: Path) -> None:
    done.fails_at = ("LM + BCE", 1)
    with pytest.raises(RuntimeError, match="went down"):
        compare(script, tmp_path)
    kept = (tmp_path / "runs.jsonl").read_text()
    assert done == [("LM only", 0), ("LM + BCE", 0), ("LM only", 1)]  # one seed of all first
    assert len(kept.splitlines()) == 3
    done.clear()
    done.fails_at = None
    text = compare(script, tmp_path)
    assert done == [("LM + BCE", 1)]
    assert (tmp_path / "runs.jsonl").read_text().startswith(kept)
    assert text == (tmp_path / "table.md").read_text().rstrip("\n")
    assert text.count("15.0 ± 7.1") == 10  # two variants, five metrics, seeds of 10 and 20


def test_a_finished_comparison_only_prints(script: ModuleType, done: Done, tmp_path: Path) -> None:
    text = compare(script, tmp_path)
    done.clear()
    assert compare(script, tmp_path) == text
    assert done == []


def test_a_comparison_killed_while_it_wrote_a_line_goes_on(script: ModuleType, done: Done, tmp_path: Path) -> None:
    text = compare(script, tmp_path)
    log = tmp_path / "runs.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    lost = json.loads(whole[-1])
    for end in (1, len(whole[-1]) // 2, len(whole[-1]) - 1):
        log.write_text("".join(whole[:-1]) + whole[-1][:end])
        done.clear()
        assert compare(script, tmp_path) == text
        assert done == [(lost["variant"], lost["seed"])]  # once more
        assert sorted(log.read_text().splitlines()) == sorted(line.rstrip("\n") for line in whole)
    for line in ("[]", "{", '{"variant": "LM only"}'):
        log.write_text(line + "\n" + "".join(whole))
        with pytest.raises(SystemExit, match="holds a line that is no finished run"):
            compare(script, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "--max_steps=0",
        "--batch_size=-1",
        "--workers=0",
        "--learning_rate=nan",
        "--learning_rate=inf",
        "--seeds=-1",
        "--seeds 1 1",
    ],
)
def test_wrong_numbers_are_one_line(script: ModuleType, done: Done, tmp_path: Path, words: str) -> None:
    with pytest.raises(SystemExit, match="expected .*--"):
        compare(script, tmp_path, *words.split())
    assert done == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", "10"),
        ("batch_size", "8"),
        ("learning_rate", "0.1"),
        ("model_name_or_path", "x"),
        ("data_dir", "x"),
    ],
)
def test_runs_of_other_settings_are_refused(
    script: ModuleType, done: Done, tmp_path: Path, name: str, value: str
) -> None:
    compare(script, tmp_path)
    before = (tmp_path / "runs.jsonl").read_text()
    done.clear()
    with pytest.raises(SystemExit, match="other settings; choose another --output_dir"):
        compare(script, tmp_path, f"--{name}", value)
    assert done == []
    assert (tmp_path / "runs.jsonl").read_text() == before


def test_an_unknown_variant_is_refused(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare(script, tmp_path, "--variants", "hinge")
    assert "invalid choice: 'hinge'" in capsys.readouterr().err


# A real run


@pytest.mark.slow
def test_one_real_step(script: ModuleType, tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", progress=False, num_train_videos=2, num_val_videos=1, num_test_videos=0)
    base = tmp_path / "base"
    tiny_model.save_pretrained(base)
    tiny_processor.save_pretrained(base)
    FrameSegmentationConfig(FrameSettings(num_frames=5, frame_size=16), prompt="compact").save(base)
    variant = "mix, prefix corruption (default)"
    options = {"data_dir": data, "output_dir": tmp_path / "runs", "model_name_or_path": base, "max_steps": 1}
    options |= {"batch_size": 2, "workers": 1, "seeds": 3, "variants": variant}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # for the worker; this process has read it already
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        text = script.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    (line,) = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["variant"], entry["seed"], entry["settings"]["max_steps"]) == (variant, 3, 1)
    for mode in ("free_running", "teacher_forced"):
        assert list(entry[mode]) == list(HEADLINE_COLUMNS)
        assert all(0.0 <= value <= 100.0 for value in entry[mode].values())
    assert text.count(variant) == 2
