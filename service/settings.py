"""Every setting, its default and its advice. Each is an environment variable: `max_body_bytes` is
`DEEPSERVE_MAX_BODY_BYTES`. The defaults are right for a laptop.
"""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PlainValidator,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.addresses import HostPattern, IPNetwork, parse_network, parse_origin
from service.errors import StartupError
from service.machine import Device, cores
from service.traffic_split import TrafficSplit
from service.version_policy import ModelName, VersionPolicy

PREFIX = "DEEPSERVE_"

_NO_SETTINGS = re.compile(r"DEEPSERVE_(DATA_DIR|SERVICE_(HOST|PORT.*)|PORT_\d+_(TCP|UDP).*)")
"""Variables of that prefix that others read, or that Kubernetes makes for a Service called deepserve."""

LEAST_RATE = 0.001
"""Requests a second that a limit leaves a client at the least: one in a quarter of an hour."""

STORAGE_SCHEMES = ("memory", "redis", "rediss", "redis+unix")
"""Schemes of the URIs that name a storage of rate limits."""

_LISTS = ("api_keys", "admin_keys", "allowed_hosts", "cors_origins", "trusted_proxies")
_BY_MODEL = ("version_policy", "canary", "shadow", "cache_bytes")


class Settings(BaseSettings):
    """The service's configuration, read once at start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. A container sets 0.0.0.0."""

    port: int = Field(3000, ge=1, le=65535)
    """Port to listen on."""

    tls_certificate_file: Path | None = None
    """PEM file with the server's certificate and the intermediate certificates behind it: serves HTTPS (TLS 1.2 or
    later) in place of HTTP. Replaced files, as cert-manager makes them in Kubernetes, are used a second later without a
    restart; if they do not match, the log says so and the previous certificate stays in use."""

    tls_key_file: Path | None = Field(None, validate_default=True)
    """PEM file with the private key of that certificate, without passphrase; may be the same file."""

    allowed_hosts: Annotated[tuple[Annotated[HostPattern, PlainValidator(HostPattern.parse)], ...], NoDecode] = ()
    """Hosts that requests may name in `Host`, separated by commas: `api.example.org`, any subdomain by
    `*.example.org`, one port alone by `localhost:3000`, `192.0.2.1`, `[2001:db8::1]`; others get 421. None allows any.
    Set it where browsers reach the server, above all on localhost or in a private network without API keys: by DNS
    rebinding, a page from anywhere otherwise reads what the server answers. `/livez`, `/healthz`, `/readyz`, `/metrics`
    and `/v2/health` answer to any IP address too, which is how kubelet and Prometheus reach a pod."""

    cors_origins: Annotated[tuple[Annotated[str, PlainValidator(parse_origin)], ...], NoDecode] = ()
    """Origins of web pages that may call the server from a browser (CORS), separated by commas, as
    `https://app.example.org` or `http://localhost:5173`; `*` for every page. None allows only pages of the server's own
    origin. Cookies are never allowed; API keys, in `Authorization`, are."""

    trusted_proxies: Annotated[tuple[Annotated[IPNetwork, PlainValidator(parse_network)], ...], NoDecode] = ()
    """Addresses and networks of the proxies that the server may believe about the client's address, separated by
    commas, as in `10.0.0.0/8, 2001:db8::1`. Without it, the client is the address that connects. List no network from
    which clients connect themselves: they could choose their address."""

    forwarded_header: str = Field("X-Forwarded-For", pattern=r"^[A-Za-z0-9-]+$")
    """Header in which trusted proxies tell the client's address, by appending to it or replacing it: `X-Forwarded-For`,
    `Forwarded` (RFC 7239), or one address alone, as in `X-Real-IP`. No other is read: a proxy may pass it on as a
    client made it up."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that serve; `auto` is one for each core that the cgroup and the affinity leave to the service. Each
    holds every model, and scales better than threads."""

    models_dir: Path = Path(__file__).parent.parent / "models"
    """Where the model directories `<name>/<version>` are."""

    version_policy: Annotated[dict[ModelName, VersionPolicy], NoDecode] = {}
    """By model, which versions are loaded: `"latest N"`, the newest N that prove themselves, `"all"`, or a list. As in
    `{"digits": "all", "sentiment": [1, 3]}`; of a model that is not named, the latest 2."""

    watch_seconds: float = Field(0.0, ge=0)
    """Seconds between looks into `models_dir` for versions that are new or whose content has changed, which are then
    loaded; 0 for looking at start only, and when a client with an admin key loads a model. A version whose files are
    gone serves on: see `deepserve_model_files_missing`."""

    strict_readiness: bool = False
    """Whether the server is ready only while every model in `models_dir` is. Otherwise it is ready once every model
    that it found at start is ready, and stays ready until one that was ready is not any more: a new model that fails
    does not count."""

    device: Device = "cpu"
    """What the models run on. Where `cuda` or `tensorrt` do not work the service does not start, and a graph that they
    cannot run is not ready; `auto` is `cuda`, and where that does not work CPU."""

    precision: Literal["auto", "float32"] = "auto"
    """`auto` runs a model in eight-bit integers on CPU where its card says that this is faster and as good; `float32`
    runs the reference."""

    gpu_memory_mib: int = Field(0, ge=0)
    """MiB of the GPU's memory that each model of each worker may take; 0 for no limit."""

    cuda_graphs: bool = False
    """Whether a GPU replays recorded runs, where a graph allows it: saves the launch of each operation."""

    tensorrt_cache: Path | None = None
    """Where TensorRT keeps the engines that it builds; without it, it builds them anew at each start, for minutes."""

    threads: int = Field(default_factory=lambda chosen: max(1, cores() // chosen["workers"]), ge=1, le=256)
    """Threads of one run on CPU; unless set, each worker's share of the cores."""

    max_body_bytes: int = Field(10 * 2**20, ge=1024)
    """Largest request body, in bytes; a larger one is turned away while it arrives."""

    max_body_bytes_in_flight: int = Field(
        default_factory=lambda chosen: max(256 * 2**20, 4 * chosen["max_body_bytes"]), ge=1024
    )
    """Bytes of request bodies that one worker holds at most, over all connections; a request whose body exceeds them
    gets 503. Unless set, 256 MiB or four of the largest bodies, whichever is more."""

    max_connections: int = Field(1000, ge=1)
    """Connections that one worker has open at most; one more gets 503. Each takes a file descriptor (`ulimit -n`)."""

    keep_alive_seconds: float = Field(75.0, gt=0, le=86400)
    """How long a connection may stay open without a request. A load balancer in front should close first, or it sends
    a request on a connection that the server is closing: the default is above the 60 seconds that are usual there."""

    max_batch_rows: int = Field(64, ge=1)
    """Most rows of one run."""

    max_queue_rows: int = Field(1024, ge=1)
    """Most rows that wait for one model in one worker; beyond it requests get 503 at once."""

    max_wait_seconds: float = Field(0.0, ge=0, le=1)
    """Seconds that a run waits for company. At 0 the rows that arrive during one run make the next, and none waits."""

    request_timeout_seconds: float = Field(30.0, gt=0)
    """Longest time that a request may take, in seconds; clients may ask for less with `X-Request-Timeout`."""

    rate_limit_per_second: float = Field(0.0, ge=0, le=1e6)
    """Requests for predictions that one client may make a second; 0 for no limit, else at least 0.001. A client is an
    API key; without keys it is an address: behind a proxy, set `trusted_proxies`. Each worker counts by itself, so that
    a client with connections to all of N workers may make N times as many: set `rate_limit_storage_uri` to share the
    limit."""

    rate_limit_storage_uri: SecretStr = SecretStr("memory://")
    """Where the requests of clients are counted. `memory://` is the memory of each worker. A Redis server, as in
    `redis://:password@redis.example.org:6379/0`, `rediss://...` or `redis+unix:///run/redis.sock`, is shared by all
    workers of all servers that name it, and needs `deepserve[redis]`. While it does not answer, requests pass:
    `deepserve_rate_limit_failures_total` counts them, and the log says so."""

    rate_burst: int = Field(
        default_factory=lambda chosen: max(1, math.ceil(chosen["rate_limit_per_second"])), ge=1, le=10**6
    )
    """Requests that such a client may make at once, after a pause; unless set, those of one second. Redis counts in a
    sliding window of `rate_burst` / `rate_limit_per_second` seconds, rounded up to whole seconds: there, a burst is at
    least the requests of one second."""

    canary: Annotated[dict[ModelName, TrafficSplit], NoDecode] = {}
    """By model, the version that answers a share of the requests which ask for none; the same request id meets the same
    version each time. As in `{"digits": {"version": "2", "share": 0.1}}`."""

    shadow: Annotated[dict[ModelName, TrafficSplit], NoDecode] = {}
    """By model, the version that gets a copy of a share of the requests, as `canary` has it. Its answers are compared
    with those that clients get, in the metrics; it works when nothing else does."""

    cache_bytes: Annotated[dict[ModelName, PositiveInt], NoDecode] = {}
    """By model, bytes of answers that each worker keeps for those who ask the same again; a model that is not named
    keeps none. As in `{"digits": 67108864}`."""

    drain_seconds: float = Field(0.0, ge=0, le=3600)
    """Seconds that the server goes on serving after SIGTERM, not ready any more: as long as those who send it requests
    take to notice, and above 5 for connections that clients keep open to close without a loss."""

    api_keys: Annotated[frozenset[SecretStr], NoDecode] = frozenset()
    """Keys that open the models, separated by commas; none means that everybody may use them."""

    admin_keys: Annotated[frozenset[SecretStr], NoDecode] = frozenset()
    """Keys that open the loading and unloading of models under `/v2/repository`, and nothing else, separated by commas;
    none means that nobody may. None of them may be one of `api_keys`."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log lines that are written."""

    log_format: Literal["text", "json"] = "text"
    """How the log is written to the standard output: `text` for people, `json`, an object a line, for programs."""

    log_requests_fraction: float = Field(0.01, ge=0, le=1)
    """Fraction of successful requests to log. Failed requests are logged within `log_refusals_per_second`."""

    log_refusals_per_second: int = Field(10, ge=0)
    """Lines a second that each worker logs about requests without a valid key that were refused (4xx, 503, 504) or
    abandoned, so that nobody can fill the disk. One line a second says how many more there were, and
    `deepserve_log_lines_left_out_total` counts them. Failures of the server (500) are always logged. 0 for no limit."""

    log_client_address: bool = True
    """Whether log lines of requests have the client's address. It is personal data under laws such as the GDPR: keep
    logs no longer than needed, or leave it out."""

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [entry for part in value.split(",") if (entry := part.strip())]

    @field_validator("cors_origins")
    @classmethod
    def _any_stands_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("* allows every origin: leave the others out, or *")
        return value

    @field_validator("tls_certificate_file", "tls_key_file", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return value or None

    @field_validator("tls_key_file")
    @classmethod
    def _both_or_neither(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_certificate_file" in info.data and (value is None) != (info.data["tls_certificate_file"] is None):
            raise ValueError("a certificate file and a key file need each other")
        return value

    @field_validator(*_BY_MODEL, mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return from_json(value) if isinstance(value, str) else value

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                f"{value} comes from Kubernetes, for a Service of this name: set enableServiceLinks: false"
            )
        return value

    @field_validator("admin_keys")
    @classmethod
    def _must_differ(cls, value: frozenset[SecretStr], info: ValidationInfo) -> frozenset[SecretStr]:
        if value & info.data.get("api_keys", frozenset()):
            raise ValueError(f"a key of {PREFIX}API_KEYS opens the models, and may not change them too")
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _count(cls, value: object) -> object:
        return cores() if value == "auto" else value

    @field_validator("rate_limit_per_second")
    @classmethod
    def _none_or_some(cls, value: float) -> float:
        if 0 < value < LEAST_RATE:
            raise ValueError(f"neither 0, for no limit, nor at least {LEAST_RATE:g} requests a second")
        return value

    @field_validator("rate_limit_storage_uri")
    @classmethod
    def _known_scheme(cls, value: SecretStr) -> SecretStr:
        scheme, separator, place = value.get_secret_value().partition("://")
        if not separator or scheme not in STORAGE_SCHEMES or bool(place) != (scheme != "memory"):
            raise ValueError("neither memory:// nor the URI of a Redis server, as redis://host:6379")
        return value

    @field_validator("max_body_bytes_in_flight")
    @classmethod
    def _hold_one_body(cls, value: int, info: ValidationInfo) -> int:
        if value < (largest := info.data.get("max_body_bytes", 0)):
            raise ValueError(f"less than {PREFIX}MAX_BODY_BYTES, {largest}")
        return value

    @field_validator("models_dir", "tls_certificate_file", "tls_key_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        """Keep links: they may lead elsewhere later, as in a volume that Kubernetes updates."""
        return None if value is None else value.absolute()

    @property
    def by_model(self) -> dict[str, Mapping[str, Any]]:
        """The settings that say something of single models, by their names."""
        return {name: getattr(self, name) for name in _BY_MODEL}


@cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        StartupError: one is not valid; the message names its variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"{PREFIX}{str(e['loc'][0]).upper()}: {_place(e['loc'][1:])}{e['msg']}"
            for e in error.errors()
            if e["type"] != "default_factory_not_called"  # follows from another setting, which is at fault
        )
        raise StartupError(faults) from error


def _place(loc: tuple[str | int, ...]) -> str:
    """Where in a setting of many parts a fault is."""
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def strangers(environment: Mapping[str, str]) -> list[str]:
    """The variables that look like settings and are none, a line each: a misspelt one would be ignored in silence."""
    found = []
    for variable in sorted(environment):
        name = variable.upper().removeprefix(PREFIX).lower()
        ours = variable.upper().startswith(PREFIX) and not _NO_SETTINGS.fullmatch(variable)
        if ours and name not in Settings.model_fields:
            nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.65)
            meant = f"; is {PREFIX}{nearest[0].upper()} meant?" if nearest else ""
            found.append(f"{variable} is not a setting{meant}")
    return found
