"""The qualitative figure: what it shows is where it belongs, and nothing overlaps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from hf_frameseg.masks import mask_to_moments, moments_to_mask
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals import interpolate_to_clips
from hf_frameseg.visualization import qualitative_figure
from hf_frameseg.visualization._style import BLUE, ORANGE, PALE_BLUE
from hf_frameseg.visualization._timeline import PLOT_WIDTH

LONG_QUERY = "A woman in a yellow jacket shows the shells that she bought for $5 and $10 on the beach. " * 6


def predict(
    duration_seconds: float = 150.0, num_frames: int = 25, found: Sequence[Moment] = (Moment(30, 60),), query: str = ""
) -> FramePrediction:
    """Return a prediction that found the given moments, the first one best."""
    grid = FrameGrid.middle(duration_seconds, num_frames)
    mask = moments_to_mask(found, grid)
    probs = np.where(mask, 0.9, 0.1) + 0.05 * np.cos(np.arange(num_frames))
    moments = sorted(mask_to_moments(mask, grid, probs), key=lambda moment: -moment.score)
    return FramePrediction(grid, mask, probs, tuple(moments), interpolate_to_clips(probs, grid), query=query, vid="v")


def noise(num_frames: int = 25, height: int = 18, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn_texts(figure: Figure) -> list[Text]:
    """Return the texts that are drawn: an axis keeps labels of ticks beyond its limits but does not draw them."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True)
            hidden |= {tick.label1 for tick, place in ticks if not (axes.axison and low <= place <= high)}
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in hidden]


def bars(figure: Figure, color: str) -> list[tuple[float, float]]:
    """Return left and right end, in shares of the plot's width, of the bars of one colour."""
    patches = [patch for patch in figure.findobj(FancyBboxPatch) if same_color(patch.get_facecolor(), color)]
    ends = [(patch.get_x() / PLOT_WIDTH, (patch.get_x() + patch.get_width()) / PLOT_WIDTH) for patch in patches]
    return sorted((round(left, 6), round(right, 6)) for left, right in ends)


class TestWindows:
    def test_bars_stand_at_their_times(self) -> None:
        figure = qualitative_figure(predict(found=[Moment(30, 60)]), relevant_moments=[Moment(45, 75), Moment(90, 150)])
        assert bars(figure, BLUE) == [(0.2, 0.4)]
        assert bars(figure, ORANGE) == [(0.3, 0.5), (0.6, 1.0)]

    def test_only_the_best_one_has_full_colour(self) -> None:
        prediction = replace(predict(), moments=(Moment(75, 90, 0.8), Moment(0, 15, 0.5), Moment(120, 150, 0.25)))
        figure = qualitative_figure(prediction)
        assert bars(figure, BLUE) == [(0.5, 0.6)]
        assert bars(figure, PALE_BLUE) == [(0.0, 0.1), (0.8, 1.0)]
        assert {"0.80", "0.50", "0.25"} <= set(texts(figure))

    def test_overlapping_windows_get_lanes_of_their_own(self) -> None:
        one = qualitative_figure(replace(predict(), moments=(Moment(0, 60), Moment(60, 90, 0.5))))
        two = qualitative_figure(replace(predict(), moments=(Moment(0, 60), Moment(59, 90, 0.5))))
        assert two.get_figheight() > one.get_figheight()

    def test_window_beyond_the_video_ends_with_it(self) -> None:
        figure = qualitative_figure(replace(predict(), moments=(Moment(135, 200),)))
        assert bars(figure, BLUE) == [(0.9, 1.0)]

    def test_a_part_of_a_video_fills_the_axis_from_its_start(self) -> None:
        whole = FrameGrid.middle(20, 4)
        probs = np.array([0.1, 0.9, 0.8, 0.2])
        places = []
        for start in (0, 700):
            grid = whole.part(start, start + 20)
            moments = (Moment(start + 5, start + 15, 0.85),)
            prediction = FramePrediction(
                grid, probs > 0.5, probs, moments, interpolate_to_clips(probs, grid), query="q"
            )
            figure = qualitative_figure(prediction, noise(4), relevant_moments=[Moment(start, start + 10)])
            assert figure.axes[-1].get_xlim() == (start, start + 20)
            places.append(bars(figure, BLUE) + bars(figure, ORANGE))
        assert places[0] == places[1]
        assert "11:45–11:55" in texts(figure)

    def test_no_window(self) -> None:
        figure = qualitative_figure(replace(predict(), moments=()), relevant_moments=[Moment(0, 10)])
        assert "no window" in texts(figure)
        assert "best window" not in texts(figure)
        assert "0.00" in texts(figure)  # the IoU

    def test_fallback_is_marked(self) -> None:
        prediction = replace(predict(), mask=np.zeros(25, bool), moments=(Moment(60, 66, 0.3),), fallback=True)
        figure = qualitative_figure(prediction)
        assert "nothing decoded as relevant: the best-scoring frame" in texts(figure)
        assert bars(figure, BLUE) == []  # outlined, not filled

    def test_inputs_stay_as_they_are(self) -> None:
        prediction, images, truth = predict(), noise(), [Moment(90, 100), Moment(0, 10)]
        before = prediction.probs.copy(), images.copy(), list(truth)
        qualitative_figure(prediction, images, truth)
        assert np.array_equal(before[0], prediction.probs)
        assert np.array_equal(before[1], images)
        assert before[2] == truth


