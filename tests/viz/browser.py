"""Chromium without a screen and without a network, driven through two pipes by its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
INSIDE = ("file:", "blob:", "data:", "about:")
"""Addresses that lead to no network."""


def find_browser() -> str:
    """The program; without one the test is skipped, or fails where REQUIRE_BROWSER says that there must be one."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        complain = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
        complain("Pages are tested in Chromium, and there is none here; install it (Debian: apt install chromium).")
    return found


COUNT_COLOURS = """
(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const paper = new OffscreenCanvas(image.width, image.height).getContext("2d");
  paper.drawImage(image, 0, 0);
  const { data } = paper.getImageData(0, 0, image.width, image.height);
  const counts = {};
  for (let i = 0; i < data.length; i += 4) {
    const colour = `${data[i]},${data[i + 1]},${data[i + 2]}`;
    counts[colour] = (counts[colour] ?? 0) + 1;
  }
  return counts;
})()
"""


class Browser:
    """One page at a time. `errors` and `requests` collect what the page logged as wrong and what it asked for."""

    def __init__(self, home: Path):
        program = find_browser()
        to_it, ours = os.pipe()
        theirs, from_it = os.pipe()
        command = 'exec "$0" "$@" 3<&%d 4>&%d' % (to_it, from_it)  # noqa: UP031
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", command, program, *FLAGS, f"--user-data-dir={home}", "about:blank"],
            pass_fds=(to_it, from_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it)
        os.close(from_it)
        self.write, self.read = os.fdopen(ours, "wb", buffering=0), os.fdopen(theirs, "rb", buffering=0)
        self.numbers, self.buffer = itertools.count(1), b""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.session, self.loaded = None, False
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def close(self) -> None:
        self.session = None
        self.call("Browser.close")
        self.process.wait()
        self.write.close()
        self.read.close()

    def call(self, method: str, **parameters):
        """The answer to one command; events on the way are noted."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.write.write(json.dumps(message).encode() + b"\0")
        while (heard := self._next()).get("id") != number:
            self._note(heard)
        assert "error" not in heard, f"{method}: {heard['error']}"
        return heard["result"]

    def _next(self):
        while b"\0" not in self.buffer:
            part = self.read.read(1 << 20)
            assert part, "the browser has gone"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event) -> None:
        method, said = event.get("method"), event.get("params", {})
        self.loaded |= method == "Page.loadEventFired"
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(said["args"]))
        if method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(said["entry"]["text"])
        if method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(INSIDE):
            self.requests.append(said["request"]["url"])

    def open(self, page: Path, width: int = 1280, height: int = 800, scale: float = 1, mobile: bool = False) -> None:
        """Show a page with a script, and wait until that has begun, however long it takes."""
        self.show(page, width, height, scale, mobile)
        while not self.run("Boolean(window.view)"):
            assert not self.errors, f"the page did not start: {self.errors}"
            self.settle()
        self.settle()

    def show(self, page: Path, width: int = 1280, height: int = 800, scale: float = 1, mobile: bool = False) -> None:
        """Show a file, and wait until all that it is made of is there."""
        self.errors.clear()
        self.requests.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.loaded = False
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not self.loaded:
            self._note(self._next())

    def scheme(self, dark: bool) -> None:
        """What the system prefers, from the next page on."""
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def run(self, script: str):
        """The value of an expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait for two frames, so that what was asked for is on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def key(self, key: str, shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            said = text if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **said)
        self.settle()

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def colours(self, selector: str) -> dict[str, int]:
        """How many pixels of each colour an element shows on the screen."""
        clip = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        clip = {side: clip[side] for side in ("x", "y", "width", "height")} | {"scale": 1}
        seen = self.call("Page.captureScreenshot", format="png", clip=clip)["data"]
        return self.run(COUNT_COLOURS % seen)
