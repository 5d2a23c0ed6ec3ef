"""`PromptTemplate`: chat messages with pictures or videos, for the chat template of any multimodal processor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any

from hf_frameseg._numbers import is_whole
from hf_frameseg._text import printable

MAX_QUERY_CHARACTERS = 4_000
"""Longest query: a page. The longest of the field's data sets have about a thousand characters."""

MAX_PROMPT_CHARACTERS = 20_000
"""Longest text of a prompt around the frames."""

MAX_LINE_CHARACTERS = 1_000
"""Longest text of a prompt for one frame."""

MAX_FIELDS = 20
"""Most fields in one text of a prompt."""

# Widths and precisions of two digits: `{index:1000000000}` would fill the memory. Text has no format at all.
_NUMBER_FORMAT = re.compile(r"(.?[<>=^])?[-+ ]?0?\d{0,2}(\.\d{1,2})?[deEfFgG%]?", re.DOTALL)
_AROUND = {"num_frames": True, "last_index": True, "query": False, "video": False}  # field -> whether it is a number
_LINE = {"index": True, "seconds": True, "image": False, "video": False}

_MARK = "\x00"  # stands for an image or a video while text is formatted; no prompt contains it

MAX_PICTURES_PER_WINDOW = 16
"""Most pictures that stand for one window; models merge 2."""


