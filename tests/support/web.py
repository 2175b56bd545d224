"""A web server of this machine that stands in for a host that downloads come from."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


@contextlib.contextmanager
def serving() -> Iterator[SimpleNamespace]:
    """Within the block: its address; path -> content, of which it sends `cut` bytes at most."""
    web = SimpleNamespace(address="", pages={}, cut={})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            content = web.pages.get(name, b"")
            self.send_response(200 if name in web.pages else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: web.cut.get(name)])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web.address = f"http://127.0.0.1:{server.server_port}/"
        try:
            yield web
        finally:
            server.shutdown()
