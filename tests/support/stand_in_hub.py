"""A stand-in for the Hugging Face hub: two servers on this machine, one that knows repositories, one with the blobs.

It speaks the part of the protocol that downloads use: model info, tree, and HEAD / GET of files with the hub's headers,
large files redirected to the blob host, which honours Range.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"  # noqa: S105 - opens nothing but this
LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    """Files, by revision's commit; gated ones want TOKEN."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    gated: bool = False
    moved_to: str | None = None


@dataclass
class Seen:
    """One request, as a server saw it."""

    host: str  # "hub" or "blobs"
    method: str
    path: str
    range: str | None
    authorized: bool


@dataclass
class StandIn:
    """The hub, and what to do wrong."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # file -> how many more times to cut it in the middle
    stall: set[str] = field(default_factory=set)  # files that never end
    failing: bool = False  # every answer is 503
    requests: list[Seen] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    blobs_url: str = ""

    def downloads(self, file: str) -> list[Seen]:
        """The requests for the content of a large file."""
        return [seen for seen in self.requests if seen.host == "blobs" and seen.path.endswith(file)]


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    servers = [_server(stand_in, "hub"), _server(stand_in, "blobs")]
    stand_in.url, stand_in.blobs_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield stand_in
    finally:
        stand_in.released.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def _server(stand_in: StandIn, host: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.serve()

        def do_GET(self) -> None:
            self.serve()

        def log_message(self, *_: object) -> None:
            pass

        def serve(self) -> None:
            path = unquote(urlsplit(self.path).path)
            authorized = self.headers.get("authorization") == f"Bearer {TOKEN}"
            stand_in.requests.append(Seen(host, self.command, path, self.headers.get("Range"), authorized))
            if stand_in.failing:
                self.answer(503, b"down")
            elif host == "blobs":
                self.serve_blob(path)
            elif path.startswith("/api/models/"):
                self.serve_api(path.removeprefix("/api/models/"))
            else:
                self.serve_file(path.removeprefix("/"), authorized)

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def serve_api(self, rest: str) -> None:
            org, name, kind, *revision = rest.split("/")
            repository = stand_in.repositories.get(f"{org}/{name}")
            if repository is None:
                self.answer(401, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
                return
            if repository.moved_to is not None:
                location = self.path.replace(f"{org}/{name}", repository.moved_to, 1)
                self.answer(307, Location=location)
                return
            asked = "/".join(revision)
            commit = asked if asked in repository.revisions.values() else repository.revisions.get(asked)
            if commit is None:
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            elif kind == "revision":
                info = {"id": f"{org}/{name}", "modelId": f"{org}/{name}", "sha": commit, "tags": [], "private": False}
                self.answer(200, json.dumps({**info, "siblings": []}).encode(), Content_Type="application/json")
            else:
                tree = [
                    {"type": "file", "path": path, "size": len(content), "oid": _hash(content)[:40]}
                    for path, content in repository.files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")

        def serve_file(self, path: str, authorized: bool) -> None:
            org, name, _, commit, file = path.split("/", 4)
            repository = stand_in.repositories[f"{org}/{name}"]
            if repository.moved_to is not None:
                self.answer(307, Location=self.path.replace(f"{org}/{name}", repository.moved_to, 1))
                return
            if repository.gated and not authorized:
                self.answer(403 if "authorization" in self.headers else 401, b"", X_Error_Code="GatedRepo")
                return
            content = repository.files[file]
            headers = {"X_Repo_Commit": commit, "ETag": f'"{_hash(content)}"'}
            if file.endswith(LARGE):
                location = f"{stand_in.blobs_url}/{org}/{name}/{file}"
                headers |= {"X_Linked_Etag": f'"{_hash(content)}"', "X_Linked_Size": str(len(content))}
                self.answer(302, b"", Location=location, **headers)
            elif self.command == "HEAD":
                self.send_response(200)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
            else:
                self.answer(200, content, **headers)

        def serve_blob(self, path: str) -> None:
            _, org, name, file = path.split("/")
            content = stand_in.repositories[f"{org}/{name}"].files[file]
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            rest = content[start:]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if stand_in.cut.get(file, 0) > 0:
                stand_in.cut[file] -= 1
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                self.close_connection = True
            elif file in stand_in.stall:
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                stand_in.stalled.set()
                stand_in.released.wait(60)
                self.close_connection = True
            else:
                self.wfile.write(rest)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
