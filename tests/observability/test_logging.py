"""The log as text, with any content."""

import re
import subprocess
import sys

from tests.paths import ROOT

PROGRAM = """
import logging
from service.observability import logging as logs
from service.observability.request_log import RequestLog
from service.context import RequestContext
from service.settings import Settings

logs.set_up("INFO", "text")
forged = "x\\n\\r\\x85\\u20282026 [INFO] forged\\x1b[31m"
logger = logging.getLogger("service.forged")
logger.info("request %s", forged)
RequestLog(Settings()).record("GET", forged, RequestContext(forged, client=forged), "invalid", 0.0)
try:
    raise ValueError(forged)
except ValueError:
    logger.exception("failed")
"""


def test_without_a_standard_output_the_log_goes_to_the_standard_error() -> None:
    shell = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "request x" in done.stderr


def test_a_client_cannot_forge_a_log_line() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", done.stdout)
    request, told, failed, *traceback, end = lines
    assert request.endswith(r"request x\x0a\x0d\x85\x20282026 [INFO] forged\x1b[31m")
    assert "forged" in told
    assert 'client_address="' in told
    assert failed.endswith("failed")
    assert all(line.startswith("    ") for line in traceback)
    assert any("forged" in line for line in traceback)
    assert end == ""
