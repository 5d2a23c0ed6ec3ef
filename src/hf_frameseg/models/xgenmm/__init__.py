"""xGen-MM (BLIP-3) for transformers; importing this package registers it with the Auto classes.

Example:
    >>> from hf_frameseg.models.xgenmm import XGenMMConfig
    >>> from transformers import AutoConfig
    >>> type(AutoConfig.for_model("xgenmm")) is XGenMMConfig
    True
"""

from __future__ import annotations

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from .configuration_xgenmm import XGenMMConfig, XGenMMResamplerConfig
from .convert_xgenmm import reference_weight_conversion
from .image_processing_xgenmm import XGenMMImageProcessor
from .modeling_xgenmm import (
    XGenMMCausalLMOutputWithPast,
    XGenMMForConditionalGeneration,
    XGenMMModel,
    XGenMMModelOutputWithPast,
    XGenMMPerceiverResampler,
    XGenMMPreTrainedModel,
)
from .processing_xgenmm import XGenMMProcessor
from .tokenization_xgenmm import check_tokenizer

# exist_ok: the module may be imported again under another name (notebook autoreload, a copied source tree).
AutoConfig.register("xgenmm", XGenMMConfig, exist_ok=True)
AutoModel.register(XGenMMConfig, XGenMMModel, exist_ok=True)
AutoModelForImageTextToText.register(XGenMMConfig, XGenMMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(XGenMMConfig, XGenMMProcessor, exist_ok=True)
AutoImageProcessor.register(XGenMMConfig, image_processor_classes={"torchvision": XGenMMImageProcessor}, exist_ok=True)
# By class, not by model type: PEFT rewrites the adapters of model types that have a mapping.
register_checkpoint_conversion_mapping(
    XGenMMForConditionalGeneration.__name__, reference_weight_conversion(), overwrite=True
)

__all__ = [
    "XGenMMCausalLMOutputWithPast",
    "XGenMMConfig",
    "XGenMMForConditionalGeneration",
    "XGenMMImageProcessor",
    "XGenMMModel",
    "XGenMMModelOutputWithPast",
    "XGenMMPerceiverResampler",
    "XGenMMPreTrainedModel",
    "XGenMMProcessor",
    "XGenMMResamplerConfig",
    "check_tokenizer",
]
