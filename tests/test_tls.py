"""An unusable certificate or key gives an error of one line that names the setting."""

import os
import ssl
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.errors import StartupError
from service.tls import rejection, server_context
from tests.certificates import issue
from tests.paths import ROOT

CERTIFICATE, KEY = "DEEPSERVE_TLS_CERTIFICATE_FILE", "DEEPSERVE_TLS_KEY_FILE"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return issue(tmp_path_factory.mktemp("pair"))


def refusal(certificate: Path, key: Path) -> str:
    with pytest.raises(StartupError) as refused:
        server_context(certificate, key)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_certificate_and_its_key_are_loaded(pair: tuple[Path, Path]) -> None:
    context = server_context(*pair)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all(cipher["name"].startswith(("TLS_", "ECDHE-", "DHE-")) for cipher in context.get_ciphers())


def test_the_reason_for_rejecting_a_certificate_is_returned(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    assert rejection(server_context(certificate, key), certificate) is None
    expired = tmp_path / "expired.pem"
    again = ["openssl", "x509", "-in", certificate, "-signkey", key, "-days", "-1", "-out", expired]
    subprocess.run(again, check=True, capture_output=True)
    assert rejection(server_context(expired, key), expired) == "certificate has expired"


def test_both_may_be_in_one_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(file.read_bytes() for file in pair))
    server_context(both, both)


def test_a_missing_file_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    missing, pipe = tmp_path / "missing.pem", tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(missing, key) == f"{CERTIFICATE}: {missing}: No such file or directory"
    assert refusal(certificate, missing) == f"{KEY}: {missing}: No such file or directory"
    assert refusal(certificate / "below", key) == f"{CERTIFICATE}: {certificate}/below: Not a directory"
    for no_file in (tmp_path, pipe):
        assert refusal(certificate, no_file) == f"{KEY}: {no_file} is not a file"


def test_an_unreadable_file_is_named() -> None:
    program = """
import os, sys
from pathlib import Path
from service.errors import StartupError
from service.tls import server_context
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    server_context(*map(Path, sys.argv[1:]))
except StartupError as error:
    print(error)
"""
    with TemporaryDirectory() as folder:  # which others than its owner may look into, as they may not into pytest's
        Path(folder).chmod(0o755)
        certificate, key = issue(Path(folder))
        certificate.chmod(0o644)
        key.chmod(0o200)
        command = [sys.executable, "-c", program, certificate, key]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{KEY}: {key}: Permission denied\n"


def test_swapped_or_wrong_files_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    assert refusal(key, certificate) == f"{CERTIFICATE}: {key}: it contains no certificate in PEM format"
    assert refusal(certificate, certificate) == f"{KEY}: {certificate}: it contains no private key in PEM format"
    der, empty, damaged = tmp_path / "der", tmp_path / "empty", tmp_path / "damaged"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(certificate.read_text()))
    empty.write_bytes(b"")
    lines = certificate.read_text().splitlines()
    damaged.write_text("\n".join([*lines[:3], *lines[4:]]))
    for other in (der, empty):
        assert refusal(other, key) == f"{CERTIFICATE}: {other}: it contains no certificate in PEM format"
    assert refusal(damaged, key).startswith(f"{CERTIFICATE} and {KEY}: OpenSSL rejects them: ")


def test_a_key_of_another_certificate_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, _ = pair
    _, other = issue(tmp_path)
    assert refusal(certificate, other) == f"{KEY}: {other} is not the key of the certificate {certificate}"


def test_an_encrypted_key_is_named_without_a_prompt_for_its_passphrase(pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", key, "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    assert refusal(certificate, encrypted) == (
        f"{KEY}: {encrypted}: the key is encrypted with a passphrase; decrypt it"
    )
