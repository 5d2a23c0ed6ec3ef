"""Figures in the pages that no benchmark prints: computed again from the public annotations, which lie outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {"train": "highlight_train_release.jsonl", "val": "highlight_val_release.jsonl"}


@pytest.fixture(scope="module")
def splits(shared_dir: Path) -> dict[str, list[dict]]:
    from hf_frameseg.annotations.qvhighlights import read_annotations

    files = {**FILES, "test": "highlight_test_with_gt.jsonl"}
    return {split: read_annotations(shared_dir / "qvhighlights" / name) for split, name in files.items()}


@pytest.fixture(scope="module")
def masks(splits: dict[str, list[dict]]) -> dict[str, np.ndarray]:
    """The digits of each split at 25 frames, (N, 25)."""
    from hf_frameseg.moments import FrameGrid
    from hf_frameseg.targets import frame_mask

    return {
        split: np.array([frame_mask(row["relevant_windows"], FrameGrid.middle(row["duration"], 25)) for row in rows])
        for split, rows in splits.items()
    }


def page(name: str) -> str:
    return " ".join((ROOT / "docs" / name).read_text("utf-8").split())


def test_queries_and_videos(splits: dict[str, list[dict]]) -> None:
    counts = [f"{len(splits[split]):,}" for split in ("train", "val", "test")]
    assert f"annotations of {counts[0]} train, {counts[1]} val and {counts[2]} test queries" in page("real-data.md")
    lengths = {row["vid"]: row["duration"] for rows in splits.values() for row in rows}
    share = round(100 * np.mean([seconds == 150 for seconds in lengths.values()]))
    shown = f"{len(lengths):,} videos of {min(lengths.values())} to {max(lengths.values())} s ({share} % last 150 s)"
    assert shown in page("real-data.md")
    steps = -(-len(splits["train"]) // 64) * 11
    assert f"checkpoint-{steps}" in page("real-data.md")
    assert f"{steps} is the last step" in page("real-data.md")


def test_copying_the_previous_digit(masks: dict[str, np.ndarray]) -> None:
    same = [(mask[:, 1:] == mask[:, :-1]).mean() for mask in masks.values()]
    assert [round(10 * share) for share in same] == [9, 9, 9]
    for name in ("concepts.md", "how-to.md"):
        assert "nine" in page(name)
        assert "out of ten" in page(name)


def test_tversky_of_an_answer_without_the_video(masks: dict[str, np.ndarray]) -> None:
    import torch

    from hf_frameseg.objectives import TverskyLoss

    mask = torch.tensor(masks["train"], dtype=torch.float32)
    share = torch.full_like(mask, mask.mean())
    copied = torch.cat([torch.zeros(len(mask), 1), mask[:, :-1]], dim=1)
    losses = []
    for probs in (share, copied):
        logits = torch.logit(probs.clamp(1e-6, 1 - 1e-6))
        frame_logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        losses.append(f"{TverskyLoss().loss(frame_logits, mask).mean().item():.2f}")
    shown = f"the share of foreground gives {losses[0]}, copying the previous true digit {losses[1]}"
    assert shown in page("how-to.md")


def test_disk_of_raw_frames(splits: dict[str, list[dict]]) -> None:
    for size, unit, picture in (((384, 384), 1e9, "442 KB"), ((1280, 720), 1e12, "2.8 MB")):
        pixels = 3 * size[0] * size[1]
        assert picture in (f"{pixels / 1e3:.0f} KB", f"{pixels / 1e6:.1f} MB")
        row = next(line for line in page("real-data.md").split("`raw`")[1:] if picture in line)
        shown = row.split("|")[2].strip().split()[0]
        assert float(shown) == pytest.approx(len(splits["train"]) * 75 * pixels / unit, rel=0.03)
