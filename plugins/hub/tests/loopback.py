"""The part of the Hub's HTTP API that pushing and loading needs, on the loopback interface, with faults on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from xetstore import TOKEN as XET_TOKEN
from xetstore import Store, XetRoutes

TOKEN = "hf_loopbacktokenloopback"
_LARGE = (".safetensors", ".png", ".onnx")


class Pointer(bytes):
    """A file whose content lies in the Xet store."""

    oid: str
    size: int
    xet: str


@dataclass
class Repo:
    """Commits by hash, each a mapping from name to content; what is large is marked."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[commit], self.refs["main"] = files, commit
        return commit


class Loopback(ThreadingHTTPServer):
    """``with Loopback() as hub``; ``hub.fault(method, path, answer)`` answers matching requests so, ``times`` times.

    ``part`` is the size above which large files arrive in parts; 0 takes them whole.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part = 0
        self.xet = Store()
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self._faults: list[list[Any]] = []

    def __enter__(self) -> Loopback:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def fault(self, method: str, path: str, answer: int | Callable[[Handler], None], times: int = 1000) -> None:
        self._faults.append([method, path, answer, times])

    def heal(self) -> None:
        self._faults.clear()

    def due(self, method: str, path: str) -> Any:
        for entry in self._faults:
            if entry[0] == method and re.search(entry[1], path) and entry[3] > 0:
                entry[3] -= 1
                return entry[2]
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is no news."""


def cut(handler: Handler) -> None:
    """Read a part of the body, then break the connection."""
    handler.rfile.read(64)
    drop(handler)


