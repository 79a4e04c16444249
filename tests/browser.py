"""A headless Chromium, driven over its own protocol: one page, as a person would use it."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE = 120.0
"""Seconds after which something hangs: how busy the machine is must not matter."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root, and visit only pages of our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
PR_SET_PDEATHSIG = 1
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}


class Page:
    """The one page; `errors` is everything that it complained about."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """A command's result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        deadline = time.monotonic() + PATIENCE
        while True:
            message = json.loads(self._socket.recv(max(0.1, deadline - time.monotonic())))
            if message.get("id") != number:
                self._note(message)
            elif "error" in message:
                raise AssertionError(f"{method}: {message['error']}")
            else:
                return message["result"]

    def open(self, url: str) -> None:
        """Load it anew, and wait until the page's script has run."""
        for place in ("about:blank", url):  # to the same page with another fragment nothing loads
            self.send("Page.navigate", url=place)
            begun = json.dumps(place.partition("#")[0])
            self.until(f"location.href.startsWith({begun}) && document.readyState === 'complete'")

    def eval(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """The expression's first true value; true for an element that is there."""
        expression = f"(v => v instanceof Node || v)({expression})"
        deadline = time.monotonic() + PATIENCE
        while not (value := self._eval_now(expression)):
            shown = self._eval_now("document.body.innerText")
            assert time.monotonic() < deadline, f"never: {expression}\n{shown}\n{self.errors}"
            time.sleep(0.02)
        return value

    def complained(self, word: str) -> None:
        """Wait for a complaint with that word in it, which is as it should be: it is forgotten.

        The browser tells of what it complains about in its own time.
        """
        deadline = time.monotonic() + PATIENCE
        while not (found := [error for error in self.errors if word in error]):
            assert time.monotonic() < deadline, f"no complaint of {word}: {self.errors}"
            self.send("Runtime.evaluate", expression="1")  # whatever was told meanwhile is read
            time.sleep(0.02)
        self.errors.remove(found[0])

    def _eval_now(self, expression: str) -> Any:
        """The value; None while the page is on its way to another."""
        try:
            return self.eval(expression)
        except AssertionError:
            return None

    def text(self, selector: str) -> str:
        """What can be read there; "" where nothing is."""
        return str(self.eval(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        text = "\r" if key == "Enter" else ""
        code = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int) -> None:
        """The window's size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def screenshot(self, path: Path) -> None:
        """What can be seen now, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message.get("method") == "Network.requestWillBeSent":
            self.errors += [u for u in [params["request"]["url"]] if not _is_local(u)]


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "about:", "blob:"))


def program() -> str | None:
    """The browser that this machine has."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextlib.contextmanager
def open_browser() -> Iterator[Page]:
    """A page of a browser of its own; at the end nothing of it is left."""
    found = program()
    assert found is not None, "no Chromium: apt-get install chromium"
    profile = Path(tempfile.mkdtemp(prefix="mcpcp-browser-"))
    process = subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_the_tests,
        env={**os.environ, "HOME": str(profile)},
    )
    try:
        with connect(
            _debugger(profile, process),
            max_size=None,
            proxy=None,
            open_timeout=PATIENCE,
            ping_interval=None,  # a browser that is slow to answer is waited for
        ) as socket:
            yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _remove(profile)


def _die_with_the_tests() -> None:
    """In the browser to be: a test run that is killed must not leave it behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _remove(profile: Path) -> None:
    """The children of a killed browser may still be writing."""
    deadline = time.monotonic() + PATIENCE
    while profile.exists() and time.monotonic() < deadline:
        shutil.rmtree(profile, ignore_errors=True)
        time.sleep(0.02)


def _debugger(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the page's own protocol."""
    deadline = time.monotonic() + PATIENCE
    file = profile / "DevToolsActivePort"
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < deadline, "the browser does not start"
        time.sleep(0.02)
    port = int(file.read_text().splitlines()[0])
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as got:
            pages = [t for t in json.load(got) if t["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < deadline, "the browser has no page"
        time.sleep(0.02)
