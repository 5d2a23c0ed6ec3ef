"""The example script from videos to table, in this process, with a tiny random base."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_frameseg import __version__
from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.metrics import HEADLINE_COLUMNS, evaluate_submission, validate_submission
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.frames_file import read_frames_file
from hf_frameseg.proposals.settings import ProposalSettings
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.training.controls import results_table
from hf_frameseg.training.evaluation import MomentRetrievalMetrics

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_qvh.py"
CONTROLS = ["base without fine-tuning", "blank frames", "queries shuffled between videos", "whole video"]
ROWS = ["model", "model, windows by runs", *CONTROLS]

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(qvh: ModuleType, qvh_options: dict[str, Any]) -> Run:
    options = qvh_options | {"num_figures": 2, "controls": "true"}

    def call(output: Path, *more: str) -> dict[str, Any]:
        words = (f"--{name}={value}" for name, value in {**options, "output_dir": output}.items())
        return qvh.main([*words, *more])

    return call


@pytest.fixture(scope="module")
def counted() -> Counter[str]:
    """How often predictions were made and scored in the first run."""
    return Counter()


@pytest.fixture(scope="module")
def first(run: Run, counted: Counter[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and results of a run of two steps."""
    output = tmp_path_factory.mktemp("runs") / "first"
    check, score = FramePrediction.__post_init__, MomentRetrievalMetrics.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FramePrediction, "__post_init__", lambda one: counted.update(predictions=1) or check(one))
        patch.setattr(
            MomentRetrievalMetrics, "score", lambda self, found: counted.update(scorings=1) or score(self, found)
        )
        results = run(output)
    return output, results


def test_each_decode_is_a_prediction_once_and_each_row_is_scored_once(
    first: tuple[Path, dict[str, Any]], counted: Counter[str]
) -> None:
    num_queries = len((first[0] / "hl_val_submission.jsonl").read_text().splitlines())
    assert counted == {"predictions": len(ROWS) * num_queries, "scorings": len(ROWS)}  # figures show these, too


def test_metrics_file_has_a_row_per_control_under_official_names(first: tuple[Path, dict[str, Any]]) -> None:
    output, results = first
    rows = json.loads((output / "metrics.json").read_text())
    assert list(rows) == list(results) == ROWS
    for name, row in rows.items():
        assert row["brief"].keys() >= set(HEADLINE_COLUMNS.values())
        assert {"full", "long", "middle", "short", "HL-min-VeryGood"} <= row.keys()
        assert row["brief"] == results[name]["brief"]
        for key in HEADLINE_COLUMNS.values():
            assert row[key] == row["brief"][key]  # also where a reader looks for them


def test_submission_is_official_and_scores_what_the_table_says(
    first: tuple[Path, dict[str, Any]], qvh_data: Path
) -> None:
    output, results = first
    truth = read_annotations(qvh_data / "highlight_val_release.jsonl")
    submission = [json.loads(line) for line in (output / "hl_val_submission.jsonl").read_text().splitlines()]
    assert [row["qid"] for row in submission] == [row["qid"] for row in truth]
    assert validate_submission(submission, truth) == []
    assert evaluate_submission(submission, truth)["brief"] == results["model"]["brief"]
    assert results["whole video"]["brief"]["MR-full-R1@0.5"] <= 50


def test_every_row_says_how_it_was_made(first: tuple[Path, dict[str, Any]]) -> None:
    rows = json.loads((first[0] / "metrics.json").read_text())
    for name, row in rows.items():
        made_by = dict(row["frameseg"])
        decoder = "runs" if name == "model, windows by runs" else "runs+fill"
        assert ProposalSettings.from_dict(made_by.pop("proposals")) == ProposalSettings(decoder)
        whole = name == "whole video"
        assert made_by == {
            "version": __version__,
            "num_frames": 1 if whole else 5,
            "readout": None if whole else "beam",
            "num_beams": None if whole else 2,
        }
    for key in ("MR-full-R1@0.5", "MR-full-R1@0.7", "HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"):
        assert rows["model"][key] == rows["model, windows by runs"][key]
    assert rows["model"]["MR-full-mAP"] >= rows["model, windows by runs"]["MR-full-mAP"]


