"""Real servers on loopback that behave as servers do: well, slowly, wrongly, or not at all."""

import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Its queue holds all who knock at once: a full one, of five, lets the rest wait a second or three, past their patience."""

    daemon_threads = True
    request_queue_size = 256


class Site:
    """What a server has, and how it misbehaves. files: by path. faults: by path, what the first so many requests get.

    A fault is "500", "early" (half of the body), "stall" (half, and then silence), "html" or "flip" (a wrong byte).
    """

    def __init__(self):
        self.files: dict[str, tuple[str, bytes]] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.silence = 3.0  # seconds of a stall
        self.url = ""

    def put(self, path: str, data: bytes, kind: str = "application/octet-stream", faults: list[str] | None = None) -> str:
        """Returns its address."""
        self.files[path] = (kind, data)
        if faults:
            self.faults[path] = list(faults)
        return self.url + path

    def put_data_set(self, name: str, files: dict[str, bytes], revision: str = "0" * 39 + "1") -> None:
        """A data set as the hub's client asks for it."""
        listed = [
            {
                "type": "file", "path": path, "size": len(data), "oid": "0" * 40,
                "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
            }
            for path, data in files.items()
        ]  # fmt: skip
        about = {"id": name, "sha": revision, "private": False, "tags": [], "siblings": []}
        self.put(f"/api/datasets/{name}", json.dumps(about).encode(), "application/json")
        self.put(f"/api/datasets/{name}/tree/{revision}", json.dumps(listed).encode(), "application/json")
        for path, data in files.items():
            self.put(f"/datasets/{name}/resolve/{revision}/{path}", data)


@contextlib.contextmanager
def serving():
    """A site on a port of its own."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            path = self.path.split("?")[0]
            if path not in site.files:
                self.send_error(404)
                return
            kind, data = site.files[path]
            fault = ""
            if body:
                site.asked[path] += 1
                fault = site.faults[path].pop(0) if site.faults.get(path) else ""
            if fault == "500":
                self.send_error(500)
                return
            if fault == "html":
                kind, data = "text/html", b"<html><body>Log in, please</body></html>".ljust(len(data))[: len(data)]
            if fault == "flip":
                data = bytes([data[0] ^ 1]) + data[1:]
            start = 0
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(wanted[1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", '"' + hashlib.sha256(site.files[path][1]).hexdigest() + '"')
            self.send_header("X-Repo-Commit", path.split("/resolve/")[1].split("/")[0] if "/resolve/" in path else "")
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if not body:
                return
            rest = data[start:]
            part = rest[: len(rest) // 2] if fault in ("early", "stall") else rest
            with contextlib.suppress(OSError):
                self.wfile.write(part)
                self.wfile.flush()
                site.sent[path] += len(part)
                if fault == "stall":
                    time.sleep(site.silence)
            self.close_connection = bool(fault)

    server = Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
