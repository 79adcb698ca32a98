"""A headless Chromium on two pipes: open a page, ask it things, and see what it asks of the network.

The DevTools protocol over ``--remote-debugging-pipe`` is JSON between zero bytes, so no library is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-sandbox",  # there is none for root, and the page is our own
)
# The browser reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_browser() -> str | None:
    """A Chromium of any name."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """A page of a browser of its own.

    Attributes:
        errors: Exceptions, and what the console and the browser's log said as an error or a warning.
        requests: Addresses of all that the page asked for.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._rest, self._session = 0, b"", ""
        child_in, self._out = os.pipe()
        self._in, child_out = os.pipe()
        start = [sys.executable, "-S", "-E", "-c", _START, *(str(_high(each)) for each in (child_in, child_out))]
        passed = tuple(int(each) for each in start[-2:])
        self._process = subprocess.Popen(
            [*start, program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=passed,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (child_in, child_out, *passed):
            os.close(each)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and give its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def _next(self, seconds: float = 120) -> dict[str, Any]:
        ends = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            assert part, f"the browser does not answer; exit code {self._process.poll()}"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, found: dict[str, Any]) -> None:
        event, given = found.get("method"), found.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(given["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(given["args"]))
        elif event == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.errors.append(json.dumps(given["entry"]))

    def open(self, page: Path) -> None:
        """Open a file, and wait until its script has run and the page is drawn; errors and requests count anew."""
        self.errors.clear()
        self.requests.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && 'ready' in document.documentElement.dataset")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true."""
        ends = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < ends, f"not within {seconds} s: {expression}"
            time.sleep(0.05)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and whether the system is dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str, code: int) -> None:
        """Press a key where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        for each in (self._out, self._in):
            os.close(each)  # it ends when nobody is at the other end
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _high(descriptor: int) -> int:
    """The same pipe under a number that is neither 3 nor 4."""
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
