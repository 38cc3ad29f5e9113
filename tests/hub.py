"""A hub of one repository on this machine, which answers as the Hugging Face hub does."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(name: str, folder: Path, *, seconds: float = 0) -> Iterator[str]:
    """Serve a folder as the repository of a name; yield the address.

    `seconds` is how long it takes to say that it is there at all.
    """
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
    answers = {
        "/": b"",
        f"/api/models/{name}": json.dumps(about).encode(),
        f"/api/models/{name}/tree/main": b"[]",
    }
    for version in ("main", COMMIT):
        answers |= {f"/{name}/resolve/{version}/{file}": body for file, body in files.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            path = self.path.split("?")[0]
            time.sleep(seconds if path == "/" else 0)
            body = answers.get(path)
            self.send_response(404 if body is None else 200)
            if body is None:
                missing = "EntryNotFound" if f"/{name}/" in path else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(answers.get(self.path.split("?")[0], b""))

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
