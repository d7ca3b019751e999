"""A real, headless Chromium, driven through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds until something that should have happened has failed."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9, "Enter": 13, " ": 32}


class Chromium:
    """A browser process with one page at a time."""

    def __init__(self, folder: Path) -> None:
        found = [path for path in map(shutil.which, PROGRAMS) if path is not None]
        if not found:
            raise RuntimeError("these tests need chromium; install it, on Debian with apt")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",  # the browser reads from 3 and writes to 4
                f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"',
                "bash",
                found[0],
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={folder}",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def page(self) -> Page:
        """Open an empty page, with a storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Page(self, attached["sessionId"], context)

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Send a command of the DevTools protocol and return its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._last_id:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return reply["result"]
            self.events.append(reply)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], PATIENCE)[0]:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise ConnectionError("the browser is gone")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply


class Page:
    """One page of the browser."""

    def __init__(self, browser: Chromium, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Give the page a screen."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self._call("Page.navigate", url=address)
        self.until(lambda: self.run("document.readyState") == "complete")

    def run(self, script: str) -> Any:
        """Evaluate `script` on the page and return its value."""
        told = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"].get("description", script))
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """Return what a reader sees of the first such element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition` gives something true, and return that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came: {condition}\n{self.text('body')}")
            time.sleep(0.02)
        return found

    def press(self, key: str) -> None:
        """Press and release a key, as a person would, where the focus is."""
        code = KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        typed = {} if text is None else {"text": text}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key if key != " " else "Space",
                windowsVirtualKeyCode=code,
                **(typed if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place of the window and release it at another."""
        for kind, (x, y), held in (
            ("mouseMoved", start, 0),
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            button = "none" if kind == "mouseMoved" and not held else "left"
            at = {"x": x, "y": y, "button": button, "buttons": held, "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, **at)

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Return the errors that the page has caused so far, those of its policy among them."""
        self.run("1")  # what happened before is told before this is answered
        told = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                told.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                told.append(str(params["entry"]["text"]))
        return told

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
