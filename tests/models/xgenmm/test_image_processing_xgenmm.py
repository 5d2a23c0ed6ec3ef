"""Resizing and scaling equal the recorded reference, for every kind of image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from hf_frameseg.models.xgenmm import XGenMMImageProcessor

SIZE = {"height": 48, "width": 48}


@pytest.mark.parametrize("direction", ["down", "up"])
def test_equals_the_recorded_preprocessing(shared_dir: Path, direction: str) -> None:
    recorded = load_file(shared_dir / "goldens" / "xgenmm" / "preprocess.safetensors")
    images = recorded[f"{direction}_input_uint8"]
    processor = XGenMMImageProcessor(size=SIZE)
    pixel_values = processor(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values, recorded[f"{direction}_pixel_values"], atol=1e-6, rtol=0)

    grey_levels = processor(images, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(grey_levels, recorded[f"{direction}_resized_uint8"])
    # The comparison can fail: torchvision's own uint8 kernel gives something else.
    assert not torch.equal(grey_levels, recorded[f"{direction}_resized_uint8_cpu_native"])


def test_tensor_array_and_pil_give_the_same() -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    processor = XGenMMImageProcessor(size=SIZE)
    expected = processor(torch.from_numpy(array).permute(0, 3, 1, 2), return_tensors="pt").pixel_values
    assert expected.shape == (2, 3, 48, 48)
    for images in (array, list(array), [Image.fromarray(image) for image in array]):
        torch.testing.assert_close(processor(images, return_tensors="pt").pixel_values, expected)


def test_images_of_the_models_size_are_not_touched() -> None:
    array = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    processor = XGenMMImageProcessor(size=SIZE)
    grey_levels = processor([array], do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    assert np.array_equal(grey_levels[0].permute(1, 2, 0).numpy(), array)


def test_images_of_different_sizes_are_squashed_to_one() -> None:
    images = [np.full((30, 40, 3), 255, np.uint8), np.zeros((50, 20, 3), np.uint8)]
    pixel_values = XGenMMImageProcessor(size=SIZE)(images, return_tensors="pt").pixel_values
    assert pixel_values.shape == (2, 3, 48, 48)
    torch.testing.assert_close(pixel_values[0], torch.ones(3, 48, 48))
    torch.testing.assert_close(pixel_values[1], -torch.ones(3, 48, 48))


def test_saving_and_loading(tmp_path: Path) -> None:
    XGenMMImageProcessor(size=SIZE).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, XGenMMImageProcessor)
    assert (loaded.size["height"], loaded.size["width"]) == (48, 48)
