"""Frame segmentation losses: hand-computed values, MONAI, gradients, padding, and the corner cases by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from hf_frameseg.objectives import CLASS_WEIGHTS, binary_cross_entropy, generalized_dice, tversky

Loss = Callable[..., Tensor]

EVERY_LOSS = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(partial(binary_cross_entropy, pos_weight=2.3378), id="bce"),
        pytest.param(tversky, id="tversky"),
        *(pytest.param(partial(generalized_dice, class_weight=name), id=f"gd-{name}") for name in CLASS_WEIGHTS),
    ],
)

# Probabilities 0.8, 0.6, 0.3, 0.1 as z1 - z0 = log(p / (1 - p)).
LOGITS = torch.tensor([[math.log(4), math.log(1.5), math.log(3 / 7), math.log(1 / 9)]], dtype=torch.float64)
TARGET = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
ONE_FRAME = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
TINY = 1e-12  # a smooth that does not show in the hand-computed digits


def random_batch(samples: int = 5, frames: int = 25, soft: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return digit logits (B, F, 2) and targets (B, F) in float64, both classes present in every sample."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, frames, 2, generator=generator, dtype=torch.float64)
    target = torch.rand(samples, frames, generator=generator, dtype=torch.float64)
    if not soft:
        target = (target > 0.7).double()
        target[:, 0], target[:, 1] = 0, 1
    return logits, target


class TestByHand:
    def test_binary_cross_entropy(self) -> None:
        # -(2 ln .8 + ln .4 + 2 ln .3 + ln .9) / 4 = (0.446287 + 0.916291 + 2.407946 + 0.105361) / 4
        value = binary_cross_entropy(LOGITS, TARGET, pos_weight=2.0)
        assert value.item() == pytest.approx(0.968971, abs=1e-6)

    def test_tversky(self) -> None:
        # foreground: tp 1.1, fp 0.7, fn 0.9 -> 1.1 / (1.1 + 0.3 * 0.7 + 0.7 * 0.9) = 1.1 / 1.94
        # background: tp 1.3, fp 0.9, fn 0.7 -> 1.3 / (1.3 + 0.3 * 0.9 + 0.7 * 0.7) = 1.3 / 2.06
        value = tversky(LOGITS, TARGET, alpha=0.3, beta=0.7, smooth=TINY)
        assert value.item() == pytest.approx(1 - (1.1 / 1.94 + 1.3 / 2.06) / 2, abs=1e-9)

    def test_tversky_soft(self) -> None:
        # p = 0.8, 0.3 against g = 0.5, 0.5
        # foreground: tp 0.5 + 0.3, fp 1.1 - 0.8, fn 1.0 - 0.8 -> 0.8 / (0.8 + 0.09 + 0.14)
        # background: tp 0.2 + 0.5, fp 0.9 - 0.7, fn 1.0 - 0.7 -> 0.7 / (0.7 + 0.06 + 0.21)
        value = tversky(LOGITS[:, [0, 2]], torch.full((1, 2), 0.5), alpha=0.3, beta=0.7, smooth=TINY)
        assert value.item() == pytest.approx(1 - (0.8 / 1.03 + 0.7 / 0.97) / 2, abs=1e-9)

    def test_tversky_smooth_is_added_above_and_below(self) -> None:
        value = tversky(LOGITS, TARGET, alpha=0.3, beta=0.7, smooth=1.0)
        assert value.item() == pytest.approx(1 - (2.1 / 2.94 + 2.3 / 3.06) / 2, abs=1e-9)

    @pytest.mark.parametrize("class_weight", ["inverse_square_clamped", "inverse_square"])
    def test_generalized_dice(self, class_weight: str) -> None:
        # foreground: tp 0.8, |p| 1.8, |g| 1, w 1; background: tp 2.0, |p| 2.2, |g| 3, w 1/9
        # 1 - 2 (0.8 + 2/9) / (2.8 + 5.2/9) = 1 - 18.4 / 30.4 = 15 / 38
        value = generalized_dice(LOGITS, ONE_FRAME, smooth=TINY, class_weight=class_weight)
        assert value.item() == pytest.approx(15 / 38, abs=1e-9)

    def test_generalized_dice_uniform(self) -> None:
        # 1 - 2 (0.8 + 2.0) / (2.8 + 5.2)
        value = generalized_dice(LOGITS, ONE_FRAME, smooth=TINY, class_weight="uniform")
        assert value.item() == pytest.approx(0.3, abs=1e-9)

    def test_generalized_dice_empty_class(self) -> None:
        # No foreground: w_fg = 1 / max(0, 1)^2 = 1, w_bg = 1/16; tp_bg = 2.2
        # 1 - (2 * 2.2 / 16) / (1.8 + (2.2 + 4) / 16) = 1 - 0.275 / 2.1875
        value = generalized_dice(LOGITS, torch.zeros(1, 4), smooth=TINY)
        assert value.item() == pytest.approx(1 - 0.275 / 2.1875, abs=1e-9)


def test_tversky_beta_is_the_price_of_missed_frames() -> None:
    target = torch.zeros(1, 20)
    target[:, 5:10] = 1
    confident = 40 * target - 20
    missed, extra = confident.clone(), confident.clone()
    missed[:, 5] = -20  # one foreground frame lost
    extra[:, 10] = 20  # one background frame too many
    assert tversky(missed, target, alpha=0.1, beta=0.9) > tversky(extra, target, alpha=0.1, beta=0.9)
    assert tversky(missed, target, alpha=0.9, beta=0.1) < tversky(extra, target, alpha=0.9, beta=0.1)


class TestAgainstMonai:
    """MONAI computes on (B, classes, F) probabilities; soft_label=True is its L1 form."""

    @pytest.fixture
    def losses(self) -> object:
        return pytest.importorskip("monai.losses", reason="MONAI is a test-only dependency (extra 'dev')")

    @staticmethod
    def expected(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
        values = loss(logits.movedim(-1, 1), torch.stack((1 - target, target), dim=1))
        return values.reshape(len(target), -1).mean(dim=-1)

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize(("alpha", "beta", "smooth"), [(0.3, 0.7, 1e-5), (0.5, 0.5, 1e-5), (0.9, 0.2, 0.1)])
    def test_tversky(self, losses: object, soft: bool, alpha: float, beta: float, smooth: float) -> None:
        logits, target = random_batch(soft=soft)
        reference = losses.TverskyLoss(
            softmax=True,
            alpha=alpha,
            beta=beta,
            smooth_nr=smooth,
            smooth_dr=smooth,
            soft_label=True,
            reduction="none",
        )
        ours = tversky(logits, target, alpha=alpha, beta=beta, smooth=smooth)
        torch.testing.assert_close(ours, self.expected(reference, logits, target), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize(("ours", "theirs"), [("inverse_square_clamped", "square"), ("uniform", "uniform")])
    def test_generalized_dice(self, losses: object, soft: bool, ours: str, theirs: str) -> None:
        logits, target = random_batch(soft=soft)
        reference = losses.GeneralizedDiceLoss(softmax=True, w_type=theirs, soft_label=True, reduction="none")
        value = generalized_dice(logits, target, class_weight=ours)
        # MONAI computes the class weights in float32.
        torch.testing.assert_close(value, self.expected(reference, logits, target), rtol=1e-6, atol=1e-7)


def test_binary_cross_entropy_against_torch() -> None:
    logits, target = random_batch(soft=True)
    reference = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.3378), reduction="none")
    expected = reference(logits[..., 1] - logits[..., 0], target).mean(dim=-1)
    torch.testing.assert_close(binary_cross_entropy(logits, target, pos_weight=2.3378), expected)


@EVERY_LOSS
class TestEveryLoss:
    def test_two_logits_and_their_difference_are_the_same(self, loss: Loss) -> None:
        logits, target = random_batch(soft=True)
        torch.testing.assert_close(loss(logits, target), loss(logits[..., 1] - logits[..., 0], target))

    def test_gradcheck(self, loss: Loss) -> None:
        logits, target = random_batch(samples=3, frames=7, soft=True)
        valid = torch.ones(3, 7, dtype=torch.bool)
        valid[0, 5:], valid[1, 0] = False, False
        assert torch.autograd.gradcheck(lambda z: loss(z, target, valid), logits.requires_grad_())

    @pytest.mark.parametrize("filler", [0.0, 1e4, float("nan"), float("inf")])
    def test_padding_changes_nothing(self, loss: Loss, filler: float) -> None:
        logits, target = random_batch(samples=2, frames=9, soft=True)
        order = torch.tensor([9, 0, 1, 2, 3, 10, 4, 5, 6, 7, 8, 11])  # padding before, inside and after
        padded = torch.cat((logits, torch.full((2, 3, 2), filler, dtype=torch.float64)), dim=1)[:, order]
        padded_target = torch.cat((target, torch.full((2, 3), filler, dtype=torch.float64)), dim=1)[:, order]
        valid = (order < 9).expand(2, -1)
        logits.requires_grad_()
        padded.requires_grad_()
        plain, with_padding = loss(logits, target), loss(padded, padded_target, valid)
        torch.testing.assert_close(plain, with_padding)
        plain.sum().backward()
        with_padding.sum().backward()
        torch.testing.assert_close(padded.grad[:, order < 9], logits.grad)
        assert padded.grad[:, order >= 9].eq(0).all()

    def test_samples_are_independent(self, loss: Loss) -> None:
        logits, target = random_batch(samples=6, soft=True)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target)[order])
        torch.testing.assert_close(loss(logits[2:3], target[2:3]), loss(logits, target)[2:3])

    def test_order_of_frames_does_not_matter(self, loss: Loss) -> None:
        logits, target = random_batch(samples=2, frames=6, soft=True)
        order = torch.tensor([5, 2, 0, 3, 1, 4])
        torch.testing.assert_close(loss(logits[:, order], target[:, order]), loss(logits, target))

    def test_no_valid_frame_is_zero(self, loss: Loss) -> None:
        logits = torch.full((2, 5, 2), float("nan"))
        logits[1] = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
        logits.requires_grad_()
        valid = torch.tensor([[False] * 5, [True] * 5])
        values = loss(logits, torch.ones(2, 5), valid)
        assert values[0] == 0
        assert values[1] > 0
        values.sum().backward()
        assert logits.grad[0].eq(0).all()
        assert logits.grad[1].isfinite().all()

    @pytest.mark.parametrize("fill", [0.0, 1.0])
    def test_one_class_empty_is_finite(self, loss: Loss, fill: float) -> None:
        logits, _ = random_batch()
        values = loss(logits.float().requires_grad_(), torch.full((5, 25), fill))
        assert values.isfinite().all()
        assert values.min() > 0

    def test_perfect_prediction_is_close_to_zero(self, loss: Loss) -> None:
        _, target = random_batch()
        assert loss(60 * target - 30, target).max() < 1e-9

    def test_confident_and_wrong_is_finite(self, loss: Loss) -> None:
        _, target = random_batch()
        logits = (-2000 * target + 1000).float().requires_grad_()
        loss(logits, target).sum().backward()
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, loss: Loss, dtype: torch.dtype) -> None:
        logits, target = random_batch(soft=True)
        half = logits.to(dtype).requires_grad_()
        values = loss(half, target.to(dtype))
        assert values.dtype == torch.float32
        assert torch.equal(values, loss(logits.to(dtype).float(), target.to(dtype).float()))
        values.sum().backward()
        assert half.grad.dtype == dtype

    def test_autocast_changes_nothing(self, loss: Loss) -> None:
        logits, target = (x.float() for x in random_batch(soft=True))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = loss(logits, target)
        assert torch.equal(values, loss(logits, target))

    def test_float64_is_kept(self, loss: Loss) -> None:
        assert loss(*random_batch()).dtype == torch.float64

    def test_boolean_and_integer_targets(self, loss: Loss) -> None:
        logits, target = random_batch()
        assert torch.equal(loss(logits, target.bool()), loss(logits, target))
        assert torch.equal(loss(logits, target.long()), loss(logits, target))

    def test_inputs_stay_as_they_are(self, loss: Loss) -> None:
        logits, target = random_batch(soft=True)
        valid = torch.arange(25).expand(5, -1) < 20
        before = logits.clone(), target.clone(), valid.clone()
        loss(logits, target, valid)
        assert all(torch.equal(*pair) for pair in zip(before, (logits, target, valid), strict=True))


class TestSoftTargets:
    @pytest.mark.parametrize("loss", [tversky, generalized_dice])
    def test_region_losses_are_zero_at_the_target(self, loss: Loss) -> None:
        # The product form would not be: p * g = g^2 < g for 0 < g < 1.
        target = torch.tensor([[0.1, 0.5, 0.9, 0.25]], dtype=torch.float64)
        assert loss(torch.logit(target), target).item() == pytest.approx(0, abs=1e-9)

    def test_binary_cross_entropy_has_its_minimum_at_the_target(self) -> None:
        target = torch.tensor([[0.1, 0.5, 0.9, 0.25]], dtype=torch.float64)
        logits = torch.logit(target).requires_grad_()
        binary_cross_entropy(logits, target, pos_weight=1.0).sum().backward()
        torch.testing.assert_close(logits.grad, torch.zeros_like(target))


class TestEmptyClass:
    """All frames background, or all foreground: the other class has nothing to overlap with."""

    @staticmethod
    def gradient(fill: float, logit: float = 0.0, **settings: str) -> Tensor:
        logits = torch.full((1, 25), logit, requires_grad=True)
        generalized_dice(logits, torch.full((1, 25), fill), **settings).sum().backward()
        return logits.grad

    @pytest.mark.parametrize(("fill", "sign"), [(0.0, 1), (1.0, -1)])
    def test_clamped_weights_still_teach(self, fill: float, sign: int) -> None:
        gradient = self.gradient(fill)
        assert gradient.isfinite().all()
        # p = 0.5: w = 1 and 1/625, loss = 1 - n/d with n = 0.04 and d = 12.56,
        # dL/dz = 0.25 (0.0032 d + 0.9984 n) / d^2 for each frame
        assert gradient.tolist()[0] == pytest.approx([sign * 1.269985e-4] * 25, rel=1e-5)

    @pytest.mark.parametrize(("fill", "sign"), [(0.0, 1), (1.0, -1)])
    def test_gradient_grows_as_the_error_shrinks(self, fill: float, sign: int) -> None:
        # 25 frames wrong with p = 0.05 each: far from dead, although most of the way is done.
        gradient = sign * self.gradient(fill, logit=-sign * math.log(19))
        assert gradient.min() > 1e-3

    @pytest.mark.parametrize("fill", [0.0, 1.0])
    def test_the_papers_weights_are_dead(self, fill: float) -> None:
        # Why the clamp is the default: 1 / smooth = 100,000 for the absent class leaves nothing in float32.
        assert self.gradient(fill, class_weight="inverse_square").abs().max() < 1e-8


@EVERY_LOSS
@pytest.mark.parametrize("wrong", [4.0, 1.001, -0.25, math.nan, math.inf])
def test_targets_outside_zero_and_one_are_refused(loss: Loss, wrong: float) -> None:
    logits, target = random_batch(samples=2, frames=4, soft=True)
    target[1, 2] = wrong
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\], got .*; divide ratings by") as caught:
        loss(logits, target)
    assert "\n" not in str(caught.value)
    valid = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="target must lie in"):
        loss(logits, target, valid)
    valid[1, 2] = False
    assert loss(logits, target, valid).isfinite().all()


def test_the_default_weighs_the_foreground_as_the_paper_does() -> None:
    assert torch.equal(binary_cross_entropy(LOGITS, TARGET), binary_cross_entropy(LOGITS, TARGET, pos_weight=2.3378))


class TestErrors:
    def test_vocabulary_logits(self) -> None:
        with pytest.raises(ValueError, match=r"\(B, F, 2\) or \(B, F\), got \(1, 4, 32\); pick the two digit logits"):
            tversky(torch.zeros(1, 4, 32), torch.zeros(1, 4))

    def test_target_of_other_length(self) -> None:
        with pytest.raises(ValueError, match=r"target must be \(B, F\) = \(1, 4\) like frame_logits, got \(1, 5\)"):
            binary_cross_entropy(torch.zeros(1, 4, 2), torch.zeros(1, 5))

    def test_valid_of_other_shape(self) -> None:
        with pytest.raises(ValueError, match=r"valid must be \(B, F\) = \(2, 4\) like target, got \(1, 4\)"):
            tversky(torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(1, 4, dtype=torch.bool))

    def test_valid_that_is_not_boolean(self) -> None:
        with pytest.raises(TypeError, match=r"valid must be boolean, got torch.int64; pass valid.bool\(\)"):
            tversky(torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.int64))

    def test_token_ids(self) -> None:
        with pytest.raises(TypeError, match="must be floating point, got torch.int64; pass logits, not token ids"):
            tversky(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4))

    @pytest.mark.parametrize("pos_weight", [0.0, -1.0, math.nan])
    def test_pos_weight(self, pos_weight: float) -> None:
        with pytest.raises(ValueError, match="pos_weight must be a number > 0"):
            binary_cross_entropy(LOGITS, TARGET, pos_weight=pos_weight)

    @pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 0.5), (0.5, -0.1), (0.0, 0.0), (math.nan, 1.0)])
    def test_tversky_costs(self, alpha: float, beta: float) -> None:
        with pytest.raises(ValueError, match="must be >= 0 and not both 0"):
            tversky(LOGITS, TARGET, alpha=alpha, beta=beta)

    @pytest.mark.parametrize("loss", [tversky, generalized_dice])
    def test_smooth(self, loss: Loss) -> None:
        with pytest.raises(ValueError, match="smooth must be > 0, got 0"):
            loss(LOGITS, TARGET, smooth=0)

    def test_class_weight(self) -> None:
        with pytest.raises(ValueError, match="one of inverse_square_clamped, inverse_square, uniform, got 'square'"):
            generalized_dice(LOGITS, TARGET, class_weight="square")
