"""Parsing of heads: the values of valid ones, and the error status of invalid ones."""

import pytest

from service.transport.head import Head, parse_head
from service.transport.options import Refusal
from service.transport.request_line import RequestLine, is_host
from service.transport.scope import decode_path

NO_MORE: frozenset[bytes] = frozenset()


def head(*lines: str, line: str = "POST /a?b=c HTTP/1.1", host: str | None = "example.org") -> Head:
    first = [line, *([f"Host: {host}"] if host is not None else [])]
    return parse_head("\r\n".join([*first, *lines, "", ""]).encode("latin-1"), NO_MORE)


def status(*lines: str, line: str = "POST /a?b=c HTTP/1.1", host: str | None = "example.org") -> int:
    with pytest.raises(Refusal) as refused:
        head(*lines, line=line, host=host)
    assert refused.value.detail
    return refused.value.status


def test_a_head_is_parsed() -> None:
    found = head("X-Some:  value with spaces \t", "Content-Length: 12")
    assert found == Head(
        line=RequestLine("POST", b"/a?b=c", b"/a", b"b=c", 1, None),
        headers=[(b"host", b"example.org"), (b"x-some", b"value with spaces"), (b"content-length", b"12")],
        body_bytes=12,
        keep_alive=True,
        expects_continue=False,
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_known_methods_are_passed_to_the_application(method: str) -> None:
    assert head(line=f"{method} / HTTP/1.1").line.method == method


@pytest.mark.parametrize("method", ["BREW", "get", "PROPFIND", "CONNECT", "M-SEARCH", "X" * 100])
def test_an_unknown_method_is_a_501(method: str) -> None:
    assert status(line=f"{method} / HTTP/1.1") == 501


def test_connect_with_an_authority_target_is_a_501() -> None:
    assert status(line="CONNECT example.org:443 HTTP/1.1") == 501


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/0.9"])
def test_another_major_version_is_a_505(version: str) -> None:
    assert status(line=f"GET / {version}") == 505


@pytest.mark.parametrize("line", ["GET /", "GET / HTTP/1", "GET / http/1.1", "GET / HTTP/1.10", "GET / HTTP/1.1 "])
def test_a_version_that_is_missing_or_malformed_is_a_400(line: str) -> None:
    assert status(line=line) == 400


@pytest.mark.parametrize(
    "line",
    [
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1\rX: y",
        "/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /é HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
    ],
)
def test_a_malformed_request_line_is_a_400(line: str) -> None:
    assert status(line=line) == 400


@pytest.mark.parametrize("minor", range(2, 10))
def test_a_later_minor_version_is_served_as_1_1(minor: int) -> None:
    found = head(line=f"GET / HTTP/1.{minor}")
    assert (found.line.minor, found.keep_alive) == (minor, True)


@pytest.mark.parametrize("lines", [(), ("Connection: keep-alive",)])
def test_http_1_0_closes_the_connection_after_a_request(lines: tuple[str, ...]) -> None:
    found = head(*lines, line="GET / HTTP/1.0", host=None)
    assert (found.line.minor, found.keep_alive) == (0, False)


@pytest.mark.parametrize("value", ["close", "Close", "foo, close", "keep-alive, close"])
def test_connection_close_ends_the_connection(value: str) -> None:
    assert not head(f"Connection: {value}").keep_alive
    assert not head("Connection: keep-alive", f"Connection: {value}").keep_alive


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://example.org/a/b?c=d?e", b"/a/b", b"c=d?e"),
        ("HTTPS://example.org:8443/", b"/", b""),
        ("http://example.org", b"/", b""),
        ("http://example.org?c", b"/", b"c"),
        ("http://[::1]:3000/a", b"/a", b""),
        ("//a/b", b"//a/b", b""),
    ],
)
def test_a_target_in_absolute_form_is_parsed(target: str, path: bytes, query: bytes) -> None:
    found = head(line=f"GET {target} HTTP/1.1")
    assert (found.line.path, found.line.query) == (path, query)


def test_the_host_of_a_url_replaces_the_header() -> None:
    assert head(line="GET http://b.example:80/ HTTP/1.1", host="a.example").headers == [(b"host", b"b.example:80")]


@pytest.mark.parametrize(
    "target",
    [
        "ftp://example.org/",
        "http://user@example.org/",
        "http:///a",
        "http:/a",
        "a",
        "?a",
        "*",
        "/a#b",
        "http://x/#b",
        "http://exa_mple\\.org/",
        "http://[::1/",
        "example.org:80",
    ],
)
def test_a_malformed_target_is_a_400(target: str) -> None:
    assert status(line=f"GET {target} HTTP/1.1") == 400


def test_the_asterisk_target_is_for_options_only() -> None:
    assert head(line="OPTIONS * HTTP/1.1").line.path == b"*"
    for method in ("GET", "POST", "HEAD", "DELETE"):
        assert status(line=f"{method} * HTTP/1.1") == 400


