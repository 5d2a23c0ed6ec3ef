"""The table of controls: each row decoded once, made into predictions once, scored once and written once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig

from datasets import Dataset
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, SCORING_PROPOSALS
from hf_frameseg.sharing.adapters import snapshot_adapter
from hf_frameseg.training.controls import (
    BASE_ROW,
    BLANK_ROW,
    PAPER_ROW,
    SHUFFLED_ROW,
    WHOLE_VIDEO_ROW,
    EvaluationWithControls,
    decode_rows,
    results_table,
    when_base_is_decoded,
)
from hf_frameseg.training.evaluation import MomentRetrievalMetrics
from hf_frameseg.training.results import MODEL_ROW, ResultsFolder

CONTROLS = [BASE_ROW, BLANK_ROW, SHUFFLED_ROW, WHOLE_VIDEO_ROW]
ROWS = [MODEL_ROW, PAPER_ROW, *CONTROLS]
LORA = {"r": 2, "target_modules": r".*language_model.*\.qkv_proj", "task_type": "CAUSAL_LM"}


@pytest.fixture
def rows(eight_rows: list[dict[str, Any]]) -> Dataset:
    """Three queries, one a video."""
    return Dataset.from_list(eight_rows[:3])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often predictions are made and scored, and which files are written."""
    counts: Counter[str] = Counter()

    def count(owner: type, name: str, what: Any) -> None:
        original = getattr(owner, name)

        def counting(self: Any, *args: Any) -> Any:
            counts[what(*args) if callable(what) else what] += 1
            return original(self, *args)

        monkeypatch.setattr(owner, name, counting)

    count(FramePrediction, "__post_init__", "predictions")
    count(MomentRetrievalMetrics, "score", "scorings")
    count(ResultsFolder, "write_predictions", lambda row, predictions: f"frames of {row}")
    return counts


@pytest.mark.parametrize("adapter", [False, True], ids=["whole model", "adapter"])
def test_each_decode_becomes_a_prediction_once_and_each_row_is_scored_once(
    make_trainer: Any, rows: Dataset, tmp_path: Path, counted: Counter[str], adapter: bool
) -> None:
    peft_config = LoraConfig(**LORA) if adapter else None
    trainer = make_trainer(rows, eval_dataset=rows, peft_config=peft_config)
    folder, said = ResultsFolder(tmp_path / "out"), []
    evaluation = EvaluationWithControls(trainer, folder=folder, say=said.append)
    evaluation.decode_base_first()
    trainer.train()
    results = evaluation.run()
    folder.write_figures(rows, evaluation.marked, results, count=2)
    assert list(results) == list(evaluation.predictions) == ROWS
    assert counted.pop("predictions") == len(ROWS) * len(rows)
    assert counted.pop("scorings") == len(ROWS)
    assert counted == {f"frames of {name}": 1 for name in ROWS if name != PAPER_ROW}
    decoded = [MODEL_ROW, BASE_ROW] if adapter else [BASE_ROW, MODEL_ROW]
    assert said == [f"decoding 3 queries: {name}" for name in (*decoded, BLANK_ROW, SHUFFLED_ROW)]
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())) == ROWS


def test_rows_say_how_they_were_made(make_trainer: Any, rows: Dataset) -> None:
    trainer = make_trainer(rows, eval_dataset=rows)
    made_by = {name: row["frameseg"] for name, row in EvaluationWithControls(trainer, trained=False).run().items()}
    assert BASE_ROW not in made_by  # it is what was scored
    assert {name: (row["num_frames"], row["readout"], row["num_beams"]) for name, row in made_by.items()} == {
        **dict.fromkeys((MODEL_ROW, PAPER_ROW, BLANK_ROW, SHUFFLED_ROW), (5, "beam", 2)),
        WHOLE_VIDEO_ROW: (1, None, None),
    }
    assert made_by[MODEL_ROW]["proposals"] == SCORING_PROPOSALS.to_dict()
    assert made_by[PAPER_ROW]["proposals"] == PAPER_PROPOSALS.to_dict()


