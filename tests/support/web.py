"""A web server of this machine that stands in for all hosts that downloads come from."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from requests.adapters import HTTPAdapter

QUOTA = (
    "Too many users have viewed or downloaded this file recently. Please try accessing the file "
    "again later."
)
QUOTA_PAGE = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    '<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>'
    f'<p class="uc-error-subcaption">{QUOTA}</p></body></html>'
).encode()
SCAN_PAGE = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t">'
    "</form></body></html>"
)
"""What Google Drive answers in place of a large file."""


@dataclass(frozen=True)
class Page:
    """What the server answers: `cut` is how many bytes come before the connection ends."""

    content: bytes
    kind: str = "application/octet-stream"
    status: int = 200
    cut: int | None = None


@dataclass
class Web:
    """Address of the server; host and path, with query -> page; all that was asked for."""

    address: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def drive(self, id: str, page: Page, large: bool = False) -> None:
        """A file of Google Drive; before a large one comes a form."""
        direct = f"drive.google.com/uc?id={id}"
        if large:
            self.pages[direct] = Page(SCAN_PAGE.replace("{id}", id).encode(), "text/html")
            self.pages[f"drive.usercontent.google.com/download?id={id}&confirm=t"] = page
        else:
            self.pages[direct] = page


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Within the block every request of `requests` goes to a server of this machine."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.removeprefix("/")
            web.asked.append(asked)
            page = web.pages.get(asked, Page(b"not found", "text/html", 404))
            self.send_response(page.status)
            self.send_header("Content-Type", page.kind)
            self.send_header("Content-Length", str(len(page.content)))
            if page.kind != "text/html":
                self.send_header("Content-Disposition", 'attachment; filename="file"')
            self.end_headers()
            self.wfile.write(page.content[: page.cut])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        local = web.address = f"http://127.0.0.1:{server.server_port}/"

        class ToServer(HTTPAdapter):
            def send(self, request: requests.PreparedRequest, **options: object):
                request.url = local + request.url.split("://", 1)[1]
                return super().send(request, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(requests.Session, "get_adapter", lambda self, url: ToServer())
        monkeypatch.setenv("NO_PROXY", "*")
        try:
            yield web
        finally:
            server.shutdown()
