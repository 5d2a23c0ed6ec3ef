"""Moment retrieval and highlight detection with multimodal LLMs that answer one digit per video frame.

Every public name can be imported from here; its module is imported when the name is first used, so that
``import hf_frameseg`` costs nothing.
"""

from hf_frameseg._imports import lazy

__version__ = "0.1.0"

_MODULE_OF = {
    # values
    "Moment": "moments",
    "FrameGrid": "moments",
    "num_clips": "moments",
    "mask_to_spans": "moments",
    "mask_to_moments": "moments",
    "moments_to_mask": "moments",
    "moments_from_windows": "moments",
    "temporal_iou": "moments",
    "nms": "moments",
    "interpolate_to_clips": "moments",
    "FramePrediction": "predictions",
    "frame_mask": "targets",
    "clip_saliency_targets": "targets",
    "graded_frame_targets": "targets",
    "BinaryLabels": "digits",
    "Sample": "sample",
    # video: a file -> frames
    "FrameSettings": "video.settings",
    "select_frames": "video.sampling",
    "VideoFrames": "video.read",
    "VideoReadError": "video.file",
    "probe_duration": "video.read",
    "read_frames": "video.read",
    "read_variants": "video.read",
    # annotations: files -> rows
    "read_annotations": "annotations.qvhighlights",
    "fetch_annotations": "annotations.download",
    "read_activitynet": "annotations.activitynet",
    "read_charades_sta": "annotations.charades_sta",
    "read_annotation_file": "annotations.forms",
    "RatingScale": "annotations.ratings",
    # prepared: rows and videos -> a data set
    "FrameDatasetBuilder": "prepared.builder",
    "FrameDatasetConfig": "prepared.config",
    "prepare_video": "prepared.one_video",
    "verify_videos": "prepared.verify",
    # datasets
    "DATASETS": "datasets.load",
    "load_rows": "datasets.load",
    "QVHighlights": "datasets.qvhighlights",
    "QVHighlightsConfig": "datasets.qvhighlights",
    "write_dataset": "datasets.synthetic",
    "ActivityNet": "datasets.activitynet",
    "ActivityNetConfig": "datasets.activitynet",
    "CharadesSTA": "datasets.charades_sta",
    "CharadesSTAConfig": "datasets.charades_sta",
    "MomentTable": "datasets.table",
    "MomentTableConfig": "datasets.table",
    # shards
    "FrameStream": "shards.stream",
    "save_shards": "shards.files",
    "DecodeShare": "shards.shares",
    "AssembleShares": "shards.shares",
    "decode_share": "shards.shares",
    # batches: rows -> tensors
    "PROMPTS": "batches.prompts",
    "PromptTemplate": "batches.prompt_template",
    "FrameSegmentationCollator": "batches.collator",
    # objectives: parts of the loss
    "LOSSES": "objectives",
    "PAPER_WEIGHTS": "objectives",
    "PAPER_WEIGHTS_START": "objectives",
    "PAPER_POS_WEIGHT": "objectives",
    "BinaryCrossEntropyLoss": "objectives",
    "TverskyLoss": "objectives",
    "GeneralizedDiceLoss": "objectives",
    "FrameSegmentationLoss": "objectives",
    "LossWeightSchedule": "objectives",
    "binary_cross_entropy": "objectives",
    "tversky": "objectives",
    "generalized_dice": "objectives",
    "weighted_sum": "objectives",
    # readout: a model -> decoded frames
    "READOUTS": "readout",
    "BinaryMaskLogitsProcessor": "readout",
    "DecodedFrames": "readout",
    "generate_frame_logits": "readout",
    # proposals: frames -> windows and saliency
    "rank_runs": "proposals",
    "to_prediction": "proposals",
    "DECODERS": "proposals",
    "PAPER_PROPOSALS": "proposals",
    "SCORING_PROPOSALS": "proposals",
    "ProposalSettings": "proposals",
    "propose_moments": "proposals",
    "redecode": "proposals",
    "read_frames_file": "proposals",
    "write_frames_file": "proposals",
    # metrics
    "evaluate_submission": "metrics",
    "evaluate_per_query": "metrics",
    "headline": "metrics",
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
    # audit
    "audit_annotations": "audit.report",
    "audit_report": "audit.report",
    "annotation_statistics": "audit.statistics",
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
    # training
    "SegmentationSeq2SeqTrainer": "training.trainer",
    "SegmentationSeq2SeqTrainingArguments": "training.arguments",
    "MomentRetrievalMetrics": "training.evaluation",
    "shuffle_queries": "training.evaluation",
    "with_blank_frames": "training.evaluation",
    "write_submission": "training.evaluation",
    # inference
    "MomentRetriever": "inference",
    # sharing
    "snapshot_adapter": "sharing.adapters",
    "restore_adapter": "sharing.adapters",
    "save_adapter": "sharing.adapter_folder",
    "load_adapter": "sharing.adapter_folder",
    "merge_and_save": "sharing.adapter_folder",
    "push_to_hub": "sharing.adapter_folder",
    "push_frames": "sharing.frames_repo",
    "stream_frames": "sharing.frames_repo",
    "load_pretrained": "sharing.loading",
    "load_base": "sharing.loading",
    "load_processor": "sharing.loading",
    "FrameSegmentationConfig": "sharing.config",
    "TINY_BASE": "sharing.config",
    "TINY_MODEL": "sharing.config",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
