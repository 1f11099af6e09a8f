"""A hub on this machine: the parts of its HTTP API that huggingface_hub uses to create, upload and download models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "fake0token1for2tests3" * 2
OWNER = "someone"  # the account of TOKEN


@dataclass
class Repository:
    """A model repository with one branch; `commits` are the file names of each commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[set[str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class FakeHub:
    """The state of the hub, which tests read and change, and its server.

    Attributes:
        refused: Status and message of requests that are refused, by a pattern of their path.
        meanwhile: Files that another upload adds just before a commit.
        requests: Method and path of every request.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    meanwhile: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def start(self) -> ThreadingHTTPServer:
        """Start the server on a free port, in a thread; the caller shuts it down."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.route()

    def do_PUT(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def do_HEAD(self) -> None:
        self.route()

    def log_message(self, format: str, *args: Any) -> None: ...

    def route(self) -> None:
        """Answer a request by the first rule that matches its method and path."""
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        for pattern, (status, message) in self.hub.refused.items():
            if re.search(pattern, path):
                return self.answer({"error": message}, status)
        is_upload = self.command == "POST" or (self.command == "PUT" and not path.startswith("/lfs/"))
        if is_upload and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        rules = (
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", lambda body: self.answer({"warnings": [], "errors": []})),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main", self.preupload),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/lfs/(\w+)", self.store),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/main", self.commit),
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/\w+)?", self.info),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/\w+", self.tree),
            ("HEAD|GET", r"/([^/]+/[^/]+)/resolve/\w+/(.+)", self.resolve),
        )
        for commands, pattern, rule in rules:
            match = re.fullmatch(pattern, path)
            if match and self.command in commands.split("|"):
                return rule(*match.groups(), body)
        return self.answer({"error": "not found"}, 404)

    def create(self, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request.get('organization') or OWNER}/{request['name']}"
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository(request.get("visibility") == "private"))
        self.answer({"url": f"{self.hub.endpoint}/{name}", "error": "exists"}, status)

    def preupload(self, name: str, body: bytes) -> None:
        rows = json.loads(body)["files"]
        modes = [
            {"path": row["path"], "uploadMode": "lfs" if row["path"].endswith(".safetensors") else "regular"}
            for row in rows
        ]
        self.answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})

    def batch(self, name: str, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        actions = [{"upload": {"href": f"{self.hub.endpoint}/lfs/{row['oid']}"}} for row in objects]
        rows = [{**row, "actions": action} for row, action in zip(objects, actions, strict=True)]
        self.answer({"transfer": "basic", "objects": rows})

    def store(self, oid: str, body: bytes) -> None:
        self.hub.blobs[oid] = body
        self.answer({}, 200 if hashlib.sha256(body).hexdigest() == oid else 400)

    def commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        repository.files |= self.hub.meanwhile
        header, *lines = (json.loads(line) for line in body.splitlines())
        if header["value"].get("parentCommit") not in (None, repository.sha):
            return self.answer({"error": "A commit has happened since."}, 412)
        changed = {}
        for line in lines:
            value = line["value"]
            is_blob = line["key"] == "lfsFile"
            changed[value["path"]] = self.hub.blobs[value["oid"]] if is_blob else base64.b64decode(value["content"])
        repository.files |= changed
        repository.commits.append(set(changed))
        url = f"{self.hub.endpoint}/{name}/commit/{repository.sha}"
        return self.answer({"commitUrl": url, "commitOid": repository.sha})

    def info(self, name: str, body: bytes) -> None:
        repository = self.visible(name)
        if repository is not None:
            files = [{"rfilename": path} for path in repository.files]
            self.answer({"id": name, "sha": repository.sha, "private": repository.private, "siblings": files})

    def tree(self, name: str, body: bytes) -> None:
        repository = self.visible(name)
        if repository is not None:
            sizes = repository.files.items()
            self.answer([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in sizes])

    def resolve(self, name: str, path: str, body: bytes) -> None:
        repository = self.visible(name)
        if repository is None:
            return None
        headers = {"X-Repo-Commit": repository.sha}
        if path not in repository.files:
            return self.answer({"error": "Entry not found"}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
        content = repository.files[path]
        return self.answer(content, 200, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    def visible(self, name: str) -> Repository | None:
        """The repository, if it exists and the request may read it; else None, after an answer of 404."""
        repository = self.hub.repositories.get(name)
        is_allowed = repository is not None and (
            not repository.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        )
        if not is_allowed:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or bytes as they are; a HEAD gets the headers alone."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status >= 400 and isinstance(content, dict):
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
