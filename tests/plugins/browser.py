"""A headless Chromium for tests, driven by its DevTools protocol: look, click, type, and make a picture."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.waiting import until

PROGRAM = "chromium"
NEEDED = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not here")
"""Mark of a module whose tests need it."""
_SIZE = (1440, 1000)
_GONE = "target navigated or closed"
_BY_TEXT = """((text, last) => {
  const roots = [document, ...[...document.querySelectorAll("iframe")].map(f => f.contentDocument).filter(Boolean)];
  const all = roots.flatMap(r => [...r.querySelectorAll("button, a, [role=tab], [role=menuitem]")]);
  const label = e => e.getAttribute("aria-label") || "";
  const own = all.filter(e => e.innerText?.trim() === text || label(e) === text).filter(e => e.offsetParent !== null);
  return last ? own.at(-1) : own[0];
})"""


class PageGone(Exception):
    """The page was left while it was asked for something."""


class Browser:
    """One tab of a browser of its own, with a profile of its own.

    Args:
      size: Width and height in pixels.
    """

    def __init__(self, size: tuple[int, int] = _SIZE) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--hide-scrollbars"]
        self._process = subprocess.Popen(
            [
                PROGRAM,
                *flags,
                f"--user-data-dir={self._profile.name}",
                "--window-size={},{}".format(*size),
                "about:blank",
            ],
            stderr=subprocess.DEVNULL,
        )
        self._ids = itertools.count(1)

    def __enter__(self) -> Browser:
        ports = Path(self._profile.name) / "DevToolsActivePort"
        until(lambda: ports.is_file() and ports.read_text(), "Chromium answers")
        port = ports.read_text().split()[0]

        def page() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                return next((t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page"), "")

        self._socket = connect(until(page, "Chromium has a page"), max_size=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Has Chromium do something, and gives its answer."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                if _GONE in str(message.get("error")):
                    raise PageGone
                assert "error" not in message, message
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript in the page; None while the page gives way to another."""
        try:
            result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        except PageGone:
            return None
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def go(self, url: str) -> None:
        """Opens a page."""
        self.call("Page.navigate", url=url)

    @property
    def address(self) -> str:
        """Of the page that is open."""
        return str(self.run("location.href"))

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self.run("document.body?.innerText ?? ''"))

    @property
    def frame(self) -> str:
        """What the frame in the page says."""
        return str(self.run("document.querySelector('iframe')?.contentDocument?.body?.innerText ?? ''"))

    def sees(self, text: str) -> None:
        """Waits until page or frame say something."""
        until(lambda: text in self.text or text in self.frame, f"the page says {text!r}")

    def click(self, text: str, *, last: bool = False) -> None:
        """Clicks, as with the mouse, on the button, link or tab that says this; waits until there is one.

        Args:
          text: What it says.
          last: Of several the last one, as in a dialog, and not the first.
        """
        clicked = f"{_BY_TEXT}({json.dumps(text)}, {json.dumps(last)})"
        until(lambda: self.run(f"Boolean({clicked})"), f"{text!r} is there to be clicked")
        time.sleep(0.3)  # What has just appeared may still be on its way to its place.
        x, y = self.run(
            f"""(e => {{ e.scrollIntoView({{block: "center"}}); const box = e.getBoundingClientRect();
            const frame = e.ownerDocument.defaultView.frameElement?.getBoundingClientRect() ?? {{x: 0, y: 0}};
            return [frame.x + box.x + box.width / 2, frame.y + box.y + box.height / 2]; }})
            ({clicked})"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Types into a field."""
        field = f"document.querySelector({json.dumps(selector)})"
        until(lambda: self.run(f"Boolean({field})"), f"there is a field {selector}")
        self.run(f"{field}.focus(); {field}.select?.()")
        self.call("Input.insertText", text=text)

    def log_in(self, url: str, user: str, password: str) -> None:
        """Logs in to Airflow by its own form."""
        self.go(url)
        self.type("input[name=username]", user)
        self.type("input[name=password]", password)
        submit = "document.querySelector('button[type=submit]')"
        until(lambda: self.run(f"!{submit}.disabled"), "the form can be sent")
        self.run(f"{submit}.click()")
        until(lambda: "/auth/" not in self.address and "Dags" in self.text, f"{user} is logged in")

    def picture(self, path: Path) -> None:
        """Makes a picture of what is seen."""
        time.sleep(1)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