def test_every_row_can_be_scored_again_from_its_frames(first: tuple[Path, dict[str, Any]], qvh_data: Path) -> None:
    output, results = first
    truth = read_annotations(qvh_data / "highlight_val_release.jsonl")
    names = {f"hl_val_{name.replace(' ', '_')}.jsonl": name for name in CONTROLS}
    assert {path.name for path in (output / "frames").iterdir()} == names.keys()
    files = {name: output / "frames" / file for file, name in names.items()}
    files |= dict.fromkeys(["model", "model, windows by runs"], output / "hl_val_frames.jsonl")
    for name, path in files.items():
        settings = ProposalSettings.from_dict(results[name]["frameseg"]["proposals"])
        submission = [prediction.to_submission() for prediction in read_frames_file(path, settings)]
        again = evaluate_submission(submission, truth)
        assert again == {key: results[name][key] for key in again}
        if name == "model":
            written = (output / "hl_val_submission.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in written] == submission


def test_the_table_names_both_decoders(first: tuple[Path, dict[str, Any]]) -> None:
    lines = results_table(first[1]).splitlines()
    assert [line[: max(map(len, ROWS))].strip() for line in lines] == ["", *ROWS]


def test_the_model_was_trained_and_is_whole(first: tuple[Path, dict[str, Any]], qvh_base: Path) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (qvh_base, first[0] / "model"))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("vision_tower" not in name for name in moved)  # frozen by default
    assert {name for name in before if "vision_tower" not in name} == moved
    assert FrameSegmentationConfig.load(first[0] / "model") == FrameSegmentationConfig.load(qvh_base)


def test_the_trained_model_answers(first: tuple[Path, dict[str, Any]], qvh_data: Path) -> None:
    from hf_frameseg.inference import MomentRetriever

    truth = read_annotations(qvh_data / "highlight_val_release.jsonl")[0]
    submitted = json.loads((first[0] / "hl_val_submission.jsonl").read_text().splitlines()[0])
    retriever = MomentRetriever.from_pretrained(first[0] / "model")
    prediction = retriever(qvh_data / "videos" / f"{truth['vid']}.mp4", truth["query"])
    found = [[moment.start, moment.end] for moment in prediction.moments]
    # The submission has further candidates below what the model marked.
    assert found == [window[:2] for window in submitted["pred_relevant_windows"][: len(found)]]
    assert prediction.saliency == pytest.approx(submitted["pred_saliency_scores"], abs=1e-4)


