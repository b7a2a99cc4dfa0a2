"""A real browser lets pages of the listed origin read what the server answers, and no others."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.deploy.conftest import program
from tests.live.conftest import serving

pytestmark = pytest.mark.deploy

PAGE = (Path(__file__).parent / "page.html").read_text()
Found = dict[str, dict[str, Any]]


class Pages:
    """A server of pages, of two origins and of none, and what they found."""

    def __init__(self) -> None:
        self.results: Queue[dict[str, Any]] = Queue()
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = PAGE.replace("RESULTS", f"http://localhost:{pages.port}/results")
                if self.path.startswith("/all"):
                    query = self.path.partition("?")[2]
                    other = f"http://127.0.0.1:{pages.port}/other?{query}"
                    page += f'<iframe src="{other}"></iframe><iframe sandbox="allow-scripts" src="{other}"></iframe>'
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()
                pages.results.put(json.loads(body))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


@contextmanager
def browser(folder: Path, url: str) -> Iterator[None]:
    """Chromium, showing a page."""
    chromium = program("chromium", "chromium-browser", "google-chrome", install="apt-get install chromium")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}")
    process = subprocess.Popen(
        [chromium, *options, url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """By origin, what its page could read."""
    folder = tmp_path_factory.mktemp("browser")
    pages = Pages()
    settings = {"cors_origins": f"http://localhost:{pages.port}", "api_keys": "key"}
    page = f"http://localhost:{pages.port}/all"
    with (
        pages.serving(),
        serving(folder / "log", **settings) as server,
        browser(folder / "profile", f"{page}?server={server}"),
    ):
        results = [pages.results.get(timeout=30) for _ in range(3)]
    return {result["origin"].rpartition(":")[0] or result["origin"]: result["found"] for result in results}


def test_a_page_of_the_listed_origin_reads_answers_and_errors(found: dict[str, Found]) -> None:
    read = found["http://localhost"]
    statuses = {name: each["status"] for name, each in read.items()}
    refused = dict.fromkeys(("method", "header", "cookies"), "TypeError")  # by the browser, before they are sent
    answered = {"answer": 200, "keyless": 401, "invalid": 400, "nowhere": 404, "probe": 200, "tensors": 400}
    assert statuses == {**answered, **refused}
    headers = read["answer"]["headers"]
    assert headers["x-request-id"] == "from a page"
    assert headers["x-model-version"] == "2"
    assert "total;dur=" in headers["server-timing"]
    assert read["keyless"]["headers"]["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "null"])
def test_a_page_of_another_origin_reads_nothing(found: dict[str, Found], origin: str) -> None:
    assert {each["status"] for each in found[origin].values()} == {"TypeError"}
