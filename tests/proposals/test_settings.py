"""Settings of the proposals: what is refused, and the way through JSON."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.proposals.settings import OWN_OPTIONS, PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings

COMMON = {"max_moments": 3, "snap_seconds": 2.0, "saliency": "box", "saliency_values": "logits"}
OPTIONS = {
    "ranking": "log-odds",
    "empty": "none",
    "thresholds": (0.0, 0.4),
    "context": 0.5,
    "fill_nms_iou": 0.9,
    "soft_iou_nms_iou": 0.6,
}


def test_defaults_are_those_of_the_docs() -> None:
    assert (SCORING_PROPOSALS.decoder, PAPER_PROPOSALS.decoder) == ("runs+fill", "runs")
    for one in (SCORING_PROPOSALS, PAPER_PROPOSALS):
        assert (one.ranking, one.max_moments, one.empty, one.snap_seconds) == (
            "mean-probability",
            10,
            "best_frame",
            None,
        )
        assert (one.saliency, one.saliency_values) == ("linear", "probs")


@pytest.mark.parametrize("decoder", OWN_OPTIONS)
def test_round_trip_through_json(decoder: str) -> None:
    own = {name: OPTIONS[name] for name in OWN_OPTIONS[decoder]}
    for one in (ProposalSettings(decoder), ProposalSettings(decoder, **COMMON, **own)):
        values = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert list(values) == [field.name for field in fields(ProposalSettings)]
        assert ProposalSettings.from_dict(values) == one


@settings(derandomize=True, deadline=None)
@given(
    snap=st.none() | st.floats(0.01, 1e6),
    context=st.floats(0, 1e6),
    nms=st.floats(0, 1, exclude_max=True),
    thresholds=st.sets(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=5),
)
def test_every_number_survives_json(snap: float | None, context: float, nms: float, thresholds: set[float]) -> None:
    for one in (
        ProposalSettings(snap_seconds=snap, context=context, fill_nms_iou=nms),
        ProposalSettings("threshold-ladder", thresholds=(0, *sorted(thresholds))),
    ):
        assert ProposalSettings.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_whole_numbers_become_floats() -> None:
    one = ProposalSettings(snap_seconds=2, context=1, fill_nms_iou=0)
    assert [type(value) for value in (one.snap_seconds, one.context, one.fill_nms_iou)] == [float] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "run"}, "decoder to be one of runs, runs[+]fill, threshold-ladder, soft-iou, got 'run'"),
        ({"decoder": None}, "decoder to be one of"),
        ({"decoder": ["runs"]}, "decoder to be one of"),
        ({"ranking": "mean"}, "ranking to be one of mean-probability, log-odds, time, got 'mean'"),
        ({"empty": "whole_video"}, "empty to be one of best_frame, none, got 'whole_video'"),
        ({"saliency": "cubic"}, "saliency to be one of linear, nearest, box, got 'cubic'"),
        ({"saliency_values": "scores"}, "saliency_values to be one of probs, logits, got 'scores'"),
        ({"max_moments": 0}, "max_moments to be a whole number of at least 1, got 0"),
        ({"max_moments": True}, "max_moments to be a whole number"),
        ({"max_moments": 2.5}, "max_moments to be a whole number of at least 1, got 2.5"),
        ({"snap_seconds": 0.0}, "snap_seconds to be a number of at least 0.01, got 0.0"),
        ({"snap_seconds": math.nan}, "snap_seconds to be a number of at least 0.01, got nan"),
        ({"snap_seconds": math.inf}, "snap_seconds to be a number of at least 0.01, got inf"),
        ({"snap_seconds": "2"}, "snap_seconds to be a number of at least 0.01, got '2'"),
        ({"context": -0.1}, "context to be a number of at least 0, got -0.1"),
        ({"fill_nms_iou": 1.0}, "fill_nms_iou to be a number of at least 0 and below 1, got 1.0"),
        ({"fill_nms_iou": True}, "fill_nms_iou to be a number of at least 0 and below 1, got True"),
        ({"soft_iou_nms_iou": -1}, "soft_iou_nms_iou to be a number of at least 0 and below 1, got -1"),
        ({"decoder": "threshold-ladder", "thresholds": ()}, "thresholds to be ascending, from 0 to below 1"),
        ({"decoder": "threshold-ladder", "thresholds": (0.5,)}, "thresholds to be ascending, from 0"),
        ({"decoder": "threshold-ladder", "thresholds": (0, 0.5, 0.5)}, "thresholds to be ascending"),
        ({"decoder": "threshold-ladder", "thresholds": (0, 1)}, "thresholds to be ascending, from 0 to below 1"),
        ({"decoder": "threshold-ladder", "thresholds": (0, math.nan)}, "thresholds to be ascending"),
        ({"decoder": "threshold-ladder", "thresholds": 0.5}, "thresholds to be ascending"),
        ({"decoder": "threshold-ladder", "thresholds": "0"}, "thresholds to be ascending"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ProposalSettings(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_would_be_ignored_is_refused(option: str) -> None:
    users = [decoder for decoder, own in OWN_OPTIONS.items() if option in own]
    for decoder in OWN_OPTIONS:
        if decoder in users:
            assert getattr(ProposalSettings(decoder, **{option: OPTIONS[option]}), option) == OPTIONS[option]
        else:
            with pytest.raises(ValueError, match=f"decoder '.*' does not use {option}; leave it out, or choose"):
                ProposalSettings(decoder, **{option: OPTIONS[option]})


def test_settings_of_another_decoder_keep_what_it_uses() -> None:
    runs = ProposalSettings("runs", **COMMON, ranking="time", empty="none")
    filled = runs.for_decoder("runs+fill")
    assert filled == replace(runs, decoder="runs+fill")
    soft = runs.for_decoder("soft-iou")
    assert soft == ProposalSettings("soft-iou", **COMMON)
    assert ProposalSettings("soft-iou", context=0.5).for_decoder("runs+fill").context == 0.5
    with pytest.raises(ValueError, match="decoder to be one of"):
        runs.for_decoder("run")


def test_other_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="expected some of the settings decoder, max_moments.*got 'decodr', 'nms'"):
        ProposalSettings.from_dict({"decodr": "runs", "nms": 1, "ranking": "time"})


@pytest.mark.parametrize("values", [None, ["decoder"], "runs", 3])
def test_what_is_no_mapping_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="expected settings by name, such as decoder, max_moments, got "):
        ProposalSettings.from_dict(values)
