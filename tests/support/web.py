"""A local web server that replaces a host of downloads."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


@contextlib.contextmanager
def serve() -> Iterator[SimpleNamespace]:
    """Runs a web server during the block.

    Yields:
        A namespace with its `address`, its `pages` (path -> content), and `cut` (path -> the number
        of bytes after which the server stops sending).
    """
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