@dataclass(frozen=True)
class PromptTemplate:
    r"""Describe one way of asking a model for F binary digits about F frames.

    The texts are `str.format` templates; write a literal brace as `{{`. The template knows nothing about special
    tokens: those belong to the chat template of the model's processor.

    A model that looks at videos gets its frames as `{video}`: each frame as a video of its own, in `frame_line`, or all
    of them as one, in `before` or `after` with an empty `frame_line`. Where it merges neighbouring pictures (Qwen2-VL:
    2), `pictures_per_window` of them stand for one frame of the answer.

    Args:
        name: Name shown in errors and saved configurations.
        system: Text of the system message, or None for models and recipes without one.
        before: User text before the frames. Fields: `{num_frames}`, `{last_index}` (F - 1), `{query}`, `{video}`.
        frame_line: Text of one frame. Fields: `{index}` (from 0), `{seconds}` (when the frame is shown: a float,
            give it a format such as `{seconds:.1f}`) and, exactly once, `{image}` or `{video}`.
        after: User text after the frames. Same fields as `before`; `{query}` must be in one of the two.
        pictures_per_window: Pictures of a video that stand for one of the F frames; a row then holds that many times F.

    Raises:
        ValueError: When a text is none or too long, a field is unknown or has an impossible format or one of more than
            two digits, the frames are not shown exactly once, or `{query}` is nowhere.

    Example:
        >>> template = PromptTemplate(name="mine", frame_line="{index} {image}\n", after="Show: {query}")
        >>> for part in template.messages("a red circle", num_frames=2)[0]["content"]:
        ...     print(part)
        {'type': 'text', 'text': '0 '}
        {'type': 'image'}
        {'type': 'text', 'text': '\n1 '}
        {'type': 'image'}
        {'type': 'text', 'text': '\nShow: a red circle'}
    """

    name: str
    system: str | None = None
    before: str = ""
    frame_line: str = "Frame {index}: {image}\n"
    after: str = "{query}"
    pictures_per_window: int = 1

    def __post_init__(self) -> None:
        """Check the texts once, here, so that rendering cannot fail later."""
        _check_text("the name of a prompt", self.name, 100)
        limits = {"before": MAX_PROMPT_CHARACTERS, "frame_line": MAX_LINE_CHARACTERS, "after": MAX_PROMPT_CHARACTERS}
        for field, most in {"system": MAX_PROMPT_CHARACTERS, **limits}.items():
            if field != "system" or self.system is not None:
                _check_text(f"prompt {self._shown_name}: {field}", getattr(self, field), most)
        around = [field for where in ("before", "after") for field in self._fields(where, _AROUND)]
        line = self._fields("frame_line", _LINE)
        by_line, at_once = line.count("image") + line.count("video"), around.count("video")
        if (by_line, at_once) != (1, 0) and not (at_once == 1 and self.is_one_video):
            raise ValueError(
                f"prompt {self._shown_name}: frame_line needs {{image}} or {{video}} exactly once, or to be empty with "
                f"{{video}} once in before or after, got {self.frame_line!r:.80}"
            )
        self._check_pictures()
        if "query" not in around:
            raise ValueError(
                f"prompt {self._shown_name}: put {{query}} into before or after, else the model never sees it"
            )
        self._check_formats()

    def _check_pictures(self) -> None:
        """Refuse a number of pictures that cannot stand for one frame."""
        count = self.pictures_per_window
        if not is_whole(count, 1, MAX_PICTURES_PER_WINDOW) or (count > 1 and self.kind == "image"):
            raise ValueError(
                f"prompt {self._shown_name}: expected pictures_per_window from 1 to {MAX_PICTURES_PER_WINDOW}, and 1 "
                f"with {{image}}, got {printable(f'{count!r:.80}')}"
            )

    @property
    def _shown_name(self) -> str:
        return printable(repr(self.name))

    def _fields(self, where: str, known: Mapping[str, bool]) -> list[str]:
        """Return the names of a text's fields; refuse those that reach further than their value, or fill the memory."""
        try:
            parsed = list(Formatter().parse(getattr(self, where)))
        except ValueError as error:
            raise ValueError(
                f"prompt {self._shown_name}: {where} is no format string: {error}; double literal braces"
            ) from None
        found = [(field, spec, conversion) for _, field, spec, conversion in parsed if field is not None]
        if unknown := sorted({field for field, _, _ in found} - known.keys()):
            raise ValueError(
                f"prompt {self._shown_name}: unknown field(s) {printable(f'{unknown!r:.200}')}; before/after know "
                f"{', '.join(_AROUND)} and frame_line knows {', '.join(_LINE)} (double literal braces)"
            )
        for field, spec, conversion in found:
            if conversion or not (_NUMBER_FORMAT.fullmatch(spec) if known[field] else spec == ""):
                wanted = "such as 3d or .1f" if known[field] else "write it without a format"
                got = printable(f"{'!' + conversion if conversion else ':' + spec!s:.80}")
                raise ValueError(
                    f"prompt {self._shown_name}: {{{field}}} has an impossible format: {wanted}, got {got}"
                )
        if len(found) > MAX_FIELDS:
            raise ValueError(f"prompt {self._shown_name}: {where} has {len(found)} fields, more than {MAX_FIELDS}")
        return [field for field, _, _ in found]

    def _check_formats(self) -> None:
        """Render once: a format such as `{seconds:d}` shows only then."""
        try:
            self.frame_line.format(index=0, seconds=0.0, image=_MARK, video=_MARK)
            for text in (self.before, self.after):
                text.format(num_frames=1, last_index=0, query="", video=_MARK)
        except (ValueError, LookupError) as error:
            raise ValueError(f"prompt {self._shown_name}: a field has an impossible format: {error}") from None

    @property
    def separates_frames(self) -> bool:
        """Tell whether text stands between neighbouring frames."""
        return self.frame_line.strip() not in ("{image}", "{video}", "")

    @property
    def is_one_video(self) -> bool:
        """Tell whether all frames are shown as one video."""
        return self.frame_line == ""

    @property
    def kind(self) -> str:
        """Return what the frames are to the model: "image" or "video"."""
        return "image" if "image" in self._fields("frame_line", _LINE) else "video"

    def num_frames(self, num_pictures: int) -> int:
        """Return how many frames F so many pictures stand for.

        Args:
            num_pictures: Pictures of a row.

        Raises:
            ValueError: If some would be left over.
        """
        if num_pictures % self.pictures_per_window:
            raise ValueError(
                f"prompt {self._shown_name} shows {self.pictures_per_window} pictures a window: expected a multiple of "
                f"that, got {num_pictures}; set num_frames to one"
            )
        return num_pictures // self.pictures_per_window

    @property
    def tells_time(self) -> bool:
        """Tell whether the prompt says when each frame is shown."""
        return "seconds" in self._fields("frame_line", _LINE)

    def messages(
        self, query: str, num_frames: int, times_seconds: Sequence[float] | None = None
    ) -> list[dict[str, Any]]:
        """Build the chat messages for one query, without the answer.

        Args:
            query: The sentence to look for, used as it is.
            num_frames: Number of frames F.
            times_seconds: When each frame is shown in the video, shape (F,); needed by a prompt that tells it.

        Returns:
            Messages whose `content` is a list of `{"type": "text", "text": ...}` and `{"type": "image"}` (or `"video"`)
            entries in reading order, as `apply_chat_template` of transformers' multimodal processors takes them.

        Raises:
            ValueError: When `check_query` refuses the query, `num_frames` is below 1, or the prompt tells times and
                there is not one for each frame.
        """
        check_query(query)
        if num_frames < 1:
            raise ValueError(f"expected num_frames of at least 1, got {num_frames}; pass the number of frames shown")
        times = self._times(num_frames, times_seconds)
        fields = {"num_frames": num_frames, "last_index": num_frames - 1, "query": query, "video": _MARK}
        lines = (
            self.frame_line.format(index=index, seconds=seconds, image=_MARK, video=_MARK)
            for index, seconds in enumerate(times)
        )
        text = self.before.format(**fields) + "".join(lines) + self.after.format(**fields)
        first, *others = text.split(_MARK)
        content = _text(first)
        for part in others:
            content += [{"type": self.kind}, *_text(part)]
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        return [*system, {"role": "user", "content": content}]

    def _times(self, num_frames: int, times_seconds: Sequence[float] | None) -> list[float]:
        """Return one time per frame; zeros, which nobody reads, for a prompt that tells none."""
        if not self.tells_time:
            return [0.0] * num_frames
        if times_seconds is None or len(times_seconds) != num_frames:
            got = "none" if times_seconds is None else len(times_seconds)
            raise ValueError(
                f"prompt {self.name!r} tells when each frame is shown: expected {num_frames} times_seconds, got {got}"
            )
        return [float(seconds) for seconds in times_seconds]

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the fields as plain JSON values; `get_prompt` reads them back."""
        return asdict(self)


def check_query(query: str) -> None:
    """Refuse a query that no model can be asked.

    Args:
        query: The sentence to look for.

    Raises:
        ValueError: If it is no text or a blank one, longer than `MAX_QUERY_CHARACTERS`, or holds NUL or half a
            character (a lone surrogate, as broken JSON names it), which no tokenizer takes.
    """
    if isinstance(query, str) and not query.strip():
        raise ValueError("expected a query with a word in it, got a blank string; drop the row or write a query")
    _check_text("a query", query, MAX_QUERY_CHARACTERS)


def _check_text(what: str, text: object, most: int) -> None:
    """Refuse what is no text, too long, or not to be written in UTF-8."""
    if not isinstance(text, str):
        raise ValueError(f"expected {what} to be a text, got {printable(f'{text!r:.80}')}")
    if len(text) > most:
        raise ValueError(f"expected {what} of at most {most} characters, got {len(text)}: {printable(text[:40])}...")
    wrong = next((character for character in text if character == "\x00" or "\ud800" <= character <= "\udfff"), None)
    if wrong is not None:
        raise ValueError(f"expected {what} without {printable(wrong)}, got {printable(text[:80])}; remove it")


def _text(text: str) -> list[dict[str, Any]]:
    """One text entry, or nothing for an empty text (some chat templates add separators per entry)."""
    return [{"type": "text", "text": text}] if text else []
