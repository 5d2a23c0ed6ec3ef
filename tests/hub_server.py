"""A Hub on loopback: the calls of `huggingface_hub` that create, fill and read a repository, and its failures.

Models and data sets share one name space here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
COMMIT_OF = "{:040x}"


@dataclass
class Hub:
    """What the server holds, what it saw, and what it shall do wrong."""

    url: str = ""
    repos: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)  # every commit's files, of the main branch
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)  # the same by "repository@branch"
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # LFS objects by sha256
    seen: list[str] = field(default_factory=list)
    drop: str | None = None  # requests whose line matches are cut off without an answer

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """Return the newest commit's files."""
        return self.history(repo, branch)[-1]

    def history(self, repo: str, branch: str = "main") -> list[dict[str, bytes]]:
        """Return the commits of a branch."""
        return self.branches.get(f"{repo}@{branch}", self.repos[repo])


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the server until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.seen.append(line)
        if self.hub.drop and re.search(self.hub.drop, line):
            self.close_connection = True
            self.connection.close()
            return
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401, {"X-Error-Message": "Invalid credentials"})
            return
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                action(self, body, **match.groupdict())
                return
        self._json({"error": f"no route {line}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - the names that http.server looks for

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    # ---- Calls -------------------------------------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = "/".join(filter(None, [wanted.get("organization") or "me", wanted["name"]]))
        status = 409 if repo in self.hub.repos else 200
        self.hub.repos.setdefault(repo, [{}])
        self.hub.private.setdefault(repo, wanted.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo}, status)

    def branch(self, body: bytes, repo: str, branch: str) -> None:
        made = f"{repo}@{branch}" not in self.hub.branches
        self.hub.branches.setdefault(f"{repo}@{branch}", list(self.hub.repos[repo]))
        self._json({}, 200 if made else 409)

    def _lacks(self, repo: str, branch: str) -> bool:
        """Answer that there is no such branch, if so."""
        if branch == "main" or f"{repo}@{branch}" in self.hub.branches:
            return False
        self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return True

    def preupload(self, body: bytes, repo: str, branch: str) -> None:
        if self._lacks(repo, branch):
            return
        files = self.hub.files(repo, branch)
        answer = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith((".safetensors", ".parquet")) else "regular"
            old = files.get(file["path"])
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": _oid(old, mode)})
        self._json({"files": answer})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            wanted = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large:  # no "actions" means: already here
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(wanted)
        self._json({"transfer": "basic", "objects": objects})

    def put_large(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json({"error": "checksum"}, 400)
            return
        self.hub.large[oid] = body
        self._send(b"")

    def commit(self, body: bytes, repo: str, branch: str) -> None:
        if self._lacks(repo, branch):
            return
        files = dict(self.hub.files(repo, branch))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.history(repo, branch).append(files)
        sha = COMMIT_OF.format(len(self.hub.history(repo, branch)) - 1)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        if repo not in self.hub.repos:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.hub.files(repo)
        sha = COMMIT_OF.format(len(self.hub.repos[repo]) - 1)
        siblings = [{"rfilename": name} for name in files]
        private = self.hub.private.get(repo, False)
        self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": [], "private": private})

    def paths_info(self, body: bytes, repo: str, revision: str) -> None:
        wanted = json.loads(body)["paths"]
        files = [(path, data) for path, data in self.hub.files(repo).items() if path in wanted]
        self._json([{"type": "file", "path": path, "size": len(data), "oid": _oid(data, "")} for path, data in files])

    def tree(self, body: bytes, repo: str, revision: str, folder: str | None = None) -> None:
        files = [(path, data) for path, data in self.hub.files(repo).items() if path.startswith(folder or "")]
        if folder and not files:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self._json([{"type": "file", "path": path, "size": len(data), "oid": _oid(data, "")} for path, data in files])

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        if path not in self.hub.files(repo):
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = self.hub.files(repo)[path]
        sha = COMMIT_OF.format(len(self.hub.repos[repo]) - 1)
        headers = {"ETag": f'"{_oid(data, "lfs")}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(data, headers=headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(data[first : last + 1], status=206, headers=headers)

    def validate_yaml(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})


def _oid(data: bytes | None, mode: str) -> str | None:
    """Return what identifies a file: git's own hash for small ones, sha256 for large ones."""
    if data is None:
        return None
    if mode == "lfs":
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_API = r"/api/(?:models|datasets)/(?P<repo>[^/]+/[^/]+)"
_FILES = r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"{_API}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", f"{_API}/preupload/(?P<branch>[^/]+)", _Handler.preupload),
    ("POST", f"{_FILES}(?:\\.git)/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.put_large),
    ("POST", f"{_API}/commit/(?P<branch>[^/]+)", _Handler.commit),
    ("GET", _API, _Handler.info),
    ("GET", f"{_API}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", f"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", _Handler.tree),
    ("POST", f"{_API}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    (("GET", "HEAD"), f"{_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
