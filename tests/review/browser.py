"""A headless Chromium, driven over its DevTools protocol: nothing but tornado is needed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

T = TypeVar("T")
CHROMIUM = next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """One page of a browser of its own; all methods wait until done."""

    def __init__(self, width: int = 1400, height: int = 900) -> None:
        if CHROMIUM is None:
            pytest.skip("Chromium is not installed")
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.mkdtemp(prefix="scaat-browser-")
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--window-size={width},{height}",
             f"--user-data-dir={self._profile}", "about:blank"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._id = 0
        self.requests: list[str] = []
        self.failures: list[str] = []
        self._socket: WebSocketClientConnection = self._run(self._connect())
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, 120))

    async def _connect(self) -> WebSocketClientConnection:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found = re.search(r"ws://127\.0\.0\.1:(\d+)/", line)
            if found:
                break
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{found[1]}/json/list")
        page = next(t for t in json.loads(answer.body) if t["type"] == "page")
        return await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=1 << 28)

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        mine = self._id
        await self._socket.write_message(
            json.dumps({"id": mine, "method": method, "params": parameters})
        )
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser is gone"
            message = json.loads(text)
            if message.get("id") == mine:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.failures.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.failures.append(parameters["entry"]["text"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        return self._run(self._call(method, parameters))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """Value of an expression in the page; promises are awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""

        async def until() -> None:
            while True:
                result = await self._call(
                    "Runtime.evaluate", {"expression": f"!!({condition})", "returnByValue": True}
                )
                if result["result"].get("value"):
                    return
                await asyncio.sleep(0.05)

        try:
            self._loop.run_until_complete(asyncio.wait_for(until(), seconds))
        except TimeoutError:
            raise AssertionError(f"never true: {condition}; {self.failures}") from None

    def press(self, key: str, shift: bool = False) -> None:
        """One key, down and up."""
        names = {" ": "Space", "[": "BracketLeft", "]": "BracketRight"}
        if len(key) > 1 and key != "Enter":  # arrows, Backspace, Escape: no text
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
            return
        names["Enter"] = "Enter"
        code = names.get(key, f"Key{key.upper()}" if key.isalpha() else f"Digit{key}")
        base = {"key": key, "code": code, "modifiers": 8 if shift else 0}
        text = {"text": "\r" if key == "Enter" else key}
        self.call("Input.dispatchKeyEvent", type="keyDown", **base, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **base)

    def type(self, selector: str, text: str) -> None:
        """Type into a field as a person would, and leave it."""
        self.js(f"document.querySelector({selector!r}).focus()")
        self.call("Input.insertText", text=text)
        self.press("Enter")

    def screenshot(self, path: Path | None = None) -> np.ndarray:
        """What the page shows, (height, width, 3) uint8."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))

    def close(self) -> None:
        async def part() -> None:  # Tornado asks for the loop that runs
            self._socket.close()

        self._run(part())
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        shutil.rmtree(self._profile, ignore_errors=True)
