"""A package index on loopback, with the wheels that a test wants, honest and other."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.harness import DEADLINE

HTML = "application/vnd.pypi.simple.v1+html"


def metadata(name: str, version: str, needs: Sequence[str] = ()) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]).encode()


def wheel(
    name: str,
    version: str = "1.0",
    needs: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
) -> bytes:
    """A wheel with a module of its name, unless other files are given; `links` are symlinks."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = dict(files if files is not None else {f"{module}.py": b"VALUE = 'it works'\n"})
    contents[f"{info}/METADATA"] = metadata(name, version, needs)
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},,\n" for path in contents) + f"{info}/RECORD,,\n"
    contents[f"{info}/RECORD"] = record.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in contents.items():
            archive.writestr(path, data)
        for path, target in (links or {}).items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, target)
    return packed.getvalue()


@dataclass
class Index:
    """Serves what `add` put there; `asked` are the paths that were asked for, in order."""

    port: int
    pages: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/simple"

    def add(self, name: str, version: str = "1.0", **made: Any) -> str:
        """A wheel of `wheel`'s making; the path at which it lies."""
        data = made.pop("data", None) or wheel(name, version, **made)
        file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        about = metadata(name, version, made.get("needs", ()))
        self.files[f"/files/{file}"] = data
        self.files[f"/files/{file}.metadata"] = about
        digest, known = (hashlib.sha256(d).hexdigest() for d in (data, about))
        self.link(
            name,
            f'<a href="/files/{file}#sha256={digest}" data-core-metadata="sha256={known}">'
            f"{file}</a>",
        )
        return f"/files/{file}"

    def link(self, name: str, line: str) -> None:
        self.pages.setdefault(name, []).append(line)

    def page(self, path: str) -> bytes | None:
        lines = self.pages.get(path.removeprefix("/simple/").rstrip("/"))
        return None if lines is None else f"<html><body>{''.join(lines)}</body></html>".encode()

    def was_asked(self, ending: str) -> bool:
        """Whether such a path was asked for."""
        return any(path.endswith(ending) for path in self.asked)

    def wait_for(self, path: str) -> None:
        """Until it is asked for."""
        with self._changed:
            assert self._changed.wait_for(lambda: path in self.asked, DEADLINE), self.asked

    def note(self, path: str) -> None:
        with self._changed:
            self.asked.append(path)
            self._changed.notify_all()


@contextmanager
def serving() -> Iterator[Index]:
    """An index with nothing on it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.note(self.path)
            if self.path in index.hanging:
                index.released.wait()
            if self.path in index.redirects:
                self.send_response(302)
                self.send_header("Location", index.redirects[self.path])
                self.end_headers()
                return
            page = index.page(self.path) if self.path.startswith("/simple/") else None
            data = page or index.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", HTML if page else "application/octet-stream")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # an installer that is killed hangs up

    server = Server(("127.0.0.1", 0), Handler)
    index = Index(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield index
    finally:
        index.released.set()
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()
