"""What a model says, as a value and as the row of a submission."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction


class TestFramePrediction:
    @pytest.fixture
    def prediction(self) -> FramePrediction:
        return FramePrediction(
            grid=FrameGrid.middle(6, 3),
            mask=np.array([False, True, True]),
            probs=np.array([0.1, 0.7, 0.8]),
            moments=(Moment(2, 6, 0.75),),
            saliency=np.array([0.1, 0.7, 1 / 3]),
            query="a red circle",
            qid=np.int64(7),
            vid="abc",
        )

    def test_submission_row_has_floats_only(self, prediction: FramePrediction) -> None:
        row = prediction.to_submission()
        assert row == {
            "qid": 7,
            "query": "a red circle",
            "vid": "abc",
            "pred_relevant_windows": [[2.0, 6.0, 0.75]],
            "pred_saliency_scores": [0.1, 0.7, 1 / 3],
        }
        assert type(row["qid"]) is int
        assert all(type(value) is float for value in row["pred_relevant_windows"][0] + row["pred_saliency_scores"])

    def test_submission_row_survives_json_unrounded(self, prediction: FramePrediction) -> None:
        row = prediction.to_submission()
        assert json.loads(json.dumps(row)) == row

    def test_submission_needs_a_qid(self, prediction: FramePrediction) -> None:
        with pytest.raises(ValueError, match="qid"):
            dataclasses.replace(prediction, qid=None).to_submission()

    def test_a_text_qid_stays_a_text(self, prediction: FramePrediction) -> None:
        assert dataclasses.replace(prediction, qid="s34-d28_0").to_submission()["qid"] == "s34-d28_0"

    @pytest.mark.parametrize(
        ("field", "value"), [("mask", [True]), ("probs", [0.1, 0.2]), ("saliency", [[0.1]]), ("mask", [0, 2, 1])]
    )
    def test_arrays_that_do_not_fit_are_refused(self, prediction: FramePrediction, field: str, value: list) -> None:
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(prediction, **{field: np.array(value)})

    def test_does_not_share_memory_with_the_caller(self, prediction: FramePrediction) -> None:
        probs = np.array([0.1, 0.2, 0.3])
        changed = dataclasses.replace(prediction, probs=probs)
        probs[0] = 9
        assert changed.probs[0] == 0.1
