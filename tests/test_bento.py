"""The BentoML service."""

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def test_import_reads_no_settings_and_writes_no_files(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DEEPSERVE_PORT": "no port"}
    code = "import os, service.bento; assert '_DEEPSERVE_FOLDER' not in os.environ"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.glob("deepserve-*"))
