"""A headless Chromium for tests of pages, spoken to over its DevTools pipe: no clock of its own, no retries."""

import base64
import json
import os
import select
import shutil
import subprocess
from pathlib import Path

PATIENCE = 120  # seconds without a word from the browser
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """A page in a browser of its own.

    Args:
        path: the HTML file. width: of the window, pixels. profile: an empty folder for the browser.

    Attributes:
        complaints: what the page wrote to the console as an error or warning, and its uncaught exceptions.
    """

    def __init__(self, path: Path, width: int, profile: Path, height: int = 900):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def connect() -> None:  # the browser reads from 3 and writes to 4, which the pipes keep others from taking
            fds = [os.dup(theirs_in), os.dup(theirs_out)]
            os.dup2(fds[0], 3)
            os.dup2(fds[1], 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-sync"]
        flags += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"], preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._session, self._count, self._rest = None, 0, b""
        self.complaints: list[str] = []
        target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self("Emulation.setDeviceMetricsOverride", **size)
        self("Page.navigate", url=path.absolute().as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()

    def __call__(self, method: str, **params) -> dict:
        """Send a command of the DevTools protocol, and wait for its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._read()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, script: str):
        """Value of a JavaScript expression; a promise's, once it is kept."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse between two points of the window."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = dict(x=0, y=0, width=size["width"], height=size["height"], scale=1)
        shot = self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            heard, _, _ = select.select([self._in], [], [], PATIENCE)
            part = os.read(self._in.fileno(), 1 << 16) if heard else b""
            if not part:
                self._process.kill()
                raise RuntimeError("the browser went away, or says nothing")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        return message
