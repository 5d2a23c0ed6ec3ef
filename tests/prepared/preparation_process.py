"""Prepare val in a process of its own, and stop for good at a given moment, to be killed there (test_survival.py).

    python preparation_process.py OPTIONS.json

Options: those of `load_rows`, and `stop_at`: null, "part:N" (N parts are written), "row:N" (N rows went to the
writer) or "renamed" (the data set is complete, its parts are still there). `marker` is written when that moment comes.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.prepared import builder
from hf_frameseg.prepared.parts import Parts


def stop_after(items: Iterable[Any], count: int, marker: Path) -> Iterator[Any]:
    """Pass items on and stop before the next one is asked for."""
    for number, item in enumerate(items, start=1):
        yield item
        if number == count:
            stop(marker)


def stop(marker: Path) -> None:
    """Say that the moment is there, and wait for the kill."""
    marker.write_text("now")
    while True:
        signal.pause()


def main(options: dict[str, Any]) -> None:
    """Load val."""
    marker = Path(options.pop("marker"))
    kind, _, count = (options.pop("stop_at") or "").partition(":")
    if kind == "part":
        run_jobs = builder.run_jobs
        builder.run_jobs = lambda *args: stop_after(run_jobs(*args), int(count), marker)
    elif kind == "row":
        generate = QVHighlights._generate_examples
        QVHighlights._generate_examples = lambda *args, **kwargs: stop_after(
            generate(*args, **kwargs), int(count), marker
        )
    elif kind == "renamed":
        Parts.delete = lambda *args: stop(marker)
    dataset = load_rows("qvhighlights", split="val", **options)
    marker.write_text(json.dumps(dataset["qid"][:]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
