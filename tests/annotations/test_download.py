"""Annotations on demand: fetched once, checked, and one line with the repair for all that can go wrong (loopback)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.annotations import download
from hf_frameseg.annotations.download import DownloadError, default_cache_dir, fetch_annotations

CONTENT = b'{"qid": 1, "query": "a red circle"}\n' * 500
NAME = "highlight_val_release.jsonl"
PUBLISHED = download.ANNOTATION_SHA256[NAME]


@dataclass
class Mirror:
    """What the server answers and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    status: int = 200
    announced: int | None = None  # Content-Length, if not the real one
    together: threading.Barrier | None = None  # answers only when so many requests are there
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve files on loopback, with the checksum of what it serves as the published one."""
    state = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.together:
                state.together.wait(timeout=60)
            self.send_response(state.status)
            self.send_header("Content-Length", str(state.announced or len(state.content)))
            self.end_headers()
            self.wfile.write(state.content)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    monkeypatch.setitem(download.ANNOTATION_SHA256, NAME, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/data"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv(download.URL_VARIABLE, state.url)
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def failure(call: Callable[[], Path]) -> str:
    with pytest.raises(DownloadError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_downloaded_once(mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch_annotations("val", tmp_path)
    assert path == tmp_path / "annotations" / NAME
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert fetch_annotations("val", tmp_path) == path
    assert mirror.asked == [f"/data/{NAME}"]
    assert [file.name for file in path.parent.iterdir()] == [NAME]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        download.LICENCE_LINE,
        f"downloading {mirror.url}/{NAME} to {path.parent}",
    ]


def test_the_licence_is_named_without_progress_too(
    mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch_annotations("val", tmp_path, progress=False)
    assert capfd.readouterr().err == download.LICENCE_LINE + "\n"


def test_a_mirror_may_be_an_argument(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.URL_VARIABLE, "http://127.0.0.1:1/nothing")
    assert fetch_annotations("val", tmp_path, base_url=mirror.url + "/").read_bytes() == CONTENT
    assert mirror.asked == [f"/data/{NAME}"]


def test_a_damaged_copy_is_replaced(mirror: Mirror, tmp_path: Path) -> None:
    place = tmp_path / "annotations" / NAME
    place.parent.mkdir()
    place.write_bytes(CONTENT[:100])
    assert fetch_annotations("val", tmp_path).read_bytes() == CONTENT


def test_a_good_copy_is_enough_when_offline(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = failure(lambda: fetch_annotations("val", tmp_path))
    place = tmp_path / "annotations" / NAME
    assert message == (
        f"{NAME} is not in the cache, and HF_HUB_OFFLINE forbids to download it; get {download.BASE_URL}/{NAME} by "
        f"hand and put it at {place}, or use --data-dir (data_dir) with its folder"
    )
    place.parent.mkdir()
    place.write_bytes(CONTENT)  # as the message says
    assert fetch_annotations("val", tmp_path) == place
    assert mirror.asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 404}, "answered 404 Not Found"),
        ({"status": 503}, "answered 503 Service Unavailable"),
        ({"content": CONTENT + b"\n"}, "is not the published file (its sha256 differs), so it was not kept"),
        ({"content": b""}, "is not the published file"),
        ({"announced": len(CONTENT) + 10}, "could not be fetched from 127.0.0.1 (ChunkedEncodingError)"),
    ],
)
def test_a_wrong_answer_leaves_nothing_behind(answer: dict, words: str, mirror: Mirror, tmp_path: Path) -> None:
    for name, value in answer.items():
        setattr(mirror, name, value)
    message = failure(lambda: fetch_annotations("val", tmp_path))
    assert message.startswith(f"{mirror.url}/{NAME} ")
    assert words in message
    assert "by hand and put it at" in message
    assert list((tmp_path / "annotations").iterdir()) == []


def test_too_much_is_not_kept(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", len(CONTENT) - 1)
    message = failure(lambda: fetch_annotations("val", tmp_path))
    assert f"sends more than {len(CONTENT) - 1} bytes, so it was not kept" in message
    assert list((tmp_path / "annotations").iterdir()) == []


def test_a_server_that_dawdles_is_given_up(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.together = threading.Barrier(2)  # it never answers
    monkeypatch.setattr(download, "MAX_DOWNLOAD_SECONDS", 0.2)
    try:
        assert "took more than 0.2 s, so it was not kept" in failure(lambda: fetch_annotations("val", tmp_path))
    finally:
        mirror.together.abort()
    assert list((tmp_path / "annotations").iterdir()) == []


def test_what_opens_a_mirror_is_not_printed(
    mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mirror.url.replace("http://", "http://user:secret@") + "?key=secret#secret"
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "status", 403)
        assert "secret" not in failure(lambda: fetch_annotations("val", tmp_path, base_url=url))
    gone = "http://user:secret@127.0.0.1:1/x?key=secret"
    assert "secret" not in failure(lambda: fetch_annotations("val", tmp_path, base_url=gone))
    assert "secret" not in failure(lambda: fetch_annotations("val", tmp_path, base_url="http://u:secret@[::1"))
    assert fetch_annotations("val", tmp_path, base_url=url).read_bytes() == CONTENT
    assert mirror.asked[-1] == f"/data/{NAME}?key=secret"
    captured = capfd.readouterr()
    assert "secret" not in captured.err + captured.out


def test_a_kill_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    mirror.together = threading.Barrier(2)
    process = child(tmp_path)
    while mirror.together.n_waiting == 0:  # until it has asked
        assert process.poll() is None
        os.sched_yield()
    process.kill()
    process.communicate()
    mirror.together.wait(timeout=60)
    mirror.together = None
    folder = tmp_path / "annotations"
    assert list(folder.iterdir()) == []
    (folder / f".{NAME}.{process.pid}.part").write_bytes(b"half")  # killed while it wrote
    (folder / f".{NAME}.0abc.{process.pid}.part").write_bytes(b"half")
    going_on = f".{NAME}.1def.{os.getpid()}.part"
    (folder / going_on).write_bytes(b"half")  # of a process that is still at it
    fetch_annotations("val", tmp_path)
    assert {path.name for path in folder.iterdir()} == {NAME, going_on}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no-address", "ftp://127.0.0.1/x", "http://"])
def test_an_address_that_does_not_answer(url: str, mirror: Mirror, tmp_path: Path) -> None:
    assert "could not be fetched from" in failure(lambda: fetch_annotations("val", tmp_path, base_url=url))


def test_a_failed_update_keeps_the_old_file(mirror: Mirror, tmp_path: Path) -> None:
    place = tmp_path / "annotations" / NAME
    place.parent.mkdir()
    place.write_bytes(b"mine")
    mirror.status = 404
    failure(lambda: fetch_annotations("val", tmp_path))
    assert place.read_bytes() == b"mine"


def test_a_cache_that_cannot_be_a_folder(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = failure(lambda: fetch_annotations("val", tmp_path / "file"))
    assert "(Not a directory); " in message
    assert str(tmp_path / "file") in message


def test_a_cached_file_that_cannot_be_read(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "annotations" / NAME).mkdir(parents=True)
    assert "(Is a directory)" in failure(lambda: fetch_annotations("val", tmp_path))


CHILD = """
import hashlib, sys
from hf_frameseg.annotations import download
download.ANNOTATION_SHA256["highlight_val_release.jsonl"] = sys.argv[2]
{before}
try:
    print(hashlib.sha256(download.fetch_annotations("val", sys.argv[1]).read_bytes()).hexdigest())
