"""Scores of gathered decodes, the controls, the submission file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets import Dataset
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings
from hf_frameseg.training import evaluation
from hf_frameseg.training.evaluation import MomentRetrievalMetrics, shuffle_queries, with_blank_frames, write_submission

QIDS = [30, 10, 20]
MASKS = {30: [1, 1, 0, 0, 0], 10: [0, 0, 1, 0, 1], 20: [0, 0, 0, 0, 0]}
# log odds of "1"; softmax of (0, x) is sigmoid(x)
LOG_ODDS = {30: [2.0, 1.0, -1.0, -2.0, -3.0], 10: [-1.0, -1.0, 3.0, -1.0, 1.0], 20: [-3.0, -1.0, -2.0, -4.0, -5.0]}


@pytest.fixture
def rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Three queries over 10 s, qids in no order; frames of 2 s."""
    windows = {30: [[0.0, 4.0]], 10: [[4.0, 6.0], [8.0, 10.0]], 20: [[6.0, 10.0]]}
    return [make_row(qid, windows[qid], query=f"query {qid}") for qid in QIDS]


def decodes(qids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the trainer gathers: masks (N, 5), frame logits (N, 5, 2), qids (N,)."""
    log_odds = np.array([LOG_ODDS[qid] for qid in qids], dtype=np.float32)
    masks = np.array([MASKS[qid] for qid in qids], dtype=np.int8)
    return masks, np.stack([np.zeros_like(log_odds), log_odds], axis=-1), np.array(qids)


def test_predictions_by_hand(rows: list[dict[str, Any]]) -> None:
    first, second, third = MomentRetrievalMetrics(rows, PAPER_PROPOSALS).predictions(*decodes(QIDS))
    assert first.probs == pytest.approx(1 / (1 + np.exp(-np.array(LOG_ODDS[30]))))
    assert [(m.start, m.end) for m in first.moments] == [(0.0, 4.0)]
    assert first.moments[0].score == pytest.approx((first.probs[0] + first.probs[1]) / 2)
    assert [(m.start, m.end) for m in second.moments] == [(4.0, 6.0), (8.0, 10.0)]  # best first
    assert third.fallback
    assert [(m.start, m.end) for m in third.moments] == [(2.0, 4.0)]  # nothing decoded: the best frame
    assert (first.query, first.qid, first.vid) == ("query 30", 30, "video_30")


@pytest.mark.parametrize("order", [[30, 10, 20], [20, 30, 10], [10, 20, 30]])
def test_predictions_stand_in_row_order_whatever_the_decode_order(rows: list[dict[str, Any]], order: list[int]) -> None:
    found = MomentRetrievalMetrics(rows).predictions(*decodes(order))
    assert [prediction.qid for prediction in found] == QIDS
    assert [prediction.mask.astype(int).tolist() for prediction in found] == [MASKS[qid] for qid in QIDS]
    assert [prediction.probs.argmax() for prediction in found] == [0, 2, 1]


def test_the_default_fills_below_the_runs(rows: list[dict[str, Any]]) -> None:
    paper = MomentRetrievalMetrics(rows, PAPER_PROPOSALS).predictions(*decodes(QIDS))
    filled = MomentRetrievalMetrics(rows).predictions(*decodes(QIDS))
    for few, many in zip(paper, filled, strict=True):
        assert many.moments[: len(few.moments)] == few.moments
        assert len(many.moments) == 10
        assert many.saliency.tolist() == few.saliency.tolist()


def test_the_settings_reach_the_windows(rows: list[dict[str, Any]]) -> None:
    settings = ProposalSettings("runs", max_moments=1, empty="none")
    found = MomentRetrievalMetrics(rows, settings).predictions(*decodes(QIDS))
    assert [len(prediction.moments) for prediction in found] == [1, 1, 0]


@pytest.mark.parametrize("as_dataset", [False, True])
def test_predictions_lie_on_the_grid_of_their_rows(rows: list[dict[str, Any]], as_dataset: bool) -> None:
    rows = [row | grid_columns(FrameGrid.uniform(10, 5)) for row in rows]
    metrics = MomentRetrievalMetrics(Dataset.from_list(rows) if as_dataset else rows, PAPER_PROPOSALS)
    first = metrics.predictions(*decodes(QIDS))[0]
    assert first.grid == FrameGrid.uniform(10, 5)  # samples at 0, 2.5, 5, 7.5 and 10 s
    assert [(m.start, m.end) for m in first.moments] == [(0.0, 3.75)]


@pytest.mark.parametrize(
    ("qids", "count", "queries"), [([30, 10], 2, 2), ([30, 10, 20, 30], 4, 3), ([30, 10, 10], 3, 2), ([], 0, 0)]
)
def test_missing_and_duplicate_decodes_are_refused(
    rows: list[dict[str, Any]], qids: list[int], count: int, queries: int
) -> None:
    with pytest.raises(ValueError, match=f"one decode for each of 3 queries, got {count} for {queries} queries"):
        MomentRetrievalMetrics(rows).predictions(*decodes(qids))


def test_decodes_of_another_split_are_refused(rows: list[dict[str, Any]]) -> None:
    masks, logits, _ = decodes(QIDS)
    with pytest.raises(ValueError, match="evaluate the same split"):
        MomentRetrievalMetrics(rows).predictions(masks, logits, np.array([30, 10, 21]))


def test_rows_of_fewer_frames_lose_the_padding_of_the_gathering(make_row: Callable[..., dict[str, Any]]) -> None:
    # Batches of one row may differ in their number of frames; transformers fills up with -100.
    rows = [make_row(1, [[0.0, 2.0]], num_frames=5), make_row(2, [[5.0, 10.0]], num_frames=2)]
    masks = np.array([[1, 0, 0, 0, 0], [0, 1, -100, -100, -100]], dtype=np.int8)
    logits = np.zeros((2, 5, 2), dtype=np.float32)
    logits[1, 2:] = -100
    long, short = MomentRetrievalMetrics(rows, PAPER_PROPOSALS).predictions(masks, logits, np.array([1, 2]))
    assert (long.grid.num_frames, short.grid.num_frames) == (5, 2)
    assert [(m.start, m.end) for m in short.moments] == [(5.0, 10.0)]


def test_a_perfect_decode_scores_100(rows: list[dict[str, Any]]) -> None:
    from transformers import EvalPrediction

    masks, logits, qids = decodes(QIDS)
    masks[2] = [0, 0, 0, 1, 1]
    right = EvalPrediction(predictions=(masks.copy(), logits, qids), label_ids=masks)
    masks[2] = [1, 0, 0, 0, 0]
    wrong = EvalPrediction(predictions=(masks, logits, qids), label_ids=masks)
    for proposals in (PAPER_PROPOSALS, SCORING_PROPOSALS):
        metrics = MomentRetrievalMetrics(rows, proposals)
        scores = metrics(right)
        assert (scores["R1@0.5"], scores["R1@0.7"], scores["mAP"]) == (100.0, 100.0, 100.0)
        assert metrics(wrong)["R1@0.5"] == 66.67
    assert MomentRetrievalMetrics(rows, PAPER_PROPOSALS)(wrong)["mAP"] == 66.67
    assert metrics(wrong)["mAP"] > 66.67  # the right window is among the candidates below


def test_a_decode_becomes_a_prediction_once_and_is_scored_once(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import EvalPrediction

    done: list[str] = []

    def watched(name: str) -> None:
        function = getattr(evaluation, name)
        monkeypatch.setattr(evaluation, name, lambda *args, **kwargs: (done.append(name), function(*args, **kwargs))[1])

    for name in ("to_prediction", "evaluate_per_query"):
        watched(name)
    masks, logits, qids = decodes(QIDS)
    metrics = MomentRetrievalMetrics(rows, r1_thresholds=[0.3, 0.9])
    scores = metrics(EvalPrediction(predictions=(masks, logits, qids), label_ids=masks))
    assert {"R1@0.3", "R1@0.9", "mAP", "HIT@1"} <= scores.keys()
    assert done == ["to_prediction"] * len(rows) + ["evaluate_per_query"]


def test_metrics_of_a_data_set_equal_those_of_its_rows(rows: list[dict[str, Any]]) -> None:
    metrics = MomentRetrievalMetrics(rows)
    dataset = MomentRetrievalMetrics(Dataset.from_list(rows))
    assert metrics.ground_truth == dataset.ground_truth
    assert sorted(metrics.ground_truth[0]) == [
        "duration",
        "qid",
        "query",
        "relevant_clip_ids",
        "relevant_windows",
        "saliency_scores",
        "vid",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        SCORING_PROPOSALS,
        ProposalSettings("soft-iou", saliency_values="logits"),
        ProposalSettings("runs", ranking="log-odds", snap_seconds=2.0),
    ],
)
def test_whole_video(rows: list[dict[str, Any]], settings: ProposalSettings) -> None:
    metrics = MomentRetrievalMetrics(rows, settings)
    found = metrics.whole_video()
    assert [prediction.qid for prediction in found] == QIDS
    for prediction in found:
        assert [(m.start, m.end) for m in prediction.moments] == [(0.0, 10.0)]
        assert prediction.saliency.shape == (5,)
        assert np.ptp(prediction.saliency) == 0.0
    # IoU with the truths: 4 of 10 s, 2 of 10 s, 4 of 10 s
    assert metrics.score(found)["brief"]["MR-full-R1@0.5"] == 0.0


# Files


def test_a_submission_file_holds_floats_only(tmp_path: Path) -> None:
    prediction = FramePrediction(
        grid=FrameGrid.middle(4, 2),
        mask=np.array([True, False]),
        probs=np.array([0.75, 0.25]),
        moments=(Moment(0, 2, 1),),
        saliency=np.array([1, 0]),
        query="ein Gänseblümchen",
        qid=np.int64(7),
        vid="v",
    )
    path = tmp_path / "submission.jsonl"
    write_submission(path, [prediction, prediction])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    row = json.loads(lines[0])
    assert list(row) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    assert (type(row["qid"]), row["query"]) == (int, "ein Gänseblümchen")
    assert row["pred_relevant_windows"] == [[0.0, 2.0, 1.0]]
    assert {type(x) for x in [*row["pred_relevant_windows"][0], *row["pred_saliency_scores"]]} == {float}


# Controls


@pytest.fixture
def collator(tiny_processor: Any) -> FrameSegmentationCollator:
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    return FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="compact", train=False)


def test_blank_frames_change_the_pixels_and_nothing_else(
    rows: list[dict[str, Any]], collator: FrameSegmentationCollator
) -> None:
    prompts = collator.without_answers()
    for seeing, blanked in (
        (collator, with_blank_frames(collator)),
        (prompts, with_blank_frames(collator).without_answers()),
    ):
        seen, blank = seeing(rows), blanked(rows)
        assert seen["pixel_values"].std() > 0.1
        assert torch.equal(blank.pop("pixel_values"), torch.zeros_like(seen.pop("pixel_values")))
        assert seen.keys() == blank.keys()
        targets, others = seen.pop("targets"), blank.pop("targets")
        assert all(torch.equal(seen[key], blank[key]) for key in seen)
        assert targets.keys() == others.keys()
        assert all(torch.equal(targets[key], others[key]) for key in targets)
    assert "labels" not in targets
    with pytest.raises(KeyError, match="expected pixel_values or pixel_values_videos in the batch, got input_ids"):
        with_blank_frames(lambda rows: {"input_ids": torch.ones(1)})(rows)


def queries_and_videos(pairs: list[tuple[str, str]]) -> Dataset:
    queries, vids = zip(*pairs, strict=True)
    return Dataset.from_dict({"qid": list(range(len(pairs))), "vid": list(vids), "query": list(queries)})


PAIRS = [(query, f"v{video}") for video in range(12) for query in ("a red circle", f"a cross {video}", "a blue square")]


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_queries_are_other_texts_of_other_videos(seed: int) -> None:
    before = queries_and_videos(PAIRS)
    after = shuffle_queries(before, seed)
    own = {vid: {query for query, other in PAIRS if other == vid} for _, vid in PAIRS}
    for old, new, vid in zip(before["query"], after["query"], before["vid"], strict=True):
        assert new != old
        assert any(new == query and other != vid for query, other in PAIRS)
        assert new not in own[vid]  # the same text may be asked of this video too
    assert (after["qid"], after["vid"]) == (before["qid"], before["vid"])
    assert list(before["query"]) == [query for query, _ in PAIRS]


def test_shuffling_follows_the_seed() -> None:
    dataset = queries_and_videos(PAIRS)
    first, again, other = (list(shuffle_queries(dataset, seed)["query"]) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_r1_at_further_thresholds(rows: list[dict[str, Any]]) -> None:
    from transformers import EvalPrediction

    masks, logits, qids = decodes(QIDS)
    decoded = EvalPrediction(predictions=(masks, logits, qids), label_ids=masks)
    plain = MomentRetrievalMetrics(rows, PAPER_PROPOSALS)(decoded)
    scores = MomentRetrievalMetrics(rows, PAPER_PROPOSALS, r1_thresholds=[0.3, 0.5, 1e-6])(decoded)
    assert {name: scores[name] for name in plain} == plain
    assert scores.keys() - plain.keys() == {"R1@0.3", "R1@1e-06"}
    assert scores["R1@1e-06"] >= scores["R1@0.3"] >= scores["R1@0.5"]
    with pytest.raises(ValueError, match="IoU thresholds above 0 and up to 1, got 2"):
        MomentRetrievalMetrics(rows, r1_thresholds=[2])


@pytest.mark.parametrize(
    "pairs",
    [
        [("a dog", "v0"), ("a cat", "v0")],
        [("a dog", "v0"), ("a dog", "v1")],
        [("a dog", "v0"), ("a cat", "v0"), ("a dog", "v1")],
    ],
    ids=["one video", "one text", "all texts of the other video are asked here too"],
)
def test_queries_that_cannot_be_shuffled_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="cannot shuffle queries: no other video has another query than") as caught:
        shuffle_queries(queries_and_videos(pairs))
    assert "\n" not in str(caught.value)


def test_made_up_ratings_give_no_highlight_scores_and_rows_keep_their_grid(rows: list[dict[str, Any]]) -> None:
    from transformers import EvalPrediction

    masks, logits, qids = decodes(QIDS)
    decoded = EvalPrediction(predictions=(masks, logits, qids), label_ids=masks)
    uniform = FrameGrid.uniform(10, 5)
    made_up = [{**row, "saliency_source": "window", **grid_columns(uniform)} for row in rows]
    for some in (made_up, Dataset.from_list(made_up)):
        metrics = MomentRetrievalMetrics(some, PAPER_PROPOSALS)
        scores = metrics(decoded)
        assert "R1@0.5" in scores
        assert not {"HL-mAP", "HIT@1"} & scores.keys()
        assert metrics.predictions(masks, logits, qids)[0].grid == uniform
    assert "HIT@1" in MomentRetrievalMetrics([{**row, "saliency_source": "annotators"} for row in rows])(decoded)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_rated_queries_are_scored_though_others_have_made_up_ratings(
    as_dataset: bool, rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import EvalPrediction

    masks, logits, qids = decodes(QIDS)
    sources = ("annotators", "window", "annotators")
    mixed = [{**row, "saliency_source": source} for row, source in zip(rows, sources, strict=True)]
    metrics = MomentRetrievalMetrics(Dataset.from_list(mixed) if as_dataset else mixed)
    scores = metrics(EvalPrediction(predictions=(masks, logits, qids), label_ids=masks))
    assert "highlight scores: 1 of 3 queries have no ratings; the others are scored" in caplog.text
    rated = MomentRetrievalMetrics([rows[0], rows[2]])
    alone = rated(EvalPrediction(predictions=(masks[[0, 2]], logits[[0, 2]], qids[[0, 2]]), label_ids=masks[[0, 2]]))
    whole = MomentRetrievalMetrics(rows)(EvalPrediction(predictions=(masks, logits, qids), label_ids=masks))
    assert (scores["HL-mAP"], scores["HIT@1"]) == (alone["HL-mAP"], alone["HIT@1"])
    assert (scores["mAP"], scores["R1@0.5"]) == (whole["mAP"], whole["R1@0.5"])
    nested = metrics.score(metrics.predictions(masks, logits, qids))
    assert nested["HL-min-VeryGood"]["HL-mAP"] == alone["HL-mAP"]


def test_text_qids(rows: list[dict[str, Any]]) -> None:
    names = {30: "a-1", 10: "10", 20: "ü"}
    metrics = MomentRetrievalMetrics([{**row, "qid": names[row["qid"]]} for row in rows])
    masks, logits, qids = decodes([20, 30, 10])
    found = metrics.predictions(masks, logits, np.array([names[qid] for qid in qids.tolist()], dtype=object))
    assert [prediction.qid for prediction in found] == ["a-1", "10", "ü"]
    assert metrics.score(found) == MomentRetrievalMetrics(rows).score(
        MomentRetrievalMetrics(rows).predictions(masks, logits, qids)
    )


def test_metrics_for_other_rows_keep_their_settings(rows: list[dict[str, Any]]) -> None:
    metrics = MomentRetrievalMetrics(rows, PAPER_PROPOSALS)
    part = metrics.for_rows(rows[:2])
    assert list(part.samples) == QIDS[:2]
    assert list(metrics.samples) == QIDS
    found = part.predictions(*decodes(QIDS[:2]))
    assert [len(prediction.moments) for prediction in found] == [1, 2]


def test_rows_that_cannot_be_scored_are_refused(rows: list[dict[str, Any]]) -> None:
    bare = [{key: value for key, value in row.items() if key != "relevant_windows"} for row in rows]
    for some in (bare, Dataset.from_list(bare)):
        with pytest.raises(ValueError, match=r"column\(s\) \['relevant_windows'\] to score them") as caught:
            MomentRetrievalMetrics(some)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="qid 30 stands in two rows"):
        MomentRetrievalMetrics([*rows, rows[0]])
