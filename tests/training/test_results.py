"""The output folder of a run: which files, whole or not at all, and nothing of an earlier model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from datasets import Dataset
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.frames_file import read_frames_file
from hf_frameseg.proposals.prediction import to_prediction
from hf_frameseg.sharing.adapter_folder import load_adapter
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.training.results import (
    MODEL_ROW,
    ResultsFolder,
    add_scores_to_card,
    drawn_rows,
    picture_name,
    save_trained,
)
from hf_frameseg.video.settings import FrameSettings

CONFIG = FrameSegmentationConfig(FrameSettings(num_frames=5, frame_size=16), prompt="compact")
BRIEF = {"brief": {"MR-full-mAP": 35.28}, "full": {"MR-R1": {"0.5": 1.0}}}


def predictions(count: int = 2) -> list[FramePrediction]:
    grid, logits = FrameGrid.middle(duration_seconds=10, num_frames=5), [[0.0, 1.0], [0.0, 2.0], *[[0.0, -1.0]] * 3]
    return [to_prediction([1, 1, 0, 0, 0], logits, grid, query="a dog", qid=qid, vid="v") for qid in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_predictions_go_into_files_by_row_and_split(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, split="test")
    folder.write_predictions(MODEL_ROW, predictions())
    folder.write_predictions("blank frames", predictions())
    assert names(tmp_path) == [
        "frames/hl_test_blank_frames.jsonl",
        "hl_test_frames.jsonl",
        "hl_test_submission.jsonl",
    ]
    (first, _) = (json.loads(line) for line in folder.submission.read_text().splitlines())
    assert first == predictions()[0].to_submission()
    assert [one.log_odds.tolist() for one in read_frames_file(folder.frames(MODEL_ROW))] == [[1, 2, -1, -1, -1]] * 2


def test_rows_of_an_earlier_run_go_when_the_model_is_written(tmp_path: Path) -> None:
    ResultsFolder(tmp_path, "test").write_predictions("blank frames", predictions())
    folder = ResultsFolder(tmp_path, "val")
    folder.write_predictions("blank frames", predictions())
    folder.write_predictions(MODEL_ROW, predictions())
    assert names(tmp_path / "frames") == ["hl_test_blank_frames.jsonl"]  # another split is not touched


def test_metrics_have_the_brief_numbers_on_top_too(tmp_path: Path) -> None:
    ResultsFolder(tmp_path).write_metrics({"model": BRIEF})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"model": {"MR-full-mAP": 35.28, **BRIEF}}


def test_clearing_leaves_what_is_no_result(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.write_predictions(MODEL_ROW, predictions())
    folder.write_predictions("blank frames", predictions())
    folder.write_metrics({"model": BRIEF})
    for name in ("note.txt", "model/weights", "figures/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    folder.clear()
    assert names(tmp_path) == ["model/weights", "note.txt"]


def test_a_place_that_cannot_take_the_model_is_refused(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "new" / "run")
    folder.check()
    folder.model.mkdir()
    folder.check()
    (folder.model / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something that is no model of this package"):
        folder.check()
    CONFIG.save(folder.model)
    folder.check()
    assert names(folder.path) == ["model/frameseg_config.json", "model/thesis.tex"]
    with pytest.raises(OSError, match="thesis"):
        ResultsFolder(folder.model / "thesis.tex").check()


@pytest.mark.parametrize(
    ("num_rows", "count", "expected"), [(10, 4, [0, 3, 6, 9]), (2, 4, [0, 1]), (5, 1, [0]), (5, 0, []), (0, 4, [])]
)
def test_pictures_are_spread_over_the_split(num_rows: int, count: int, expected: list[int]) -> None:
    assert drawn_rows(num_rows, count) == expected


def test_a_qid_that_is_a_text_names_a_picture_inside_the_folder() -> None:
    assert picture_name(17) == "prediction_17.png"
    assert picture_name("../../a 1\x1b") == "prediction_______a_1_.png"
    assert len(picture_name("x" * 9999)) < 255


def test_figures_show_the_predictions_they_are_given(
    eight_rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hf_frameseg.visualization as visualization

    drawn = []
    draw = visualization.qualitative_figure
    monkeypatch.setattr(visualization, "qualitative_figure", lambda one, **more: drawn.append(one) or draw(one, **more))
    rows, found = Dataset.from_list(eight_rows[:3]), predictions(3)
    folder = ResultsFolder(tmp_path)
    folder.write_figures(rows, found, {"model": BRIEF}, count=2)
    assert names(tmp_path) == [f"figures/{name}.png" for name in ("comparison", "prediction_1", "prediction_3")]
    assert drawn == [found[0], found[2]]  # as they are: nothing is decoded again
    folder.write_figures(rows, found, {"model": BRIEF}, [{"step": 1, "loss": 1.0, "loss_lm": 1.0}], count=0)
    assert "figures/training_curves.png" in names(tmp_path)


def test_a_whole_model_is_saved_whole(make_trainer: Any, tiny_processor: Any, tmp_path: Path) -> None:
    trainer = make_trainer(processing_class=tiny_processor)
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("of an earlier model")
    assert save_trained(trainer, folder, CONFIG) is None
    assert FrameSegmentationConfig.load(folder) == CONFIG
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items() if name in saved)
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.fixture
def adapted(make_trainer: Any, tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> Any:
    """A trainer with an adapter on a base that lies in a folder."""
    from hf_frameseg.sharing.loading import load_base

    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "base")
    CONFIG.save(tmp_path / "base")
    peft_config = LoraConfig(r=2, target_modules=r".*language_model.*\.qkv_proj", task_type="CAUSAL_LM")
    model = load_base(tmp_path / "base")
    return make_trainer(model=model, peft_config=peft_config, processing_class=tiny_processor)


def test_an_adapter_is_saved_and_its_card_gets_the_scores(adapted: Any, tmp_path: Path) -> None:
    card = {"recipe": {"lora_r": 2}, "dataset": "synthetic"}
    assert save_trained(adapted, tmp_path / "model", CONFIG, **card) is None
    assert load_adapter(tmp_path / "model")[2].prompt == "compact"
    assert "Not measured." in (tmp_path / "model" / "README.md").read_text()
    add_scores_to_card(tmp_path / "model", {"model": BRIEF}, **card)
    written = (tmp_path / "model" / "README.md").read_text()
    assert "35.28" in written
    assert '"lora_r": 2' in written
    assert "synthetic videos" in written


def test_a_refused_adapter_is_kept_and_said(adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(*args: Any, **kwargs: Any) -> None:
        raise ValueError("it differs by 0.2 in a logit")

    monkeypatch.setattr("hf_frameseg.sharing.adapter_folder.compare", differs)
    assert "it differs by 0.2 in a logit" in save_trained(adapted, tmp_path / "model", CONFIG)
    assert (tmp_path / "model.refused").is_dir()
    assert not (tmp_path / "model").exists()
