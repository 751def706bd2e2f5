"""A headless Chromium for tests, spoken to over two pipes: no library, no port.

Rules: one browser, one page at a time, with a profile of its own that is thrown away. What the page logs as an error,
throws, or asks of a network is kept: a test that looks at `errors` and `requests` sees all of it. No name leads to any
network: what asks for one is seen, and fails. This file does not know what the pages are.

The protocol: JSON documents, each with a NUL behind it, into descriptor 3 and out of descriptor 4 of the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
ARROWS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}
KEYS = ARROWS | {"PageUp": 33, "PageDown": 34, "Enter": 13, "Escape": 27, "Tab": 9}


def found() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one page."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="agentledger-browser-")
        into, self._into = os.pipe()
        self._from, out = os.pipe()
        command = [
            found() or NAMES[0],
            *FLAGS,
            f"--user-data-dir={self._profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        # the shell puts the pipes where the browser looks for them, whatever numbers they have here
        shell = f'exec "$@" 3<&{into} 4>&{out}'
        quiet = subprocess.DEVNULL
        self._child = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(into, out),
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        os.close(into)
        os.close(out)
        self._held = b""
        self._number = 0
        self._said: list[dict[str, Any]] = []
        self._session = ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._child.pid, number)
                self._child.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        os.close(self._into)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command; fails with what it says is wrong."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._into, data) :]
        number = self._number
        while True:
            said = self._next(60)
            if said.get("id") == number:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self._note(said)

    def open(self, path: Path, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Open a file as somebody does who double-clicks it, and wait until it has shown and checked itself."""
        self.size(width, height)
        self.media(dark=dark)
        self.errors.clear()
        self.requests.clear()
        self.run("document.documentElement?.removeAttribute('data-ready')")  # of the page before
        self.send("Page.navigate", url=path.as_uri())
        self.until("document.documentElement?.dataset.ready === 'true'")

    def size(self, width: int, height: int = 900) -> None:
        """The size of the window, in CSS pixels."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def media(self, *, dark: bool = False, kind: str = "screen") -> None:
        """What the page is told of its surroundings."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=kind, features=features)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for. Fails with what it throws."""
        said = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"after {seconds} s this was still not true: {script}; errors: {self.errors}"
            time.sleep(0.02)

    def frame(self) -> None:
        """Wait until what was asked for has been drawn."""
        self.run("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(go))))")

    def key(self, key: str, text: str = "") -> None:
        """Press a key as a keyboard does; `text` is what it writes."""
        code = KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        for kind in ("keyDown", "keyUp"):
            words = {"text": text or key} if kind == "keyDown" and (text or len(key) == 1) else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **words)
        self.frame()

    def type(self, text: str) -> None:
        """Write a text where the focus is."""
        self.send("Input.insertText", text=text)
        self.frame()

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot; `whole` takes all of the page, not only what is in the window."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def paper(self) -> bytes:
        """The page as a PDF, as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._from, 1 << 16) if ready else b""
            assert data, "the browser is gone" if ready else f"the browser said nothing for {seconds} s"
            self._held += data
        line, _, self._held = self._held.partition(b"\0")
        return json.loads(line)

    def _note(self, said: dict[str, Any]) -> None:
        """Keep what the page complains of and asks for."""
        method, what = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.errors.append(str([one.get("value", one.get("description")) for one in what["args"]]))
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.errors.append(what["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