class TestFacts:
    def test_iou_is_that_of_the_first_window_with_its_best_match(self) -> None:
        prediction = replace(predict(), moments=(Moment(30, 60, 0.9), Moment(90, 100, 0.8)))
        figure = qualitative_figure(prediction, relevant_moments=[Moment(90, 100), Moment(40, 60)])
        assert "0.67" in texts(figure)  # 20 s of 30 s

    @pytest.mark.parametrize(("scores", "verdict"), [((0, 1, 4), "hit"), ((3, 3, 3), "miss")])
    def test_hit_means_a_four_by_any_annotator_on_the_best_clip(self, scores: tuple[int, ...], verdict: str) -> None:
        prediction = predict()
        annotators = np.full((75, 3), 4)
        annotators[prediction.saliency.argmax()] = scores
        figure = qualitative_figure(prediction, annotators=annotators)
        assert verdict in texts(figure)
        assert f"HIT@1 {verdict}" in texts(figure)

    def test_without_annotation_nothing_is_claimed(self) -> None:
        found = texts(qualitative_figure(predict()))
        assert "best window" in found
        assert "best clip" in found
        assert not {"IoU", "HIT@1", "ground truth", "annotators, mean"} & set(found)

    def test_mean_saliency_alone_does_not_tell_hits(self) -> None:
        found = texts(qualitative_figure(predict(), clip_saliency=np.full(75, 0.5)))
        assert "annotators, mean" in found
        assert not {"HIT@1", "annotators, range"} & set(found)

    def test_dollars_are_no_formula(self) -> None:
        figure = qualitative_figure(predict(query=r"he pays $\broken and $5"))
        FigureCanvasAgg(figure).draw()
        assert r"he pays $\broken and $5" in texts(figure)

    def test_title_replaces_the_headline_and_keeps_the_query(self) -> None:
        found = texts(qualitative_figure(predict(query="a red circle"), title="Epoch 2"))
        assert "Epoch 2" in found
        assert any(text.startswith("a red circle · v · 150 s · 25 frames") for text in found)

    def test_long_videos_are_told_in_minutes(self) -> None:
        prediction = replace(predict(3600.0), moments=(Moment(61, 725),))
        assert "1:01–12:05" in texts(qualitative_figure(prediction))


