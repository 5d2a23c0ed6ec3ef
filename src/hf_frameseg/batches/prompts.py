"""The prompts by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.batches.prompt_template import PromptTemplate

PROMPTS: dict[str, PromptTemplate] = {
    # Appendix A of arXiv "Moment and Highlight Detection via MLLM Frame Segmentation", with what the authors' runs had
    # and the printed appendix lacks: blank lines between sections, a final newline, a space after the system text.
    "paper": PromptTemplate(
        name="paper",
        system=(
            "You are a smart video retrieval assistant. You will receive a video and a human activity query given by "
            "the user. Return the frames that matches the activity query. Follow the output format given by the user. "
        ),
        before=(
            "You are given {num_frames} frames sampled from a video, ordered and separated by newline characters, "
            "indexed from 0 to {last_index}:\n"
        ),
        after=(
            "\n**Your task**: given an activity, analyze the video frames to identify which ones contain the specified "
            "activity.\n"
            "\n**Output format**: provide a {num_frames} character binary segmentation mask, specifically:\n"
            " - '1' means the frame at that position likely matches to the activity.\n"
            " - '0' means the frame at that position likely does not match to the activity.\n"
            " - Your output must be exactly {num_frames} characters long and contain only '1's and '0's, with no "
            "spaces or other delimiters and no explanations.\n"
            "\n**Activity**: {query}\n"
            "\n**Question**: Which frames contains the activity?\n"
        ),
    ),
    # The query comes first: in a causal model the tokens of a frame then know what is looked for. The tiny base learned
    # to compare frames with a query in this order; with the query last it did not within the same number of steps.
    "compact": PromptTemplate(name="compact", before="Activity: {query}\n", after="Answer 0 or 1 for each frame."),
    # "compact" for models that have learned to read times, and for frames that are not evenly spaced.
    "timestamps": PromptTemplate(
        name="timestamps",
        before="Activity: {query}\n",
        frame_line="Frame {index} at {seconds:.1f} s: {image}\n",
        after="Answer 0 or 1 for each frame.",
    ),
}


def get_prompt(prompt: str | Mapping[str, Any] | PromptTemplate) -> PromptTemplate:
    """Return a prompt template from its name, its fields, or itself.

    Args:
        prompt: A key of `PROMPTS`, the mapping of `PromptTemplate.to_dict`, or a template.

    Returns:
        The template.

    Raises:
        ValueError: When the name is unknown or the fields are not those of a template.

    Example:
        >>> get_prompt("compact").system is None
        True
    """
    if isinstance(prompt, PromptTemplate):
        return prompt
    if isinstance(prompt, Mapping):
        try:
            return PromptTemplate(**prompt)
        except TypeError:
            known, got = ", ".join(PromptTemplate.__dataclass_fields__), printable(f"{list(prompt)!r:.200}")
            raise ValueError(f"expected a prompt with the fields {known}, got {got}") from None
    if not isinstance(prompt, str) or prompt not in PROMPTS:
        got = printable(f"{prompt!r:.80}")
        raise ValueError(f"unknown prompt {got}: use one of {sorted(PROMPTS)} or pass a PromptTemplate")
    return PROMPTS[prompt]