def test_http_1_1_requires_a_host() -> None:
    assert status(host=None) == 400
    assert status(host=None, line="GET http://example.org/ HTTP/1.1") == 400
    assert head(host=None, line="GET / HTTP/1.0").headers == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_repeated_host_is_a_400(version: str) -> None:
    assert status("host: example.org", line=f"GET / HTTP/{version}") == 400


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "user@a",
        "a:b",
        "a:80:80",
        "http://a",
        "[::1",
        "::1",
        "[]",
        "[::x]",
        "[:::]",
        "a,\tb",
        "é",
        "%zz",
        "a?b",
        "a#b",
        "a\\b",
        '"a"',
        "<a>",
        "[::1]a",
        "a, b",
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_malformed_host_is_a_400(host: str, version: str) -> None:
    assert status(host=host, line=f"GET / HTTP/{version}") == 400


@pytest.mark.parametrize(
    "host",
    ["a", "a:80", "a.b-c_d.example:3000", "127.0.0.1", "[::1]", "[2001:db8::1]:443", "xn--bcher-kva.example", "", "a:"],
)
def test_a_valid_host_is_accepted(host: str) -> None:
    assert is_host(host.encode())
    assert head(host=host).headers == [(b"host", host.encode())]


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Content-Length", "Origin", "Host"])
def test_a_single_value_header_must_not_repeat(name: str) -> None:
    assert status(f"{name}: 1", f"{name.lower()}: 1") == 400


def test_the_application_can_name_further_single_value_headers() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: 1\r\nX-Request-Id: 1\r\n\r\n"
    assert len(parse_head(raw, NO_MORE).headers) == 3
    with pytest.raises(Refusal, match="X-Request-Id"):
        parse_head(raw, frozenset((b"x-request-id",)))


def test_a_list_header_may_repeat() -> None:
    assert head("Accept: a/b", "Accept: c/d").headers[1:] == [(b"accept", b"a/b"), (b"accept", b"c/d")]


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5_0",),
        ("Content-Length: ",),
        ("Content-Length: 5 5",),
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, gzip",),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding:",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding\t: chunked",),
        ("Transfer-Encoding: \x0bchunked",),
    ],
)
def test_an_ambiguous_length_is_a_400(lines: tuple[str, ...]) -> None:
    assert status(*lines) == 400


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " chunked "])
def test_a_body_may_come_in_chunks(coding: str) -> None:
    assert head(f"Transfer-Encoding: {coding}").body_bytes is None


def test_an_unknown_transfer_coding_is_a_501() -> None:
    assert status("Transfer-Encoding: gzip, chunked") == 501


def test_http_1_0_has_no_transfer_codings() -> None:
    assert status("Transfer-Encoding: chunked", line="POST / HTTP/1.0") == 400


@pytest.mark.parametrize(
    "line",
    [
        "A : b",
        "A",
        ": b",
        " A: b",
        "A: b\r\n c",
        "A: b\r\n\tc",
        "A: b\x00c",
        "A: b\x01c",
        "A: b\x7fc",
        "A: b\rc",
        "A: b\nC: d",
        "ä: b",
        "A\x00: b",
        "A(: b",
    ],
)
def test_a_malformed_header_line_is_a_400(line: str) -> None:
    assert status(line) == 400


def test_a_value_may_be_empty_or_latin() -> None:
    assert head("A:", "B: \xe4").headers[1:] == [(b"a", b""), (b"b", b"\xe4")]


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", "100-continue "])
def test_expect_100_continue_is_recognised(value: str) -> None:
    assert head(f"Expect: {value}").expects_continue


def test_an_unknown_expectation_is_a_417() -> None:
    assert status("Expect: 200-ok") == 417


@pytest.mark.parametrize("value", ["100-continue", "200-ok"])
def test_an_expectation_from_http_1_0_is_ignored(value: str) -> None:
    assert not head(f"Expect: {value}", line="POST / HTTP/1.0").expects_continue


def test_an_upgrade_offer_is_ignored() -> None:
    assert head("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3").body_bytes == 3


def test_a_refusal_has_method_and_path() -> None:
    with pytest.raises(Refusal) as refused:
        head("Content-Type: a", "Content-Type: b", line="HEAD /v2/models?x HTTP/1.1")
    assert (refused.value.method, refused.value.path) == ("HEAD", "/v2/models")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/a", "/a"),
        (b"/f%61shion", "/fashion"),
        (b"/a%2Fb%2fc%41", "/a%2Fb%2FcA"),
        (b"/a%252Fb", "/a%2Fb"),
        (b"/%C3%A9", "/é"),
        (b"/%ff", "/\N{REPLACEMENT CHARACTER}"),
        (b"/%zz%", "/%zz%"),
    ],
)
def test_escapes_are_decoded_except_slashes(raw: bytes, path: str) -> None:
    assert decode_path(raw) == path