class TestFrames:
    def test_relevant_frames_are_outlined(self) -> None:
        prediction = predict()
        figure = qualitative_figure(prediction, noise())
        outlines = [patch for patch in figure.findobj(FancyBboxPatch) if same_color(patch.get_edgecolor(), BLUE)]
        assert len(figure.findobj(AxesImage)) == 25
        assert len([patch for patch in outlines if patch.get_linewidth() > 2]) == prediction.mask.sum() == 5

    def test_each_thumbnail_is_centred_on_its_time_and_keeps_its_shape(self) -> None:
        images = noise(12, 20, 30)
        images[:, 0, 0, 0] = np.arange(12)  # the frame's number in its first pixel
        figure = qualitative_figure(predict(num_frames=12), images)
        for image in figure.findobj(AxesImage):
            left, right, bottom, top = image.get_extent()
            number = int(image.get_array()[0, 0, 0])
            assert (left + right) / 2 / PLOT_WIDTH == pytest.approx((number + 0.5) / 12)
            assert (right - left) / (top - bottom) == pytest.approx(1.5)

    @pytest.mark.parametrize("num_frames", [1, 4, 25, 50, 75, 300])
    @pytest.mark.parametrize(("height", "width"), [(24, 24), (32, 18), (18, 32), (4, 100)])
    def test_thumbnails_do_not_overlap(self, num_frames: int, height: int, width: int) -> None:
        figure = qualitative_figure(predict(num_frames=num_frames), noise(num_frames, height, width))
        boxes = [image.get_extent() for image in figure.findobj(AxesImage)]
        assert 1 <= len(boxes) <= 80
        assert all(right - left >= 0.25 for left, right, _, _ in boxes)  # inches: large enough to see something
        for (left, right, bottom, top), (left2, right2, bottom2, top2) in combinations(boxes, 2):
            assert right <= left2 or right2 <= left or top <= bottom2 or top2 <= bottom


@pytest.mark.parametrize(
    ("duration_seconds", "num_frames", "query"),
    [(3.0, 25, "a red circle"), (150.0, 75, LONG_QUERY), (126.0, 10, ""), (5000.0, 25, "W" * 300)],
)
@pytest.mark.parametrize("windows", [0, 1, 8])
def test_no_letters_overlap_or_leave_the_figure(
    duration_seconds: float, num_frames: int, query: str, windows: int
) -> None:
    step = duration_seconds / 8
    found = [Moment(i * step + 0.3 * step, i * step + 0.6 * step) for i in range(windows)]
    prediction = replace(predict(duration_seconds, num_frames, query=query), moments=tuple(found))
    annotators = np.full((len(prediction.saliency), 3), 2)
    figure = qualitative_figure(prediction, noise(num_frames), found, annotators=annotators)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in drawn_texts(figure)}
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text.get_text()!r} leaves the figure"
    for (text, box), (text2, box2) in combinations(boxes.items(), 2):
        apart = box.x1 <= box2.x0 or box2.x1 <= box.x0 or box.y1 <= box2.y0 or box2.y1 <= box.y0
        assert apart, f"{text.get_text()!r} and {text2.get_text()!r} overlap"


class TestErrors:
    @pytest.mark.parametrize(
        "frames",
        [noise(24), noise().astype(np.float32), noise()[0], noise().transpose(0, 3, 1, 2)],
        ids=["24 of 25", "float", "one frame", "channels first"],
    )
    def test_frames(self, frames: np.ndarray) -> None:
        with pytest.raises(
            ValueError, match=r"frames must be uint8 \(F, H, W, 3\) with F = 25, got .* pass one variant"
        ):
            qualitative_figure(predict(), frames)

    @pytest.mark.parametrize("saliency", [np.zeros(74), np.full(75, 4.0), np.full(75, np.nan), np.zeros((75, 3))])
    def test_clip_saliency(self, saliency: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"clip_saliency must be in \[0, 1\] of shape \(C,\) with C = 75 clips"):
            qualitative_figure(predict(), clip_saliency=saliency)

    @pytest.mark.parametrize("scores", [np.zeros((74, 3)), np.full((75, 3), 5), np.zeros(75), np.full((75, 3), -1)])
    def test_annotators(self, scores: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"annotators must be scores from 0 to 4 of shape \(C, 3\) with C = 75"):
            qualitative_figure(predict(), annotators=scores)


def test_same_input_same_picture() -> None:
    pictures = []
    for _ in range(2):
        canvas = FigureCanvasAgg(qualitative_figure(predict(), noise()))
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()))
    assert np.array_equal(*pictures)


def test_room_needs_neither_pyplot_nor_torch() -> None:
    # pyplot keeps every figure in a global list and may open a window; torch is seconds of import for a picture
    code = (
        "import sys, hf_frameseg.visualization; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
