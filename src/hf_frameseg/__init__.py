"""Moment retrieval and highlight detection with multimodal LLMs that answer one digit per video frame.

Every public name can be imported from here; its module is imported when the name is first used, so that
``import hf_frameseg`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    # values and time
    "Moment": "moments",
    "FrameGrid": "moments",
    "FramePrediction": "moments",
    "num_clips": "moments",
    "mask_to_spans": "moments",
    "mask_to_moments": "moments",
    "moments_to_mask": "moments",
    "moments_from_windows": "moments",
    "temporal_iou": "moments",
    "nms": "moments",
    "interpolate_to_clips": "moments",
    # labels
    "BinaryLabels": "labels",
    "frame_mask": "labels",
    "clip_saliency_targets": "labels",
    "graded_frame_targets": "labels",
    # losses
    "LOSSES": "losses",
    "PAPER_WEIGHTS": "losses",
    "PAPER_WEIGHTS_START": "losses",
    "PAPER_POS_WEIGHT": "losses",
    "BinaryCrossEntropyLoss": "losses",
    "TverskyLoss": "losses",
    "GeneralizedDiceLoss": "losses",
    "FrameSegmentationLoss": "losses",
    "LossWeightSchedule": "losses",
    "binary_cross_entropy": "losses",
    "tversky": "losses",
    "generalized_dice": "losses",
    "weighted_sum": "losses",
    # decoding
    "BinaryMaskLogitsProcessor": "decoding",
    "DecodedFrames": "decoding",
    "generate_frame_logits": "decoding",
    "rank_runs": "decoding",
    "to_prediction": "decoding",
    "DECODERS": "decoding",
    "PAPER_PROPOSALS": "decoding",
    "SCORING_PROPOSALS": "decoding",
    "ProposalSettings": "decoding",
    "propose_moments": "decoding",
    "redecode": "decoding",
    "read_frames_file": "decoding",
    "write_frames_file": "decoding",
    # data
    "PROMPTS": "data.prompts",
    "PromptTemplate": "data.prompts",
    "select_frames": "data.sampling",
    "VideoFrames": "data.video",
    "VideoReadError": "data.video",
    "probe_duration": "data.video",
    "read_frames": "data.video",
    "FrameDatasetBuilder": "data.builder",
    "load_split": "data.builder",
    "FrameDatasetConfig": "data.preparation",
    "FrameSettings": "data.prepared_video",
    "prepare_video": "data.prepared_video",
    "verify_videos": "data.verification",
    "QVHighlights": "data.qvhighlights",
    "QVHighlightsConfig": "data.qvhighlights",
    "load_qvhighlights": "data.qvhighlights",
    "read_annotations": "data.qvhighlights",
    "row_frames": "data.qvhighlights",
    "FrameSegmentationCollator": "data.collator",
    "write_dataset": "data.synthetic",
    "FrameStream": "data.streaming",
    "save_shards": "data.streaming",
    "DecodeShare": "data.shares",
    "AssembleShares": "data.shares",
    "decode_share": "data.shares",
    "row_grid": "data.sampling",
    "fetch_annotations": "data.download",
    "ActivityNet": "data.activitynet",
    "ActivityNetConfig": "data.activitynet",
    "load_activitynet": "data.activitynet",
    "read_activitynet": "data.activitynet",
    "CharadesSTA": "data.charades_sta",
    "CharadesSTAConfig": "data.charades_sta",
    "load_charades_sta": "data.charades_sta",
    "read_charades_sta": "data.charades_sta",
    "MomentTable": "data.moment_table",
    "MomentTableConfig": "data.moment_table",
    "load_moments": "data.moment_table",
    "read_moment_table": "data.moment_table",
    "read_annotation_file": "data.annotation_files",
    "RatingScale": "data.moment_rows",
    # metrics
    "evaluate_submission": "metrics",
    "evaluate_per_query": "metrics",
    "headline": "metrics",
    "audit_annotations": "metrics.audit",
    "audit_report": "metrics.audit",
    "annotation_statistics": "metrics.annotation_statistics",
    "summarize_per_query": "metrics",
    "mean_iou": "metrics",
    "recall_at": "metrics",
    "tasks_left_out": "metrics",
    "evaluate_highlights": "metrics",
    "query_table": "metrics",
    "read_submission": "metrics",
    "read_ground_truth": "metrics",
    "parse_submission": "metrics",
    "validate_submission": "metrics",
    "bootstrap_intervals": "metrics",
    "paired_differences": "metrics",
    "paired_outcomes": "metrics",
    # models
    "XGenMMConfig": "models.xgenmm",
    "XGenMMForConditionalGeneration": "models.xgenmm",
    "XGenMMImageProcessor": "models.xgenmm",
    "XGenMMProcessor": "models.xgenmm",
    # figures
    "qualitative_figure": "visualization",
    "audit_figure": "visualization",
    "training_curves_figure": "visualization",
    "comparison_figure": "visualization",
    # training and inference
    "SegmentationSeq2SeqTrainer": "trainer",
    "SegmentationSeq2SeqTrainingArguments": "training_args",
    "MomentRetrievalMetrics": "evaluation",
    "shuffle_queries": "evaluation",
    "with_blank_frames": "evaluation",
    "write_submission": "evaluation",
    "MomentRetriever": "inference",
    # sharing
    "snapshot_adapter": "adapters",
    "restore_adapter": "adapters",
    "save_adapter": "hub",
    "load_adapter": "hub",
    "merge_and_save": "hub",
    "push_to_hub": "hub",
    "push_frames": "hub_frames",
    "stream_frames": "hub_frames",
    "load_pretrained": "loading",
    "load_base": "loading",
    "load_processor": "loading",
    "FrameSegmentationConfig": "config",
    "TINY_BASE": "config",
    "TINY_MODEL": "config",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_MODULE_OF})
