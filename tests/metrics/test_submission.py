"""Whole submissions: recorded official results, defined results where it crashes, and a slow reference."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hf_frameseg.metrics import (
    bootstrap_intervals,
    count_queries,
    evaluate_per_query,
    evaluate_submission,
    headline,
    query_table,
    summarize_per_query,
    tasks_left_out,
)

CASES = Path(__file__).resolve().parents[1] / "data" / "metric" / "crashes.json"
RECORDED = {case["name"]: case for case in json.loads(CASES.read_text(encoding="utf-8"))}
ACCEPTED = [name for name, case in RECORDED.items() if case["error"] is None]

SCORED_HERE = {
    "empty pred_relevant_windows for one query": {"MR-full-mAP": 63.33, "MR-full-R1@0.5": 66.67, "MR-long-mAP": 0.0},
    "empty pred_relevant_windows for one query (others share its length ranges)": {
        "MR-full-mAP": 63.33,
        "MR-full-R1@0.5": 66.67,
        "MR-long-mAP": 100.0,
    },
    "empty pred_relevant_windows for every query": {"MR-full-mAP": 0.0, "MR-full-R1@0.5": 0.0, "MR-short-mAP": 0.0},
    "no GT window in the short range": {"MR-short-mAP": None, "MR-long-mAP": 100.0},
    "no GT window in the middle range": {"MR-middle-mAP": None, "MR-short-mAP": 100.0},
    "GT window > 150 s only": {"MR-long-mAP": None, "MR-full-R1@0.5": 66.67},
}
REFUSED = sorted(set(RECORDED) - set(ACCEPTED) - set(SCORED_HERE))

BASE = RECORDED["baseline ok"]


def score(case: dict[str, Any]) -> dict[str, Any]:
    return evaluate_submission(case["submission"], case["ground_truth"], match_number=case["match_number"])


def assert_per_query_equal(per_query: dict[str, np.ndarray], recorded: list[dict[str, Any]]) -> None:
    position = {qid: q for q, qid in enumerate(per_query["qid"].tolist())}
    order = [position[row["qid"]] for row in recorded]
    assert sorted(order) == list(range(len(per_query["qid"])))
    pairs = [(name, [row[name] for row in recorded]) for name in ("mr_ap", "r1_iou", "r1_gt_index", "hl_argmax")]
    for rating in ("Fair", "Good", "VeryGood"):
        pairs.append((f"hl_ap_{rating}", [row["hl_ap"][rating] for row in recorded]))
        pairs.append((f"hl_hit_{rating}", [row["hl_hit"][rating] for row in recorded]))
    for name, expected in pairs:
        np.testing.assert_allclose(per_query[name][order], expected, rtol=0, atol=1e-9, err_msg=name)


def test_synthetic_case_equals_the_official_result(metric_data: Path, read_rows: Callable) -> None:
    truth = read_rows(metric_data / "gt_synthetic.jsonl.gz")
    submission = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    expected = json.loads((metric_data / "t01_synthetic_gt.result.json").read_text(encoding="utf-8"))
    result = evaluate_submission(submission, truth)
    assert result == expected
    assert list(result) == list(expected)
    assert list(result["brief"]) == list(expected["brief"])
    recorded = read_rows(metric_data / "t01_synthetic_gt.perquery.jsonl.gz")
    assert_per_query_equal(evaluate_per_query(submission, truth), recorded)


def test_all_recorded_cases_equal_the_official_results(shared_dir: Path, read_rows: Callable) -> None:
    folder = shared_dir / "goldens" / "metric"
    truths: dict[str, list[dict[str, Any]]] = {}
    for case in json.loads((folder / "index.json").read_text(encoding="utf-8")):
        truth = truths.setdefault(case["gt"], read_rows(folder / case["gt"]))
        submission = read_rows(folder / case["preds"])
        expected = json.loads((folder / case["result"]).read_text(encoding="utf-8"))
        assert evaluate_submission(submission, truth, match_number=case["match_number"]) == expected, case["name"]
        if "perquery" in case:
            assert_per_query_equal(evaluate_per_query(submission, truth), read_rows(folder / case["perquery"]))


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_inputs_get_the_official_numbers(name: str) -> None:
    assert score(RECORDED[name]) == RECORDED[name]["result"]


@pytest.mark.parametrize("name", SCORED_HERE)
def test_inputs_with_a_defined_result_where_the_official_code_crashes(name: str) -> None:
    brief = score(RECORDED[name])["brief"]
    assert {key: brief[key] for key in SCORED_HERE[name]} == SCORED_HERE[name]


@pytest.mark.parametrize("name", REFUSED)
def test_other_inputs_that_crash_the_official_code_get_one_clear_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"; .*(add|check|write|correct|use) ") as caught:
        score(RECORDED[name])
    message = str(caught.value)
    assert "\n" not in message
    assert "qid" in message


def test_a_range_without_truths_keeps_its_keys_and_is_null_in_json() -> None:
    result = score(RECORDED["no GT window in the short range"])
    assert set(result["short"]["MR-mAP"]) == set(result["full"]["MR-mAP"])
    assert set(result["short"]["MR-mAP"].values()) == set(result["short"]["MR-R1"].values()) == {None}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_query_without_windows_stays_in_every_mean() -> None:
    submission = copy.deepcopy(BASE["submission"])
    submission[0]["pred_relevant_windows"] = []
    per_query = evaluate_per_query(submission, BASE["ground_truth"])
    assert per_query["mr_ap"][0].tolist() == [0] * 10
    assert (per_query["r1_iou"][0], per_query["r1_gt_index"][0]) == (0, -1)
    full = evaluate_submission(submission, BASE["ground_truth"])["full"]
    assert full["MR-mAP"]["0.5"] == float(f"{100 * per_query['mr_ap'][:, 0].mean():.2f}") < 100


def test_nan_saliency_beyond_the_video_is_a_miss_and_not_an_error() -> None:
    submission = copy.deepcopy(BASE["submission"])
    submission[2]["pred_saliency_scores"].append(float("nan"))
    per_query = evaluate_per_query(submission, BASE["ground_truth"])
    assert per_query["hl_argmax"][2] == 10
    assert per_query["hl_hit_Fair"][2] == 0


def random_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Windows on a coarse or a fine grid (ties, exact thresholds, inverted ones), few distinct scores, any duration."""
    rng = np.random.default_rng(seed)
    step = [1.0, 2.0, 0.1][seed % 3]
    submission, truth = [], []
    for qid in range(1, 9):
        duration = float(rng.choice([2, 3, 7.5, 30, 41, 150, 151.9]))
        num_clips = int(duration / 2)
        starts = rng.integers(0, int(duration / step), rng.integers(1, 6)) * step
        lengths = rng.integers(1, 40, len(starts)) * step
        clips = rng.permutation(num_clips)[: rng.integers(1, num_clips + 1)]
        ratings = rng.integers(0, 5, (len(clips), 3))
        if qid == 1:
            ratings[:] = rng.choice([0, 4])
        truths = np.stack([starts, starts + lengths], axis=1).tolist()
        windows = []
        for _ in range(rng.integers(0, 14)):
            start, end = truths[rng.integers(len(truths))]
            shift = rng.integers(-3, 4, 2) * step
            window = [start + shift[0], end + shift[1]]
            windows.append([*(window[::-1] if rng.random() < 0.1 else window), float(rng.integers(0, 4))])
        kind = [rng.normal, lambda size: rng.integers(-2, 3, size).astype(float)][rng.integers(2)]
        saliency = kind(size=max(1, num_clips + rng.integers(-3, 4))).tolist()
        submission.append({"qid": qid, "pred_relevant_windows": windows, "pred_saliency_scores": saliency})
        truth.append(
            {
                "qid": qid,
                "duration": duration,
                "relevant_windows": truths,
                "relevant_clip_ids": clips.tolist(),
                "saliency_scores": ratings.tolist(),
            }
        )
    return submission, truth


