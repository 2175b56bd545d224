"""A server of the Hugging Face hub's form, in memory: commit, list, download."""

import base64
import hashlib
import json
import re
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

REVISION = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Repositories of models; `files` is repository -> path -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.downloaded: list[str] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"], **plain} for file in asked]})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[match[1]][line["value"]["path"]] = content
            url = f"{self.server.url}/{match[1]}/commit/{REVISION}"
            return self._json({"commitUrl": url, "commitOid": REVISION, "success": True})
        return self._json({"errors": [], "warnings": []})  # of the card's keys

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/(.+)/tree/[^/]+", path):
            files = self.server.files[match[1]].items()
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                    for name, content in files
                ]
            )
        if match := re.fullmatch(r"/api/models/(.+?)(?:/revision/.+)?", path):
            names = [{"rfilename": name} for name in self.server.files[match[1]]]
            usual = {"private": False, "downloads": 0, "likes": 0, "tags": []}
            return self._json({"id": match[1], "sha": REVISION, "siblings": names, **usual})
        repo, _, name = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path).groups()
        content = self.server.files[repo][name]
        if self.command == "GET":
            self.server.downloaded.append(name)
        kind = "application/octet-stream"
        self._answer(content, kind, ETag=f'"{_oid(content)}"', X_Repo_Commit=REVISION)

    do_HEAD = do_GET


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
