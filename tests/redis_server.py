"""A real Redis server for tests. `.ci/programs` installs it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import RedisError

from load_tests.processes import free_ports

PASSWORD = "a-password"


@dataclass
class RedisServer:
    """A running Redis server."""

    uri: str
    process: "subprocess.Popen[bytes]"

    def stored(self) -> list[str]:
        with Redis.from_url(self.uri) as client:
            return [key.decode() for key in client.scan_iter()]


@contextmanager
def redis_server(port: int | None = None) -> Iterator[RedisServer]:
    """Run a Redis server that keeps nothing on disk, on a free port unless one is given."""
    program = shutil.which("redis-server")
    assert program is not None, "apt-get install redis-server"
    port = port or free_ports(1)[0]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    server = RedisServer(f"redis://:{PASSWORD}@127.0.0.1:{port}", process)
    try:
        wait_until_up(server)
        yield server
    finally:
        process.kill()
        process.wait(10)


def wait_until_up(server: RedisServer) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            server.stored()
        except RedisError:
            assert time.monotonic() < end, "Redis did not start"
            time.sleep(0.05)
        else:
            return