@pytest.mark.parametrize("seed", range(30))
def test_random_submissions_equal_the_slow_reference(seed: int, slow_reference: ModuleType) -> None:
    submission, truth = random_case(seed)
    result = evaluate_submission(submission, truth)
    del result["brief"]
    expected = slow_reference.evaluate(submission, truth)

    def leaves(node: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
        if not isinstance(node, dict):
            return {path: node}
        return {key: value for name, part in node.items() for key, value in leaves(part, (*path, name)).items()}

    # one hundredth: the reference sums in another order, so a half may round to the other side
    assert leaves(result) == {key: pytest.approx(value, abs=0.0101) for key, value in leaves(expected).items()}


@pytest.mark.parametrize("seed", range(30))
def test_each_query_equals_the_slow_reference(seed: int, slow_reference: ModuleType) -> None:
    submission, truth = random_case(seed)
    per_query = evaluate_per_query(submission, truth)
    for q, (row, annotation) in enumerate(zip(submission, truth, strict=True)):
        windows, truths = row["pred_relevant_windows"], annotation["relevant_windows"]
        expected = [slow_reference.window_ap(windows[:10], truths, limit) for limit in slow_reference.THRESHOLDS]
        assert per_query["mr_ap"][q] == pytest.approx(expected, abs=1e-12)
        iou, index = slow_reference.first_window(windows, truths)
        assert (per_query["r1_iou"][q], per_query["r1_gt_index"][q]) == (pytest.approx(iou, abs=1e-12), index)
        for name, minimum in slow_reference.RATINGS.items():
            labels = slow_reference.per_annotator_labels(annotation, minimum)
            fitted = (row["pred_saliency_scores"] + [0.0] * len(labels[0]))[: len(labels[0])]
            precisions = [slow_reference.clip_ap(one, fitted) for one in labels]
            assert per_query[f"hl_ap_{name}"][q] == pytest.approx(precisions, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    submission, truth = random_case(seed)
    rng = np.random.default_rng(seed)
    shuffled = [submission[i] for i in rng.permutation(len(submission))]
    truth_shuffled = [truth[i] for i in rng.permutation(len(truth))]
    assert evaluate_submission(shuffled, truth_shuffled) == evaluate_submission(submission, truth)
    first, second = evaluate_per_query(submission, truth), evaluate_per_query(shuffled, truth_shuffled)
    order = np.argsort(second["qid"])
    for name in first:
        np.testing.assert_array_equal(first[name], second[name][order], err_msg=name)


def test_inputs_are_not_changed() -> None:
    case = copy.deepcopy(BASE)
    score(case)
    assert case == BASE


def test_means_of_the_per_query_arrays_are_the_results(metric_data: Path, read_rows: Callable) -> None:
    truth = read_rows(metric_data / "gt_synthetic.jsonl.gz")
    submission = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    per_query, brief = evaluate_per_query(submission, truth), evaluate_submission(submission, truth)["brief"]
    assert np.isnan(per_query["short_mr_ap"]).any()
    assert brief["MR-short-mAP"] == pytest.approx(100 * np.nanmean(per_query["short_mr_ap"]), abs=0.005)
    assert brief["MR-full-R1@0.7"] == pytest.approx(100 * (per_query["r1_iou"] >= 0.7).mean(), abs=0.005)
    assert brief["HL-min-Good-mAP"] == pytest.approx(100 * per_query["hl_ap_Good"].mean(), abs=0.005)


def test_only_shared_qids_are_scored_on_request() -> None:
    submission = BASE["submission"][1:] + [{**BASE["submission"][0], "qid": 99}]
    result = evaluate_submission(submission, BASE["ground_truth"], match_number=False)
    assert result == evaluate_submission(BASE["submission"][1:], BASE["ground_truth"][1:])


def test_duplicate_qids_join_ten_windows_each_for_map_and_use_the_last_row_for_the_rest() -> None:
    truth = BASE["ground_truth"][2:]  # one window, 4-12 s; clips 2-5 are relevant
    miss = [[14.0, 18.0, 0.9]] * 10
    first = {"qid": 3, "pred_relevant_windows": [*miss, [4.0, 12.0, 1.0]], "pred_saliency_scores": [0, 0, 1, 0]}
    last = {"qid": 3, "pred_relevant_windows": [[4.0, 12.0, 0.1]], "pred_saliency_scores": [1, 0, 0, 0]}
    per_query = evaluate_per_query([first, last], truth)
    assert per_query["mr_ap"][0] == pytest.approx([1 / 11] * 10)
    assert (per_query["r1_iou"][0], per_query["hl_argmax"][0]) == (1, 0)


def test_duplicate_qids_in_the_ground_truth_join_windows_for_map_and_use_the_last_row_for_r1() -> None:
    truth = [{"qid": 1, "relevant_windows": [[0, 10]]}, {"qid": 1, "relevant_windows": [[20, 30]]}]
    per_query = evaluate_per_query([{"qid": 1, "pred_relevant_windows": [[0, 10, 1.0]]}], truth)
    assert per_query["mr_ap"][0, 0] == 0.5
    assert per_query["r1_iou"][0] == 0


def test_importing_the_scorer_loads_no_heavy_library() -> None:
    code = "import sys; from hf_frameseg.metrics import evaluate_submission; "
    code += "print(sorted({'torch', 'evaluate', 'datasets'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("source", "hit"), [("window", None), ("annotators", 100.0), (None, 100.0)])
def test_ratings_that_a_rule_made_up_are_not_scored(source: str | None, hit: float | None) -> None:
    truth = {"qid": 1, "duration": 10, "relevant_windows": [[0, 4]], "relevant_clip_ids": [0, 1]}
    truth |= {"saliency_scores": [[4, 4, 4]] * 2, "saliency_source": source}
    row = {"qid": 1, "pred_relevant_windows": [[0.0, 4.0, 0.9]], "pred_saliency_scores": [0.9, 0.7, 0.1, 0, 0]}
    scores = headline(evaluate_submission([row], [truth]))
    assert (scores["HIT@1"], scores["R1@0.7"]) == (hit, 100.0)


# What a ground truth lacks

MOMENTS_ONLY = [
    {"qid": "s1", "duration": 30.96, "relevant_windows": [[24.3, 30.4]]},
    {"qid": "s2", "duration": 30.96, "relevant_windows": [[0.0, 10.0]]},
]
PREDICTED = [
    {"qid": "s1", "pred_relevant_windows": [[24.3, 30.4, 0.9]], "pred_saliency_scores": [0.5] * 15},
    {"qid": "s2", "pred_relevant_windows": [[6.0, 10.0, 0.9]], "pred_saliency_scores": [0.5] * 15},
]
RATED = {"relevant_clip_ids": [1], "saliency_scores": [[4, 2, 4]]}


@pytest.mark.parametrize("empty", [{}, {"relevant_clip_ids": [], "saliency_scores": []}, {"saliency_scores": None}])
def test_moments_are_scored_without_ratings(empty: dict[str, Any]) -> None:
    truth = [{**row, **empty} for row in MOMENTS_ONLY]
    per_query = evaluate_per_query(PREDICTED, truth)
    brief = summarize_per_query(per_query)["brief"]
    assert (brief["MR-full-R1@0.5"], "HL-min-Fair-mAP" in brief) == (50.0, False)
    assert tasks_left_out(PREDICTED, per_query) == {"highlights": "nobody rated the clips of the ground truth"}


def test_highlights_are_scored_on_the_queries_that_have_ratings() -> None:
    truth = [MOMENTS_ONLY[0], {**MOMENTS_ONLY[1], **RATED}]
    predicted = copy.deepcopy(PREDICTED)
    predicted[1]["pred_saliency_scores"][1] = 0.9
    per_query = evaluate_per_query(predicted, truth)
    alone = evaluate_submission(predicted[1:], truth[1:])
    result = summarize_per_query(per_query)
    assert {name: result[name] for name in result if name.startswith("HL")} == {
        name: alone[name] for name in alone if name.startswith("HL")
    }
    assert result["brief"]["HL-min-VeryGood-Hit1"] == 100.0
    assert per_query["hl_argmax"].tolist() == [-1, 1]
    assert count_queries(per_query)["rated"] == 1
    assert query_table(per_query)["hl_ap_Good"].tolist() == pytest.approx([np.nan, 2 / 3], nan_ok=True)
    assert bootstrap_intervals(per_query)["HL-min-VeryGood-Hit1"].estimate == 100.0
    assert tasks_left_out(predicted, per_query) == {
        "highlights": "1 of 2 queries have no ratings; the others are scored"
    }


def test_highlights_are_scored_without_windows() -> None:
    truth = [{"qid": row["qid"], "duration": row["duration"], **RATED} for row in MOMENTS_ONLY]
    per_query = evaluate_per_query(PREDICTED, truth)
    assert "mr_ap" not in per_query
    assert summarize_per_query(per_query)["brief"]["HL-min-VeryGood-Hit1"] == 0.0
    assert tasks_left_out(PREDICTED, per_query) == {"moments": "the ground truth has no windows"}


def test_scaled_ratings_without_windows_are_left_to_their_own_score() -> None:
    scaled = {**RATED, "relevant_windows": [], "saliency_source": "scaled"}
    truth = [{"qid": row["qid"], "duration": row["duration"], **scaled} for row in MOMENTS_ONLY]
    per_query = evaluate_per_query(PREDICTED, truth)
    assert summarize_per_query(per_query) == {"brief": {}}
    assert [*tasks_left_out(PREDICTED, per_query)] == ["moments", "highlights"]
