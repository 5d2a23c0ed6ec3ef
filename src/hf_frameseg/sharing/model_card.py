"""The README of a shared adapter: what it is, what it scored, how it was trained, whose data, and how to run it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.sharing.config import FrameSegmentationConfig

CARD_NAME = "README.md"

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ,.:/%+()=-]|(?<=[A-Za-z0-9])[@_](?=[A-Za-z0-9]))*")  # no mark of Markdown

HERE = "."
"""What the snippet loads until the adapter has a name on the Hub: the folder of the card."""

DATA_TERMS = {
    "QVHighlights": (
        "cc-by-nc-sa-4.0",
        "Trained on [QVHighlights](https://github.com/jayleicn/moment_detr/tree/main/data), whose annotations are "
        "licensed CC BY-NC-SA 4.0: non-commercial use, attribution, share alike. The videos belong to their owners.",
    ),
    "synthetic": (None, "Trained on synthetic videos of `frameseg synth`, which are free of others' rights."),
}
"""Data set name -> licence id of the Hub, and what the card says."""

_SNIPPET = """from hf_frameseg import MomentRetriever

retriever = MomentRetriever.from_pretrained("{name}")
prediction = retriever("video.mp4", "a red circle")
for moment in prediction.moments:  # best first
    print(f"{{moment.start:6.1f}} - {{moment.end:6.1f}} s   score {{moment.score:.2f}}")
"""

_BODY = """# Moment retrieval adapter for {base}

A LoRA adapter that answers a query about a video with one `0` or `1` per frame ({frames} frames), trained with
[hf_frameseg](https://arxiv.org/abs/2512.12246). It applies to the original weights of the base model.

## Use

```python
{snippet}```

## Scores

{metrics}

## Settings

```json
{settings}
```

## Training

{recipe}

## Data and licence

{terms}
"""


def model_card(
    config: FrameSegmentationConfig,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    dataset: str | None = None,
) -> str:
    """Write the card of an adapter.

    Args:
        config: How the model is asked, with `base_model`.
        metrics: One row of numbers by name, or several rows by name: `{"model": {"mAP": 35.3}, "blank frames": ...}`.
        recipe: Settings of the training, JSON-like.
        dataset: A key of `DATA_TERMS`, or any other name.

    Returns:
        Markdown with the Hub's header. The snippet loads the card's own folder.

    Example:
        >>> card = model_card(FrameSegmentationConfig(base_model="owner/base"), metrics={"mAP": 35.28})
        >>> [line for line in card.splitlines() if "35.28" in line]
        ['| model | 35.28 |']
    """
    from transformers.utils import __version__ as transformers_version

    licence, terms = DATA_TERMS.get(
        dataset or "", (None, f"Trained on {_plain(dataset) if dataset else 'data that was not named'}.")
    )
    base = config.base_model or "an unnamed base"
    header = ["library_name: peft", "pipeline_tag: video-text-to-text"]
    if _HUB_NAME.fullmatch(base):  # the Hub refuses a card whose base is no Hub name
        header.append(f"base_model: {base}")
    if licence:
        header.append(f"license: {licence}")
    header += ["tags:", *(f"- {tag}" for tag in ("hf_frameseg", "moment-retrieval", "highlight-detection", "lora"))]
    settings = {**vars(config), "transformers": transformers_version}
    body = _BODY.format(
        base=_plain(base),
        frames=config.frames.num_frames,
        snippet=_SNIPPET.format(name=HERE),
        metrics=_table(metrics) if metrics else "Not measured.",
        settings=json.dumps(settings, indent=2, default=str),
        recipe=f"```json\n{json.dumps(recipe, indent=2, default=str)}\n```" if recipe else "Not recorded.",
        terms=terms,
    )
    return "\n".join(["---", *header, "---", "", body])


def name_in_card(card: str, repo_id: str) -> str:
    """Let the snippet of a card load a Hub repository.

    Args:
        card: From `model_card`.
        repo_id: `owner/name`.

    Returns:
        The card; one without the snippet stays as it is.
    """
    return card.replace(f'from_pretrained("{HERE}")', f'from_pretrained("{repo_id}")')


def _table(metrics: Mapping[str, Any]) -> str:
    """Return a Markdown table, a row per result."""
    rows = metrics if all(isinstance(row, Mapping) for row in metrics.values()) else {"model": metrics}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(map(_plain, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {_plain(name)} | " + " | ".join(_cell(row.get(column)) for column in columns) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Return a number with two digits; a dash for what was not or could not be measured."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else _plain(value)


def _plain(text: object) -> str:
    """Return a text of others so that Markdown shows it as it is: a plain word stays, anything else becomes code."""
    shown = printable(text)
    if _WORDS.fullmatch(shown) and "://" not in shown and "www." not in shown:
        return shown
    code = shown.replace("`", "'").replace("|", "\\|")
    return f"` {code} `"