def test_the_metrics_of_the_trainer_score_and_are_left_as_they_were(make_trainer: Any, rows: Dataset) -> None:
    metrics = MomentRetrievalMetrics(rows, PAPER_PROPOSALS)
    trainer = make_trainer(rows, eval_dataset=rows, compute_metrics=metrics)
    collator = trainer.eval_data_collator
    evaluation = EvaluationWithControls(trainer, rows.select([0, 1]), trained=False)
    assert list(evaluation.run()) == [MODEL_ROW, *CONTROLS[1:]]  # by the paper's windows there is no second row
    assert [prediction.qid for prediction in evaluation.marked] == [1, 2]
    assert trainer.compute_metrics is metrics
    assert trainer.eval_data_collator is collator


def test_without_controls_there_is_the_model_alone(make_trainer: Any, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(rows, eval_dataset=rows)
    evaluation = EvaluationWithControls(trainer, controls=False)
    evaluation.decode_base_first()
    assert list(evaluation.run()) == [MODEL_ROW, PAPER_ROW]
    assert list(tmp_path.rglob("*.json*")) == []


def test_the_base_of_an_adapter_answers_as_before_the_training(make_trainer: Any, rows: Dataset) -> None:
    pissa = LoraConfig(**LORA, init_lora_weights="pissa")
    trainer = make_trainer(rows, eval_dataset=rows, peft_config=pissa)
    before = decode_rows(trainer, rows, MomentRetrievalMetrics(rows))
    evaluation = EvaluationWithControls(trainer, initial_adapter=snapshot_adapter(trainer.model))
    trainer.train()
    evaluation.run()
    for one, other, trained in zip(
        before, evaluation.predictions[BASE_ROW], evaluation.predictions[MODEL_ROW], strict=True
    ):
        assert np.allclose(one.log_odds, other.log_odds, atol=1e-5)
        assert not np.allclose(one.log_odds, trained.log_odds, atol=1e-5)


def test_one_split_is_needed(make_trainer: Any, rows: Dataset) -> None:
    for several in (None, {"first": rows}):
        with pytest.raises(ValueError, match="expected one split to evaluate"):
            EvaluationWithControls(make_trainer(rows, eval_dataset=several))
    with pytest.raises(ValueError, match="cannot shuffle queries"):
        EvaluationWithControls(make_trainer(rows, eval_dataset=rows.select([0])))


@pytest.mark.parametrize(
    ("init", "zero_stage", "fsdp", "when"),
    [
        (None, None, False, "before"),
        (None, 1, False, "never"),  # DeepSpeed has no engine yet
        (None, 2, False, "never"),
        (None, 3, False, "before"),
        (True, None, False, "after"),
        (True, 3, False, "after"),
        (True, None, True, "after"),
        ("pissa", None, False, "after"),
        ("pissa", 2, False, "after"),
        ("pissa", 3, False, "never"),  # its parts of A and B cannot be set back
        ("pissa", None, True, "never"),
    ],
)
def test_when_the_base_is_decoded(init: Any, zero_stage: int | None, fsdp: bool, when: str) -> None:
    model = SimpleNamespace()
    if init is not None:
        config = LoraConfig(init_lora_weights=init)
        model = SimpleNamespace(peft_config={"default": config}, get_base_model=None)
    plugin = None if zero_stage is None else SimpleNamespace(zero_stage=zero_stage)
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        args=SimpleNamespace(deepspeed_plugin=plugin),
        is_fsdp_enabled=fsdp,
    )
    assert when_base_is_decoded(trainer) == when


def test_what_cannot_be_decoded_is_said(make_trainer: Any, rows: Dataset) -> None:
    trainer = make_trainer(rows, eval_dataset=rows)
    trainer.args.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    said: list[str] = []
    evaluation = EvaluationWithControls(trainer, say=said.append)
    assert said == [f"left out: {BASE_ROW}, which cannot be decoded in this launch"]
    trainer.args.deepspeed_plugin = None
    evaluation.decode_base_first()
    assert said[1:] == []
    EvaluationWithControls(trainer, controls=False, say=said.append)
    assert len(said) == 1


def test_a_table_has_a_line_per_row() -> None:
    lines = results_table({"model": {"brief": {"MR-full-R1@0.5": 61.004}}, "whole video": {"brief": {}}}).splitlines()
    assert lines[0].split() == ["R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "HL-mAP", "HIT@1"]
    assert lines[1] == "model           61.00" + "         -" * 6
    assert lines[2] == "whole video" + "         -" * 7
