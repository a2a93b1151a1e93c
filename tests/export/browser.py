"""Headless Chromium by the WebDriver protocol of its chromedriver, with the standard library alone."""

import base64
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["MISSING", "Browser", "browsing", "served"]

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1000,900",
)  # fmt: skip


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@contextmanager
def served(folder):
    """Serve a folder as ``python -m http.server`` does; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """One window."""

    def __init__(self, driver: str, folder: str):
        self.driver = driver
        options = {"binary": shutil.which("chromium"), "args": [*_FLAGS, f"--user-data-dir={folder}"]}
        wish = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "timeouts": {"script": 600_000}}}}
        self.session = f"/session/{self._ask('POST', '/session', wish)['sessionId']}"

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.driver}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def open(self, address: str) -> None:
        self._ask("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments):
        """Run the body of an async function and return what it returns."""
        body = f"const done = arguments[arguments.length - 1]; (async function() {{ {script} }}).apply(null, arguments)"
        body += ".then((value) => done({value}), (error) => done({error: String(error)}))"
        answer = self._ask("POST", f"{self.session}/execute/async", {"script": body, "args": list(arguments)})
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer.get("value")

    def screenshot(self) -> bytes:
        """Return the window as PNG."""
        return base64.b64decode(self._ask("GET", f"{self.session}/screenshot"))

    def close(self) -> None:
        self._ask("DELETE", self.session)


@contextmanager
def browsing(folder):
    """Start Chromium with an empty profile in ``folder``; yield a :class:`Browser`."""
    command = [shutil.which("chromedriver"), "--port=0"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        lines = iter(driver.stdout.readline, "")
        port = next(found[1] for line in lines if (found := re.search(r"successfully on port (\d+)", line)))
        browser = Browser(f"http://127.0.0.1:{port}", str(folder))
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()
