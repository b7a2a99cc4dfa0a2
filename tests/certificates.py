"""Certificates for a server on 127.0.0.1 and localhost, issued by the `openssl` program."""

import subprocess
from pathlib import Path


def issue(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """Issue a self-signed certificate; return the files of the certificate and its key in `folder`."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", key, "-out", certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
