"""A headless Chromium driven through chromedriver's HTTP interface (W3C WebDriver), with the standard library only."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = [
    " or ".join(names)
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    if not any(map(shutil.which, names))
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
KEYS = {"enter": "\ue007", "down": "\ue015", "up": "\ue013", "end": "\ue010", "home": "\ue011", "tab": "\ue004"}
NEEDS_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window; every call waits for its answer."""

    def __init__(self, address: str, session: str) -> None:
        self.address = f"{address}/session/{session}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return request(method, f"{self.address}/{path}", body)

    def open(self, path: Path) -> None:
        self.call("POST", "url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The return value of a script, the body of a function."""
        return self.call("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        elements = self.call("POST", "element", {"using": "css selector", "value": selector})
        return str(next(iter(elements.values())))

    def click(self, selector: str) -> None:
        self.call("POST", f"element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self.call("POST", f"element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys go where the focus is."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
        self.call("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def complaints(self) -> list[str]:
        """The messages of the console since the last call: errors and refusals of the content security policy."""
        return [entry["message"] for entry in self.call("POST", "se/log", {"type": "browser"})]


def eventually(read: Callable[[], Any], wanted: Any, seconds: float = 10) -> None:
    """Wait until a call returns `wanted`, since a browser handles clicks asynchronously."""
    end = time.monotonic() + seconds
    while (last := read()) != wanted:
        assert time.monotonic() < end, f"{last!r} and not {wanted!r} after {seconds} seconds"
        time.sleep(0.05)


def request(method: str, address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    prepared = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with NEEDS_NO_PROXY.open(prepared, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {address}: {json.load(error)['value']['message']}") from None


@contextmanager
def browser(profile: Path, width: int = 1200, height: int = 900) -> Iterator[Browser]:
    """A window with an empty profile; the browser and the driver end with the block."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert driver.stdout is not None
        port = next(match[1] for line in driver.stdout if (match := re.search(r"successfully on port (\d+)", line)))
        address = f"http://127.0.0.1:{port}"
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        wanted = {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = request("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(address, session)
        finally:
            request("DELETE", f"{address}/session/{session}")
    finally:
        driver.terminate()
        driver.wait(timeout=20)
        if driver.stdout is not None:
            driver.stdout.close()
