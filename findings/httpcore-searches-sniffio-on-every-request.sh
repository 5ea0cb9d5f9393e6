#!/usr/bin/env bash
# Library:  httpcore 1.0.9 under httpx 0.28.1 (PyPI), with anyio 4.16.0, Python 3.11.
# Expected: installing httpx installs what its asynchronous client uses; a request imports nothing.
# Observed: httpcore calls `import sniffio` several times per request. anyio no longer depends on sniffio, so a plain
#           `pip install httpx` lacks it, and Python does not remember a failed import: each call searches all of
#           sys.path again. Installing sniffio ends that. Saw, per request:
#             without sniffio: 4 searches for it, 0.83 ms of CPU
#             with sniffio:    0 searches for it, 0.50 ms of CPU
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q httpx==0.28.1 httpcore==1.0.9 anyio==4.16.0
cat > "$dir/requests.py" <<'PYTHON'
import asyncio
import sys
import time

import httpx

REQUESTS = 500
searches = 0


class Count:
    """The first finder of modules: it finds nothing, and counts searches for sniffio."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        global searches
        searches += name == "sniffio"


async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError):
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(url)
        sys.meta_path.insert(0, Count)
        started = time.process_time()
        for _ in range(REQUESTS):
            await client.get(url)
        milliseconds = (time.process_time() - started) / REQUESTS * 1000
    server.close()
    print(f"{sys.argv[1]:<16} {searches / REQUESTS:g} searches for it, {milliseconds:.2f} ms of CPU")
    return searches


searched = asyncio.run(main())
assert (searched > 0) == (sys.argv[1] == "without sniffio:"), "the behaviour has changed"
PYTHON
"$dir/venv/bin/python" "$dir/requests.py" "without sniffio:"
"$dir/venv/bin/pip" install -q sniffio==1.3.1
"$dir/venv/bin/python" "$dir/requests.py" "with sniffio:"
