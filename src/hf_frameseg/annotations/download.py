"""Download the QVHighlights annotations from the repository of their authors, and check them by their checksums.

The authors (Lei, Berg and Bansal, "Detecting Moments and Highlights in Videos via Natural Language Queries", NeurIPS
2021, https://github.com/jayleicn/moment_detr) publish the files under CC BY-NC-SA 4.0. This package does not contain
them: it downloads the one that is asked for to the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hf_frameseg._files import atomic_write
from hf_frameseg._text import printable
from hf_frameseg.annotations.qvhighlights import QVHIGHLIGHTS_FILES

ANNOTATION_SHA256: dict[str, str] = {
    "highlight_train_release.jsonl": "fd28404187468f57cf99242be2963127dc9b4aef26c7de3cb9469569801f2625",
    "highlight_val_release.jsonl": "f668a1eaea156ec5315e14718999cea043a8cf948d3cafbd8e8d655318c3cd02",
    "highlight_test_with_gt.jsonl": "bd50ec6bb5dd3f72571126ba5fdc7418efdd9219a9487984e483a02e2ce5d493",
    "highlight_test_release.jsonl": "0462f0cb582b54913671ba5ebfc325931ffa6d422c60cb72520749fc6d5d05a3",
}
"""File name -> checksum of the published file."""

BASE_URL = "https://raw.githubusercontent.com/jayleicn/moment_detr/7c61a84217e7e6b7ee0ba0ae494c337644e9cdd4/data"
"""Folder of the published files, at one commit."""

CACHE_VARIABLE = "HF_FRAMESEG_CACHE"
"""Environment variable: folder for what is downloaded."""

URL_VARIABLE = "HF_FRAMESEG_ANNOTATIONS_URL"
"""Environment variable: address of a mirror of `BASE_URL`; the checksums stay."""

LICENCE_LINE = "QVHighlights annotations (Lei et al., NeurIPS 2021): CC BY-NC-SA 4.0, not part of this package"

MAX_DOWNLOAD_BYTES = 64 * 2**20
"""Size of a download; the largest file has 4 MB."""

MAX_DOWNLOAD_SECONDS = 600.0
"""Time of a download, all in all."""

_PIECE_BYTES = 2**16
_MAX_REDIRECTS = 5
_TIMEOUT_SECONDS = 30  # until the server answers, and between two pieces of the file


class DownloadError(OSError):
    """Say in one line why an annotation file could not be downloaded, and how to get it without a download."""


def default_cache_dir() -> Path:
    """Return the folder that downloads are kept in.

    Returns:
        `$HF_FRAMESEG_CACHE` if it is set; else the folder `hf_frameseg` in `$HF_HOME`, where the other Hugging Face
        caches are; else the same in `$XDG_CACHE_HOME`; else in `~/.cache`.

    Raises:
        DownloadError: If no variable is set and the user has no home folder.
    """
    try:
        if os.environ.get(CACHE_VARIABLE):
            return Path(os.environ[CACHE_VARIABLE]).expanduser()
        parent = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(parent).expanduser() / "hf_frameseg"
    except RuntimeError:
        raise DownloadError(f"no home folder to keep downloads in; set {CACHE_VARIABLE} to a folder") from None


def fetch_annotations(
    split: str,
    cache_dir: str | Path | None = None,
    *,
    labels: bool = True,
    base_url: str | None = None,
    progress: bool = True,
) -> Path:
    """Return a split's annotation file, downloading it the first time.

    A file in the cache is used if its checksum is right, and replaced if not. A download stays in memory until its
    checksum is right; then the file is written as a whole. So neither a broken connection nor a second process can
    leave a damaged file.

    Args:
        split: "train", "val" or "test".
        cache_dir: Folder for downloads; None takes `default_cache_dir()`. The files lie in `annotations/` inside.
        labels: False takes the file without labels, where one was published (test).
        base_url: Address of a mirror; None takes `$HF_FRAMESEG_ANNOTATIONS_URL` or the authors' repository.
        progress: Say on stderr what is downloaded, with a bar on a terminal. The licence is named in any case.

    Returns:
        Path of a file whose checksum is right.

    Raises:
        ValueError: If there is no such split.
        DownloadError: If the file is not in the cache and could not be put there.
    """
    if split not in QVHIGHLIGHTS_FILES:
        raise ValueError(f"expected split to be one of {list(QVHIGHLIGHTS_FILES)}, got {split!r}")
    name = QVHIGHLIGHTS_FILES[split][0 if labels else -1]
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)).absolute() / "annotations"
    url = _address(base_url or os.environ.get(URL_VARIABLE) or BASE_URL, name)
    if not _is_published(folder / name):
        _download(url, folder / name, progress)
    return folder / name


def _is_published(path: Path) -> bool:
    """Tell whether a file is there and is the published one."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == ANNOTATION_SHA256[path.name]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failure(f"cannot read {path} ({error.strerror})", path) from error


