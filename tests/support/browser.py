"""Debian's Chromium without a window, by the DevTools protocol over its pipe: what a page does and looks like there.

The protocol: chromedevtools.github.io/devtools-protocol. With `--remote-debugging-pipe` messages are JSON, each ended
by a zero byte, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

_SECONDS = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root's
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--remote-debugging-pipe",
    "--font-render-hinting=none",
)


@dataclass
class Browser:
    """A running browser; one page at a time is open."""

    _to: int
    _from: int
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _buffer: bytes = b""
    _session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Open an address in a new page of this size, and wait until it is loaded."""
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.style(dark=dark, media=media)
        self.events.clear()
        self.call("Page.navigate", url=url)
        self._until(lambda event: event["method"] == "Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        """Change the page's size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def style(self, *, dark: bool = False, media: str = "") -> None:
        """Choose dark or light, and screen or `print`."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    def run(self, script: str) -> Any:
        """Return what an expression, or the promise that it is, comes to in the page."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, `Tab` or `Enter`."""
        number, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        for kind in ("keyDown", "keyUp"):
            sent = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number, **sent)

    def screenshot(self, *, whole: bool = True, form: Literal["png", "webp"] = "png") -> bytes:
        """Return a picture of what is seen, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format=form, captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """Return the page as it is printed, on A4."""
        return base64.b64decode(self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

    def complaints(self) -> list[str]:
        """Return what the console has: messages, errors, exceptions."""
        found = []
        for event in self.events:
            if event["method"] == "Log.entryAdded":
                found.append(str(event["params"]["entry"]["text"]))
            elif event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                found.append(json.dumps(event["params"]))
        return found

    def requested(self) -> list[str]:
        """Return the addresses that the page has asked for, its own included."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write(message)
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def _write(self, message: dict[str, Any]) -> None:
        raw = json.dumps(message).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._to, raw) :]

    def _until(self, wanted: Any) -> None:
        while not any(map(wanted, self.events)):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            assert ready, f"Chromium has not answered for {_SECONDS} s"
            part = os.read(self._from, 1 << 16)
            assert part, "Chromium has ended"
            self._buffer += part
        raw, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(raw)


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium with an empty profile, and end it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("tests of pages need Chromium: apt-get install chromium (CONTRIBUTING.md)")
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} 2>{profile}.log', "chromium", *command]
    process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL)
    for end in (theirs_in, theirs_out):
        os.close(end)
    browser = Browser(ours_out, ours_in)
    try:
        yield browser
    finally:
        browser._session = ""
        browser.call("Browser.close")
        process.wait(timeout=_SECONDS)
        for end in (ours_out, ours_in):
            os.close(end)