except download.DownloadError as error:
    print(error)
print(sorted({{"torch", "datasets", "transformers"}} & set(sys.modules)))
"""


def child(folder: Path, before: str = "") -> subprocess.Popen:
    """Fetch in another process."""
    command = [sys.executable, "-c", CHILD.format(before=before), str(folder), hashlib.sha256(CONTENT).hexdigest()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_two_processes_at_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.together = threading.Barrier(2)  # neither gets its file before both have asked
    children = [child(tmp_path), child(tmp_path)]
    for process in children:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.splitlines() == [hashlib.sha256(CONTENT).hexdigest(), "[]"]  # and no heavy library was loaded
    assert len(mirror.asked) == 2
    assert [file.name for file in (tmp_path / "annotations").iterdir()] == [NAME]


def test_a_disk_without_room(mirror: Mirror, tmp_path: Path) -> None:
    # a limit on the size of files stands for a full disk: the write fails in the middle of the file
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    out, err = child(tmp_path, limit).communicate(timeout=120)
    folder = tmp_path / "annotations"
    assert out.startswith(f"cannot write to {folder} (File too large); set HF_FRAMESEG_CACHE, or get http"), err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HF_FRAMESEG_CACHE": "/a", "HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hf_frameseg"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/hf_frameseg"),
        ({}, "/home/u/.cache/hf_frameseg"),
        ({"HF_FRAMESEG_CACHE": "~/x"}, "/home/u/x"),
    ],
)
def test_the_cache_follows_the_environment(settings: dict, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_FRAMESEG_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == Path(expected)


def test_splits_have_their_files(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_dir: Path
) -> None:
    monkeypatch.setitem(download.ANNOTATION_SHA256, NAME, PUBLISHED)
    for name in download.ANNOTATION_SHA256:
        mirror.content = (shared_dir / "qvhighlights" / name).read_bytes()
        split = name.split("_")[1]
        path = fetch_annotations(split, tmp_path, labels="test_release" not in name, base_url=mirror.url)
        assert path.name == name
    with pytest.raises(ValueError, match="expected split to be one of"):
        fetch_annotations("dev", tmp_path)