def _download(url: str, path: Path, progress: bool) -> None:
    """Bring one file into the cache."""
    if _is_offline():
        raise _failure(f"{path.name} is not in the cache, and HF_HUB_OFFLINE forbids to download it", path)
    print(LICENCE_LINE, file=sys.stderr)
    shown = _without_secrets(url)
    _make_folder(path)
    if progress:
        print(f"downloading {shown} to {printable(path.parent)}", file=sys.stderr)
    try:
        content = _in_time(lambda: _fetch(url, progress and sys.stderr.isatty()))
    except (_RefusedError, TimeoutError) as error:
        raise _failure(f"{shown} {error}, so it was not kept", path) from None
    except OSError as error:  # of `requests`, whose messages hold the address as it is
        cause = f"{shown} could not be fetched from {printable(urlsplit(shown).hostname)} ({type(error).__name__})"
        raise _failure(cause, path) from None
    if hashlib.sha256(content).hexdigest() != ANNOTATION_SHA256[path.name]:
        raise _failure(f"{shown} is not the published file (its sha256 differs), so it was not kept", path)
    try:
        _remove_leftovers(path)
        atomic_write(path, content)
        with suppress(OSError):  # another user may have put the same file there meanwhile
            path.chmod(0o644)  # a shared cache is for others too, whatever the umask
    except OSError as error:
        raise _no_place(error, path) from error


def _make_folder(path: Path) -> None:
    """Make the folder of a file; called before the download, which would be lost without a place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_place(error, path) from error


def _no_place(error: OSError, path: Path) -> DownloadError:
    """Return the error for a file that cannot be written."""
    reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error.strerror
    return _failure(f"cannot write to {printable(path.parent)} ({reason})", path, f"set {CACHE_VARIABLE}")


class _RefusedError(Exception):
    """Say what a server did instead of sending the file; a few words that follow the address."""


def _fetch(url: str, show_bar: bool) -> bytes:
    """Return the content at an address, up to the size limit."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # else the bar compares packed bytes with unpacked ones
    content = bytearray()
    with requests.Session() as session:
        session.max_redirects = _MAX_REDIRECTS
        with session.get(url, stream=True, timeout=_TIMEOUT_SECONDS, headers=headers) as answer:
            if not answer.ok:
                raise _RefusedError(f"answered {answer.status_code} {printable(answer.reason)}")
            announced = answer.headers.get("Content-Length", "")
            total = int(announced) if announced.isdecimal() and len(announced) < 20 else None
            with _bar(total) if show_bar else nullcontext() as bar:
                for piece in answer.iter_content(_PIECE_BYTES):
                    content += piece
                    if bar is not None:
                        bar.update(len(piece))
                    if len(content) > MAX_DOWNLOAD_BYTES:
                        raise _RefusedError(f"sends more than {MAX_DOWNLOAD_BYTES} bytes")
    return bytes(content)


def _bar(total: int | None) -> Any:
    """Return a progress bar."""
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="B", unit_scale=True)


def _in_time(fetch: Callable[[], bytes]) -> bytes:
    """Run a download up to the time limit; time-outs of `requests` do not stop a server that sends single bytes."""
    outcome: list[bytes | BaseException] = []

    def run() -> None:
        try:
            outcome.append(fetch())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)  # the process can end before it does
    thread.start()
    thread.join(MAX_DOWNLOAD_SECONDS)
    if not outcome:
        raise TimeoutError(f"took more than {MAX_DOWNLOAD_SECONDS:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _remove_leftovers(path: Path) -> None:
    """Delete the unfinished files of processes that were killed while writing."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        owner = part.name.removesuffix(".part").rpartition(".")[2]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            part.unlink(missing_ok=True)


def _without_secrets(url: str) -> str:
    """Return an address without user, password and query, which messages must not show."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        return printable(parts._replace(netloc=netloc, query="", fragment="").geturl())
    except ValueError:
        return "the mirror's address (malformed)"


def _address(folder: str, name: str) -> str:
    """Return the address of a file in a folder; the query of the folder's address, such as a key, stays at the end."""
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def _is_offline() -> bool:
    """Tell whether the user has switched downloads off, in the words of the Hub's client."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _failure(cause: str, path: Path, first_repair: str = "") -> DownloadError:
    """Return the error: what happened, and how to go on without this download."""
    place = f"get {BASE_URL}/{path.name} by hand and put it at {path}, or use --data-dir (data_dir) with its folder"
    return DownloadError(f"{cause}; {first_repair + ', or ' if first_repair else ''}{place}")
