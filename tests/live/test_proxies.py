"""Behind nginx and HAProxy, responses that are sent before the body has arrived do not affect other requests."""

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from load_tests.processes import free_ports
from tests.deploy.conftest import program
from tests.live.conftest import serving

REQUESTS = 5000
CLIENTS = 16
KEY = "proxied"
MAX_BODY_BYTES = 2**20

NGINX = """
daemon off;
user root;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 16m;
  client_body_temp_path {folder}/bodies;
  proxy_temp_path {folder}/proxied;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream deepserve {{ server {server}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{front};
    location / {{ proxy_pass http://deepserve; {options} }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:{front}
  default_backend deepserve
backend deepserve
  {options}
  server one {server}
"""
PROXIES = {
    "nginx, HTTP/1.0": ("nginx", ""),
    "nginx, HTTP/1.1 kept alive": ("nginx", 'proxy_http_version 1.1; proxy_set_header Connection "";'),
    "HAProxy": ("haproxy", ""),
}


@dataclass(frozen=True)
class Kind:
    """Requests of one kind, and the expected status."""

    path: str
    status: int
    content_type: str = "application/json"
    has_key: bool = True
    sizes: tuple[int, ...] = (1_000, 1_000, 1_000, 16_000, 16_000, 100_000, 250_000, 1_000_000)

    def request(self, size: int) -> bytes:
        body = b'{"masses": [{"age": 50}]}'.ljust(size)
        key = f"Authorization: Bearer {KEY}\r\n" if self.has_key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: deepserve\r\n{key}Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


ACCEPTED = Kind("/v1/mammogram", 200, sizes=(1_000, 1_000, 1_000, 16_000, 100_000, 1_000_000))
KINDS = (
    *[ACCEPTED] * 4,
    Kind("/nope", 404, sizes=(1_000, 1_000, 16_000, 16_000, 100_000, 250_000, 1_000_000, 4_000_000)),
    Kind("/v1/mammogram", 401, has_key=False),
    Kind("/v1/mammogram", 413, sizes=(1_100_000, 1_100_000, 1_500_000, 4_000_000)),
    Kind("/v1/mammogram", 415, content_type="text/plain"),
)
WEIGHTS = (8, 8, 8, 8, 4, 4, 1, 4)


async def ask(address: str, seed: int, left: Iterator[None], failures: Counter[str]) -> None:
    """Send requests on one connection. Like most clients, send each completely before reading its response."""
    host, _, port = address.rpartition(":")
    choose = random.Random(seed)
    writer = None
    for _ in left:
        [kind] = choose.choices(KINDS, WEIGHTS)
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(kind.request(choose.choice(kind.sizes)))
            await asyncio.wait_for(writer.drain(), 20)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields[b"content-length"]))
            status = int(head.split()[1])
            if status != kind.status:
                failures[f"{kind.status}: {status}"] += 1
            if fields.get(b"connection") != b"close":
                continue
        except (OSError, EOFError, TimeoutError) as error:
            failures[f"{kind.status}: {error!r}"] += 1
        if writer is not None:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def ask_all(address: str) -> Counter[str]:
    failures: Counter[str] = Counter()
    left = iter([None] * REQUESTS)
    await asyncio.gather(*(ask(address, seed, left, failures) for seed in range(CLIENTS)))
    return failures


@contextmanager
def proxy(name: str, options: str, server: str, folder: Path) -> Iterator[str]:
    """Run a proxy in front of `server`; yield its address."""
    command = program(name, install=f"apt-get install {name}")
    [front] = free_ports(1)
    configuration = folder / f"{name}.cfg"
    template = {"nginx": NGINX, "haproxy": HAPROXY}[name]
    configuration.write_text(template.format(folder=folder, server=server, front=front, options=options))
    flags = ["-q", "-f"] if name == "haproxy" else ["-p", str(folder), "-e", str(folder / "error.log"), "-c"]
    process = subprocess.Popen([command, *flags, str(configuration)])
    try:
        wait_until_ready(f"http://127.0.0.1:{front}/readyz", process)
        yield f"127.0.0.1:{front}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.05)
    raise AssertionError("the proxy did not start")


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return host and port of a server that requires a key and accepts short bodies."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, api_keys=KEY, max_body_bytes=str(MAX_BODY_BYTES), log_level="ERROR") as url:
        yield urlsplit(url).netloc


@pytest.mark.parametrize("name", PROXIES)
def test_rejected_requests_do_not_make_others_fail_behind_a_proxy(
    name: str, guarded_server: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(proxy(*PROXIES[name], guarded_server, tmp_path))
        failures = asyncio.run(ask_all(address))
    assert not failures, f"{failures.total()} of {REQUESTS} failed: {dict(failures)}"
