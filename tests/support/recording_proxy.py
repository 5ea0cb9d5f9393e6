"""An HTTP proxy that records what it receives and forwards nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class RecordingProxy:
    """`requests` are the request lines and headers; `body` is what every plain request is answered with."""

    url: str = ""
    body: bytes = b"{}"
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def recording_proxy(body: bytes = b"{}") -> Iterator[RecordingProxy]:
    """Serve one on a free port of this machine until the block ends. `CONNECT` is refused with 403."""
    recorded = RecordingProxy(body=body)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _record(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorded.requests.append((self.requestline, headers))

        def do_GET(self) -> None:
            self._record()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(recorded.body)))
            self.end_headers()
            self.wfile.write(recorded.body)

        do_POST = do_DELETE = do_GET

        def do_CONNECT(self) -> None:
            self._record()
            self.send_error(403)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    recorded.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield recorded
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