def drop(handler: Handler) -> None:
    """Break the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Answer with half of a large file, or of the rest that is asked for, then break the connection."""
    content = handler.server.objects[handler.path.rpartition("/")[2]]
    start = int(re.findall(r"\d+", handler.headers.get("Range", "0"))[0])
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(content) - start))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    handler.wfile.write(content[start : start + (len(content) - start) // 2])
    handler.wfile.flush()
    drop(handler)


class Handler(XetRoutes, BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Loopback

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.route()

    def do_HEAD(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def do_PUT(self) -> None:
        self.route()

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if (fault := self.server.due(self.command, path)) is not None:
            if callable(fault):
                return fault(self)
            self.body()
            return self.refuse(fault, {403: "You are not allowed", 503: "Down for repair"}.get(fault, ""))
        given = self.headers.get("Authorization")
        if path.startswith("/xet/") and given != f"Bearer {XET_TOKEN}":
            self.body()
            return self.refuse(401, "a token of the store is needed")
        if given not in (None, f"Bearer {TOKEN}") and not path.startswith(("/lfs/", "/xet/")):
            self.body()
            return self.refuse(401, "Invalid credentials in Authorization header")
        self.known = given is not None
        routes = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/lfs/(\w+)", self.store),
            ("PUT", r"/lfs/(\w+)/(\d+)", self.store_part),
            ("POST", r"/lfs/(\w+)", self.complete),
            ("GET", r"/api/models/([^/]+/[^/]+)/xet-(read|write)-token/(.+)", self.token),
            ("POST", r"/xet/v1/xorbs/default/(\w+)", self.xorb),
            ("POST", r"/xet/v1/shards", self.shard),
            ("GET", r"/xet/v1/reconstructions/(\w+)", self.plan),
            ("GET", r"/xorb/(\w+)", self.part),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/(.+)", self.tree),
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            ("GET", r"/lfs/(\w+)", self.large),
        ]
        for method, pattern, answer in routes:
            if self.command in method.split("|") and (match := re.fullmatch(pattern, path)):
                return answer(*match.groups())
        self.body()
        self.refuse(404, f"no route {path}")

    def body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is not None:
            return self.rfile.read(int(length))
        content = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            content += self.rfile.read(size)
            self.rfile.readline()
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.rfile.readline()
        return content

    def answer(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: Any, code: int = 200, **headers: str) -> None:
        self.answer(code, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def ranged(self, content: bytes) -> None:
        """The whole, or the part that ``Range`` asks for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, content, Accept_Ranges="bytes")
        self.server.ranges.append(asked[0])
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if start >= len(content):
            return self.refuse(416, "nothing lies there")
        self.answer(206, content[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(content)}")

    def refuse(self, code: int, message: str, error: str = "") -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": error} if error else {})
        self.answer(code, json.dumps({"error": message}).encode(), Content_Type="application/json", **headers)

    def found(self, name: str, revision: str | None = None) -> tuple[Repo, str] | None:
        """The repository and the commit, or None after a refusal as the Hub words it."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self.known):
            return self.refuse(404 if self.known else 401, "Repository not found", "RepoNotFound")
        commit = repo.refs.get(revision or "main", revision or "")
        if revision is not None and commit not in repo.commits:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit

    def whoami(self) -> None:
        if not self.known:
            return self.refuse(401, "Invalid username or password.")
        self.json({"type": "user", "name": "ann", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        asked = json.loads(self.body())
        name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
        if name in self.server.repos:
            return self.json({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409)
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repos[name] = Repo(private=private)
        self.server.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def validate(self) -> None:
        good = json.loads(self.body())["content"].startswith("---\n")
        self.json({"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400)

    def preupload(self, name: str, revision: str) -> None:
        asked = json.loads(self.body())
        if self.found(name, revision):
            modes = [(file["path"], "lfs" if file["path"].endswith(_LARGE) else "regular") for file in asked["files"]]
            self.json({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None} for path, mode in modes]})

    def batch(self, name: str) -> None:
        asked = json.loads(self.body())
        rows = []
        for item in asked["objects"]:
            href, part = f"{self.server.url}/lfs/{item['oid']}", self.server.part
            header: dict[str, str] = {}
            if 0 < part < item["size"]:
                header = {str(i + 1): f"{href}/{i + 1}" for i in range(-(-item["size"] // part))} | {"chunk_size": str(part)}
            upload = {"upload": {"href": href, "header": header}}
            rows.append({**item, **({} if item["oid"] in self.server.objects else {"actions": upload})})
        self.json({"transfer": "multipart" if self.server.part else "basic", "objects": rows})

    def store(self, oid: str) -> None:
        content = self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self.refuse(400, "the content is not what its hash says")
        self.server.objects[oid] = content
        self.answer(200, b"")

    def store_part(self, oid: str, number: str) -> None:
        content = self.server.parts[oid, int(number)] = self.body()
        self.answer(200, b"", ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def complete(self, oid: str) -> None:
        given, content = json.loads(self.body()), b""
        for part in given["parts"]:
            piece = self.server.parts.get((oid, part["partNumber"]), b"")
            if part["etag"] != f'"{hashlib.md5(piece).hexdigest()}"':
                return self.refuse(400, "a part is missing")
            content += piece
        if hashlib.sha256(content).hexdigest() != oid:
            return self.refuse(400, "the content is not what its hash says")
        self.server.objects[oid] = content
        self.json({})

    def commit(self, name: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        if not (found := self.found(name, revision)):
            return
        repo, parent = found
        if lines[0]["value"].get("parentCommit", parent) != parent:
            return self.refuse(412, "A commit has happened since")
        files = dict(repo.commits[parent])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.content(value["oid"], value["size"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.commit(files)
        self.json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def content(self, oid: str, size: int) -> bytes:
        """What was uploaded before; a commit never carries large files itself."""
        if oid in self.server.objects:
            return self.server.objects[oid]
        pointer = Pointer(f"oid sha256:{oid}".encode())
        pointer.oid, pointer.size, pointer.xet = oid, size, self.server.xet.hashes[oid]
        return pointer

    def info(self, name: str, revision: str | None) -> None:
        if found := self.found(name, revision or "main"):
            repo, commit = found
            files = repo.commits[commit]
            head = files.get("README.md", b"").decode().split("---\n")
            data = yaml.safe_load(head[1]) if len(head) > 2 else {}
            rows = [{"rfilename": path} for path in sorted(files)]
            self.json({"id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": rows, "cardData": data, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        if found := self.found(name, revision):
            repo, commit = found
            rows = []
            for path, content in repo.commits[commit].items():
                row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                if isinstance(content, Pointer):
                    row |= {"size": content.size, "xetHash": content.xet}
                    row["lfs"] = {"oid": content.oid, "size": content.size, "pointerSize": 134}
                elif path.endswith(_LARGE):
                    row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                rows.append(row)
            self.json(rows)

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not (found := self.found(name, revision)):
            return
        repo, commit = found
        if repo.gated:
            return self.refuse(403, "Access to this model is restricted", "GatedRepo")
        content = repo.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        if isinstance(content, Pointer):
            link = f'<{self.server.url}/api/models/{name}/xet-read-token/{commit}>; rel="xet-auth"'
            linked = {"X_Linked_Etag": f'"{content.oid}"', "X_Linked_Size": str(content.size), "X_Repo_Commit": commit}
            return self.answer(302, b"", Location=f"{self.server.url}/lfs/{content.oid}", X_Xet_Hash=content.xet, Link=link, **linked)
        if not path.endswith(_LARGE):
            return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)
        oid = hashlib.sha256(content).hexdigest()
        linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit}
        store = f"http://localhost:{self.server.server_port}"  # another host, as the Hub's store is: the client keeps its token back
        self.answer(302, b"", Location=f"{store}/lfs/{oid}", **linked)

    def large(self, oid: str) -> None:
        self.ranged(self.server.objects[oid])
