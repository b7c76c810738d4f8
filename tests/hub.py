"""A stand-in for the model hub on this machine: the few answers that downloads ask for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def hub(root: Path) -> Iterator[str]:
    """Serve the folders `models/OWNER/NAME` and `datasets/OWNER/NAME` under `root`.

    Yields:
        The address, for HF_ENDPOINT.
    """
    server = _Hub(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Hub(ThreadingHTTPServer):
    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[4:5] == ["paths-info"]:
            # Names come as JSON or as a form, by the client's version.
            text = unquote(asked.decode().replace("+", " "))
            folder = self.server.root / "/".join(parts[1:4])
            named = [entry for entry in _tree(folder) if entry["path"] in text]
            self._send(json.dumps(named).encode(), True)
        else:
            self._missing()

    def _answer(self, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._describe(self.server.root / "/".join(parts[1:4]), "/".join(parts[2:4]), parts[4:])
            return
        if parts[0] != "datasets":
            parts = ["models", *parts]
        file = self.server.root / "/".join(parts[:3]) / "/".join(parts[5:])
        if parts[3:4] == ["resolve"] and file.is_file():
            self._send(file.read_bytes(), with_body)
        else:
            self._missing("EntryNotFound")

    def _describe(self, folder: Path, name: str, rest: list[str]) -> None:
        if not folder.is_dir():
            self._missing("RepoNotFound")
        elif rest[:1] == ["tree"]:
            entries = _tree(folder, "/".join(rest[2:]), "recursive=false" not in self.path)
            self._send(json.dumps(entries).encode(), True)
        elif not rest or rest[0] == "revision":
            files = [{"rfilename": e["path"]} for e in _tree(folder) if e["type"] == "file"]
            asked = rest[1] if len(rest) > 1 else "main"
            commit = asked if re.fullmatch("[0-9a-f]{40}", asked) else _commit(folder)
            about = {"id": name, "sha": commit, "siblings": files, "private": False}
            self._send(json.dumps({**about, "tags": [], "downloads": 0}).encode(), True)
        else:
            self._missing()

    def _send(self, body: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", self._asked_commit())
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _asked_commit(self) -> str:
        found = re.search("/resolve/([0-9a-f]{40})/", self.path)
        return found[1] if found else COMMIT

    def _missing(self, code: str = "EntryNotFound") -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _commit(folder: Path) -> str:
    """What `main` is: COMMIT, unless the folder has a file `.commit`."""
    file = folder / ".commit"
    return file.read_text() if file.is_file() else COMMIT


def _tree(folder: Path, inside: str = "", recursive: bool = True) -> list[dict]:
    everything = (folder / inside).rglob("*") if recursive else (folder / inside).glob("*")
    found = [path for path in everything if path.name != ".commit"]
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(folder).as_posix(),
            "size": 0 if path.is_dir() else path.stat().st_size,
            "oid": hashlib.sha1(path.as_posix().encode()).hexdigest(),
        }
        for path in sorted(found)
    ]
