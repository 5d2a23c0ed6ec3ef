"""Images for xGen-MM: squashed to one square, bicubic with antialias, scaled to [-1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling, SizeDict


class XGenMMImageProcessor(TorchvisionBackend):
    """Resize (aspect ratio not kept, no crop), scale and normalise images given as tensors, arrays or PIL images.

    One image gives one (3, H, W) tensor: the base image, without the extra high-resolution crops of the Hub's
    any-resolution mode.

    Example:
        >>> import numpy as np
        >>> frames = np.zeros((2, 30, 40, 3), dtype=np.uint8)
        >>> XGenMMImageProcessor(size={"height": 16, "width": 16})(frames, return_tensors="pt").pixel_values.shape
        torch.Size([2, 3, 16, 16])
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"height": 384, "width": 384}
    default_to_square = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Resize in float32 and round back to 0..255.

        torchvision's own uint8 kernel on CPU (and PIL) rounds its weights and is up to 9 grey levels off at
        saturated edges from what CUDA computes; training and inference should not depend on the device.
        """
        if image.dtype != torch.uint8:
            return super().resize(image, size, *args, **kwargs)
        if image.shape[-2:] == (size.height, size.width):
            return image  # frames cached at the model's size: half of the time of a batch
        resized = super().resize(image.to(torch.float32), size, *args, **kwargs)
        return resized.clamp_(0, 255).round_().to(torch.uint8)


__all__ = ["XGenMMImageProcessor"]
