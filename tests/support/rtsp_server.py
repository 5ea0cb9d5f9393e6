"""A camera: an RTSP server (RFC 2326) that sends an MPEG transport stream over the same connection."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKETS = 7 * 188  # bytes of a transport stream in one RTP packet
_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"


@contextmanager
def rtsp_server(stream: Path, seconds: float) -> Iterator[str]:
    """Serve one viewer. Yields the address.

    stream : an MPEG-TS file. seconds : in which it is sent; then the connection closes.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        viewer = threading.Thread(target=_serve, args=(server, stream.read_bytes(), seconds), daemon=True)
        viewer.start()
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/camera"
    viewer.join(10)


def _serve(server: socket.socket, content: bytes, seconds: float) -> None:
    try:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as lines:
            while request := _request(lines):
                method, sequence = request
                extra = {
                    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n",
                    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}\r\n",
                    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
                }.get(method, "Session: 1\r\n")
                body = _SDP if method == "DESCRIBE" else ""
                lines.write(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{extra}\r\n{body}".encode())
                lines.flush()
                if method == "PLAY":
                    _send(connection, content, seconds)
                    return
    except OSError:
        pass  # the viewer has left


def _request(lines: Any) -> tuple[str, str] | None:
    method = lines.readline().split(b" ")[0].decode()
    sequence = ""
    while line := lines.readline().strip():
        if line.lower().startswith(b"cseq:"):
            sequence = line.split(b":")[1].strip().decode()
    return (method, sequence) if method else None


def _send(connection: socket.socket, content: bytes, seconds: float) -> None:
    pieces = [content[at : at + _PACKETS] for at in range(0, len(content), _PACKETS)]
    for number, piece in enumerate(pieces):
        header = struct.pack(
            ">BBHII", 0x80, 33, number & 0xFFFF, int(90_000 * seconds * number / len(pieces)), 1
        )
        connection.sendall(struct.pack(">cBH", b"$", 0, len(header) + len(piece)) + header + piece)
        time.sleep(seconds / len(pieces))
