"""The QVHighlights annotations from their public home, downloaded when asked for and checked against a known sum.

The files are the authors' (Lei, Berg and Bansal, "Detecting Moments and Highlights in Videos via Natural Language
Queries", NeurIPS 2021, https://github.com/jayleicn/moment_detr), under CC BY-NC-SA 4.0. They are not part of this
package: they go from there to the user's cache. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from hf_frameseg.data.annotations import ANNOTATION_FILES

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

_TIMEOUT_SECONDS = 30  # until the server answers, and between two pieces of the file


class DownloadError(OSError):
    """Say in one line why an annotation file could not be downloaded, and how to get it without."""


def default_cache_dir() -> Path:
    """Return the folder that downloads are kept in.

    Returns:
        `$HF_FRAMESEG_CACHE`; else `$HF_HOME/hf_frameseg`, as who moved the Hugging Face caches has a reason; else
        `hf_frameseg` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        DownloadError: If none is set and the user has no home folder.
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

    A file in the cache is used if its checksum is right and replaced if not. A new one is written beside its place and
    moved there when it is complete, so neither a broken connection nor a second process can damage it.

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
    if split not in ANNOTATION_FILES:
        raise ValueError(f"expected split to be one of {list(ANNOTATION_FILES)}, got {split!r}")
    name = ANNOTATION_FILES[split][0 if labels else -1]
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)).absolute() / "annotations"
    url = f"{(base_url or os.environ.get(URL_VARIABLE) or BASE_URL).rstrip('/')}/{name}"
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
    import pooch
    from requests import exceptions

    print(LICENCE_LINE, file=sys.stderr)
    if progress:
        print(f"downloading {url} to {path.parent}", file=sys.stderr)
    downloader = pooch.HTTPDownloader(
        progressbar=progress and sys.stderr.isatty(),
        chunk_size=2**16,
        timeout=_TIMEOUT_SECONDS,
        headers={"Accept-Encoding": "identity"},  # or the bar would count what was sent against what was unpacked
    )
    try:
        with _without_messages(pooch.get_logger()):
            checksum = f"sha256:{ANNOTATION_SHA256[path.name]}"
            pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=downloader)
        with suppress(OSError):  # another user may have put the same file there meanwhile
            path.chmod(0o644)  # pooch leaves the mode of a temporary file, which a shared cache cannot use
    except exceptions.HTTPError as error:
        raise _failure(f"{url} answered {error.response.status_code} {error.response.reason}", path) from error
    except exceptions.RequestException as error:  # is an OSError, and sometimes a ValueError
        cause = f"{url} could not be fetched from {urlsplit(url).hostname} ({type(error).__name__})"
        raise _failure(cause, path) from error
    except ValueError as error:
        raise _failure(f"{url} is not the published file (its sha256 differs), so it was not kept", path) from error
    except OSError as error:
        raise _failure(f"cannot write to {path.parent} ({error.strerror})", path, f"set {CACHE_VARIABLE}") from error


def _is_offline() -> bool:
    """Tell whether the user has switched downloads off, in the words of the Hub's client."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _failure(cause: str, path: Path, first_repair: str = "") -> DownloadError:
    """Make the one line: what happened, and how to go on without this download."""
    place = f"get {BASE_URL}/{path.name} by hand and put it at {path}, or use --data-dir (data_dir) with its folder"
    return DownloadError(f"{cause}; {first_repair + ', or ' if first_repair else ''}{place}")


@contextmanager
def _without_messages(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch's messages back: ours have said it."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
