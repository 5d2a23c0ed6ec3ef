"""Prepared frames on the Hub: pushed in one commit, private unless asked otherwise, and read back as a stream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.shards.files import find_shards, frames_of_shard, order_shards
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.sharing.loading import hub_error

_TERMS = {
    "QVHighlights": "The videos of QVHighlights are from YouTube and belong to their owners. These frames are copies "
    "of parts of them and **must not be redistributed**: keep this repository private. The annotations are licensed "
    "[CC BY-NC-SA 4.0](https://github.com/jayleicn/moment_detr/tree/main/data): non-commercial use, attribution, "
    "share alike.",
    "synthetic": "Made from synthetic videos of `frameseg synth`, which are free of others' rights.",
}
_OTHER_TERMS = (
    "These frames are copies of parts of videos. Whoever has no right to share the videos has none to share the "
    "frames: keep this repository private."
)

_CARD = """---
license: other
license_name: see-card
configs:
- config_name: default
  data_files:
{data_files}
tags:
- hf_frameseg
- moment-retrieval
- highlight-detection
---

# Frames of {name}

{frames} x 3 frames of {height} x {width} pixels a row ({kind}), one row per query, prepared with
[hf_frameseg](https://arxiv.org/abs/2512.12246). The rows of a video are neighbours and share its frames.

| split | rows | shards | MB |
|---|---|---|---|
{table}

## Use

```python
from hf_frameseg import Sample, stream_frames

stream = stream_frames("{repo_id}", "{split}", seed=0)
print(len(stream), Sample.of(next(iter(stream))).pictures().shape)
```

`datasets.load_dataset("{repo_id}")` downloads all of it instead.

## Rights

{terms}
"""


def push_frames(
    folder: str | Path,
    repo_id: str,
    *,
    source: str | None = None,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload frames",
) -> str:
    """Upload saved shards as a data set, in one commit: the repository gets all of them or nothing.

    Pushing again replaces shards and card and removes shards that are no longer there; a broken push goes on where it
    was, since large files that have arrived are not sent again.

    Args:
        folder: From `save_shards`, with one split or more.
        repo_id: `owner/name`; made when it does not exist.
        source: What the frames are of, for the card; "QVHighlights" and "synthetic" bring their terms.
        private: Whether the repository must be private. Frames of QVHighlights are not ours to share.
        token: Hub token with the right to write; None takes the one of `hf auth login`.
        revision: Branch; None takes the main one.
        commit_message: First line of the commit.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: If the folder holds no shards or some are missing.
        ValueError: If the repository is public and `private` is not False, or a shard is a link.
        PermissionError: If the Hub refuses the token.
        ConnectionError: If the Hub cannot be reached or the connection breaks.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    shards = _shards_by_split(Path(folder))
    card = _card(shards, repo_id, source)
    names = {f"data/{path.name}": path for paths in shards.values() for path in paths}
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        info = api.dataset_info(repo_id)  # an old repository keeps its visibility
        if private and not info.private:
            raise ValueError(
                f"expected a private repository, {repo_id} is public: choose another name, or pass private=False if "
                "you may publish the frames"
            )
        if revision is not None:
            api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        present = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        stale = [name for name in present if re.fullmatch(r"data/[^/]+\.parquet", name) and name not in names]
        operations: list[Any] = [CommitOperationAdd("README.md", card.encode())]
        operations += [CommitOperationAdd(name, str(path)) for name, path in names.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(
            repo_id, operations, repo_type="dataset", commit_message=commit_message, revision=revision
        )
    except Exception as error:
        raise hub_error(error, f"push to {repo_id}") from error
    return str(commit.commit_url)


def stream_frames(
    source: str | Path,
    split: str,
    *,
    seed: int | None = None,
    buffer_rows: int | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> FrameStream:
    """Open the shards of a folder or of a Hub repository as a stream; nothing is downloaded but the rows as they come.

    Args:
        source: Folder of `save_shards`, or `owner/name` when there is no such folder.
        split: Name of the split.
        seed: Seed of the order, which is another one every epoch; None keeps the order of the shards.
        buffer_rows: Rows that are mixed at a time; None takes as many as fill 128 MB.
        revision: Branch, tag or commit of the repository.
        token: Hub token; None takes the one of `hf auth login`.

    Returns:
        Rows for the collator and the trainer; see `FrameStream` for epochs, several processes and resuming.

    Raises:
        FileNotFoundError: If there is neither folder nor repository, or shards of the split are missing.
        PermissionError: If the Hub refuses the token.
        ConnectionError: If the Hub cannot be reached.

    Example:
        Train from a private repository::

            stream = stream_frames("you/qvhighlights-frames", "train", seed=0)
            SegmentationSeq2SeqTrainer(model, args, collator, train_dataset=stream, ...).train()
    """
    name = str(source)
    if isinstance(source, Path) or Path(name).is_dir() or name.count("/") != 1 or name[0] in "./~":
        return FrameStream(find_shards(Path(name).expanduser(), split), seed=seed, buffer_rows=buffer_rows)
    from huggingface_hub import HfApi

    try:
        # The commit, not the branch: a push during training must not change the shards under the stream.
        info = HfApi(token=token).dataset_info(name, revision=revision)
        names = [file.rfilename for file in info.siblings or [] if file.rfilename.startswith("data/")]
        shards = [f"hf://datasets/{name}@{info.sha}/{file}" for file in order_shards(names, split, name)]
        return FrameStream(shards, seed=seed, buffer_rows=buffer_rows, token=token)
    except Exception as error:
        raise hub_error(error, f"load {name}") from error


def _shards_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return the complete shards of every split in a folder, training first."""
    paths = sorted((folder / "data").glob("*-of-*.parquet"))
    if others := [path for path in paths if path.is_symlink() or not path.is_file()]:
        raise ValueError(
            f"expected files that save_shards has written, {printable(others[0])} is a link or no file: what it leads "
            "to would be uploaded; remove it"
        )
    found = {path.name.rpartition("-of-")[0].rpartition("-")[0] for path in paths}
    if not found:
        raise FileNotFoundError(f"expected shards in {folder / 'data'}, got none; write them with save_shards")
    return {split: [Path(path) for path in find_shards(folder, split)] for split in sorted(found, key=_split_order)}


def _split_order(split: str) -> tuple[int, str]:
    """Sort train, val, test, then the others."""
    known = ("train", "val", "test")
    return (known.index(split) if split in known else len(known), split)


def _card(shards: dict[str, list[Path]], repo_id: str, source: str | None) -> str:
    """Write the README."""
    import pyarrow.parquet as pq

    (num_frames, _, height, width, _), kind = frames_of_shard(next(iter(shards.values()))[0])
    table = []
    for split, paths in shards.items():
        rows = sum(pq.read_metadata(path).num_rows for path in paths)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        table.append(f"| {split} | {rows} | {len(paths)} | {megabytes:.1f} |")
    return _CARD.format(
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in shards),
        name=source or "videos",
        frames=num_frames,
        height=height,
        width=width,
        kind="uint8" if kind == "raw" else "JPEG",
        table="\n".join(table),
        repo_id=repo_id,
        split=next(iter(shards)),
        terms=_TERMS.get(source or "", _OTHER_TERMS),
    )
