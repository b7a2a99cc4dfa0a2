"""TLS: the server's certificate and key, reloaded when their files are replaced."""

import logging
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from service.errors import StartupError
from service.settings import PREFIX

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Minimum time between two checks of the files."""

_CERTIFICATE, _KEY = f"{PREFIX}TLS_CERTIFICATE_FILE", f"{PREFIX}TLS_KEY_FILE"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 with the default ciphers of Python's `ssl`.

    Raises:
        StartupError: a file cannot be read or has the wrong content; the message names the setting.
    """
    _check_pem(_CERTIFICATE, certificate, b"CERTIFICATE-----", "certificate")
    _check_pem(_KEY, key, b"PRIVATE KEY-----", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def refuse() -> NoReturn:  # otherwise OpenSSL prompts on the terminal
        raise StartupError(f"{_KEY}: {key}: the key is encrypted with a passphrase; decrypt it")

    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(f"{_KEY}: {key} is not the key of the certificate {certificate}") from error
        raise StartupError(f"{_CERTIFICATE} and {_KEY}: OpenSSL rejects them: {error}") from error
    except OSError as error:  # a file was removed in between
        raise StartupError(f"{_CERTIFICATE} and {_KEY}: {error.strerror}") from error
    return context


def rejection(context: ssl.SSLContext, certificate: Path) -> str | None:
    """Return why clients reject a certificate now, such as "certificate has expired"; None if they may accept it.

    The reason comes from a handshake in memory with a client that trusts the certificate and accepts any host.
    """
    client = ssl.create_default_context(cafile=certificate)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in ends * 2:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return None


def reloading_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context that uses replaced files in new handshakes, with a delay of at most `CHECK_SECONDS`.

    Raises:
        StartupError: a file cannot be read or has the wrong content.
    """
    files = _Files(Path(certificate), Path(key))
    context = files.context

    def choose(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = files.latest()

    # OpenSSL calls it in every handshake, with or without SNI. Each pair of files gets a new context: loading files
    # that do not match would leave a context without a key.
    context.sni_callback = choose
    return context


class _Files:
    """The files of a certificate and its key, and the context of the last valid pair."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._paths = certificate, key
        self._state = self._file_state()
        self._checked_at = time.monotonic()
        self._fault = ""
        """Why the present files are not used; empty if they are used."""
        self.context = self._load()

    def latest(self) -> ssl.SSLContext:
        """Return the context of the present files, or of the last valid pair."""
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return self.context
        self._checked_at = now
        if (state := self._file_state()) != self._state:
            try:
                self.context = self._load()
            except StartupError as error:  # perhaps only one file has been replaced: the next check tries again
                self._report(str(error))
            else:
                self._state, self._fault = state, ""
                logger.info("the TLS certificate was replaced: %s", self._paths[0])
        return self.context

    def _load(self) -> ssl.SSLContext:
        context = server_context(*self._paths)
        if reason := rejection(context, self._paths[0]):
            logger.warning("clients reject the TLS certificate %s: %s", self._paths[0], reason)
        return context

    def _file_state(self) -> tuple[tuple[int, int, int], ...]:
        """Return the identity of both files, which changes when one is replaced; empty if one is missing."""
        try:
            return tuple((found.st_ino, found.st_size, found.st_mtime_ns) for found in map(Path.stat, self._paths))
        except OSError:
            return ()

    def _report(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            logger.error("the previous TLS certificate stays in use: %s", fault)


def _check_pem(setting: str, file: Path, marker: bytes, content: str) -> None:
    """Check that a file can be read and contains `content` in PEM format.

    Raises:
        StartupError: it cannot be read, or contains no `content`.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe can be read only once, and blocks until it is written
            raise StartupError(f"{setting}: {file} is not a file")
        pem = file.read_bytes()
    except OSError as error:
        raise StartupError(f"{setting}: {file}: {error.strerror}") from error
    if marker not in pem:
        raise StartupError(f"{setting}: {file}: it contains no {content} in PEM format")
