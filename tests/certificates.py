"""Certificates for tests, which OpenSSL's own program issues: those of a server on 127.0.0.1 and localhost."""

import subprocess
from pathlib import Path


def issue(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A self-signed certificate and its key, in files in `folder`; clients that trust the certificate verify it."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", key, "-out", certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