def test_figures_are_pictures(first: tuple[Path, dict[str, Any]]) -> None:
    paths = sorted((first[0] / "figures").iterdir())
    names = [path.stem for path in paths]
    assert names[0] == "comparison"
    assert names[-1] == "training_curves"
    assert [name.split("_")[0] for name in names[1:-1]] == ["prediction"] * 2
    for path in paths:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_second_run_goes_on_where_the_first_stopped(
    run: Run, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output = shutil.copytree(first[0], tmp_path / "copy")  # the other tests read the first
    checkpoint = output / "checkpoint-2" / "trainer_state.json"
    written = checkpoint.stat().st_mtime_ns
    run(output, "--max_steps=4", "--resume_from_checkpoint=true", "--controls=false", "--decoder=runs")
    assert checkpoint.stat().st_mtime_ns == written
    before = json.loads(checkpoint.read_text())["log_history"]
    after = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert after[: len(before)] == before
    assert [line["step"] for line in after if "loss" in line] == [1, 2, 3, 4]
    rows = json.loads((output / "metrics.json").read_text())
    assert list(rows) == ["model"]  # no second row: it would be the same
    assert rows["model"]["frameseg"]["proposals"]["decoder"] == "runs"
    assert not (output / "frames").exists()  # those of the first run's rows are gone
    assert [path.stem for path in sorted((output / "figures").iterdir())][-1] == "training_curves"


def test_resuming_without_a_checkpoint_starts_from_the_beginning(run: Run, tmp_path: Path) -> None:
    results = run(tmp_path / "new", "--max_steps=1", "--resume_from_checkpoint=true", "--controls=false", "--lora_r=2")
    assert list(results) == ROWS[:2]
    assert (tmp_path / "new" / "checkpoint-1").is_dir()
    adapter = json.loads((tmp_path / "new" / "model" / "adapter_config.json").read_text())
    assert adapter["r"] == 2
    assert all("language_model" in name for name in adapter["target_modules"])


# Arguments


def arguments(*more: str) -> list[str]:
    return ["--data_dir=data", "--output_dir=out", "--use_cpu=true", "--report_to=none", *more]


def test_the_command_line_overrides_the_recipe(qvh: ModuleType) -> None:
    _, data_args, run_args, training_args = qvh.parse(arguments())
    assert run_args.recipe == "default"
    assert data_args.prefix_corruption == 0.3
    _, data_args, _, training_args = qvh.parse(arguments("--prefix_corruption=0.1", '--loss_weights={"lm": 1}'))
    assert data_args.prefix_corruption == 0.1
    assert training_args.loss_schedule(max_steps=1).at(0) == {"lm": 1.0}


def test_the_papers_recipe_is_the_papers(qvh: ModuleType) -> None:
    model_args, data_args, _, args = qvh.parse(arguments("--recipe=paper", "--bf16=false"))
    assert (data_args.num_frames, data_args.prompt, data_args.prefix_corruption) == (25, "paper", 0.0)
    assert (model_args.lora_r, model_args.lora_alpha, model_args.freeze_vision) == (16, 16, True)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 2 == 128  # two GPUs
    schedule = args.loss_schedule(max_steps=110)
    assert schedule.at(0) == {"lm": 1.0, "bce": 0.0, "tversky": 0.0, "generalized_dice": 0.0}
    assert schedule.at(59)["lm"] > schedule.at(60)["lm"] == pytest.approx(0.2)  # 6 of 11 epochs
    assert args.objectives()["bce"].pos_weight == 2.3378


def test_a_recipe_may_be_any_file(qvh: ModuleType, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("num_frames: 7\nloss_weights: {bce: 1}\n")
    _, data_args, _, training_args = qvh.parse(arguments(f"--recipe={recipe}"))
    assert data_args.num_frames == 7
    assert training_args.loss_schedule(max_steps=1).at(0) == {"lm": 0.0, "bce": 1.0}


def test_wrong_arguments_are_one_clear_line(
    qvh: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("learning_rat: 1\n")
    cases = [
        (["--recipe=papper"], "no recipe 'papper': use one of default, paper, or the path of a YAML file"),
        ([f"--recipe={tmp_path}/none.yaml"], "no recipe"),
        ([f"--recipe={misspelt}"], "sets unknown argument(s): learning_rat"),
    ]
    for more, message in cases:
        with pytest.raises(SystemExit) as caught:
            qvh.parse(arguments(*more))
        assert caught.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_videos_that_cannot_be_read_are_scored_but_teach_nothing(
    qvh: ModuleType, qvh_data: Path, qvh_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(qvh_data, folder)
    lost = {}
    for split in ("train", "val"):
        rows = read_annotations(folder / f"highlight_{split}_release.jsonl")
        (folder / "videos" / f"{rows[0]['vid']}.mp4").unlink()
        lost[split] = ([row["qid"] for row in rows], [row["qid"] for row in rows if row["vid"] == rows[0]["vid"]])
    model_args, data_args, _, training_args = qvh.parse(
        [f"--data_dir={folder}", f"--output_dir={tmp_path}/run", f"--model_name_or_path={qvh_base}", "--on_error=blank"]
        + [f"--cache_dir={tmp_path}/cache", "--use_cpu=true", "--frame_size=16"]
    )
    task = qvh.task_config(model_args, data_args, training_args)
    train, evaluation = qvh.read_splits(data_args, task, training_args)
    assert train["qid"][:] == [qid for qid in lost["train"][0] if qid not in lost["train"][1]] != []
    assert evaluation["qid"][:] == lost["val"][0]
    assert [row["qid"] for row in evaluation if row["frames_missing"]] == lost["val"][1]


def test_a_misspelt_decoder_is_one_line_before_videos_are_read(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: expected decoder to be one of runs, runs\+fill, .*, got 'run'"):
        run(tmp_path / "out", "--decoder=run", f"--data_dir={tmp_path / 'nowhere'}")


def test_processes_that_do_not_know_of_each_other_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_frameseg.training.checks.os", SimpleNamespace(environ={"WORLD_SIZE": "2"}))
    with pytest.raises(SystemExit, match="the launched processes are not joined: on CPU pass --use_cpu true"):
        run(tmp_path / "out")
