"""Every setting, with its default and advice. The defaults suit a laptop.

Each setting is an environment variable: `max_body_bytes` is `DEEPSERVE_MAX_BODY_BYTES`.
"""

import math
import os
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

MIN_RATE = 0.001
"""The lowest rate limit, in requests a second: one in a quarter of an hour."""

RENAMED = {
    "watch": "watch_seconds",
    "gpu_memory": "gpu_memory_mib",
    "max_wait": "max_wait_seconds",
    "request_timeout": "request_timeout_seconds",
    "rate_limit": "rate_limit_per_second",
    "log_requests": "log_requests_fraction",
    "cache": "cache_bytes",
}
"""Settings by their old names, which still work in this release."""

_FOREIGN = re.compile(r"DEEPSERVE_(DATA_DIR|SERVICE_(HOST|PORT.*)|PORT_\d+_(TCP|UDP).*)")
"""Variables that are not settings: other programs read them, or Kubernetes sets them for a Service named deepserve."""

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
    later) instead of HTTP. When the files are replaced, as cert-manager does in Kubernetes, the server uses them a
    second later without a restart. If they do not match, it logs that and keeps the previous certificate."""

    tls_key_file: Path | None = Field(None, validate_default=True)
    """PEM file with the private key of the certificate, without passphrase. May be the same file."""

    allowed_hosts: Annotated[tuple[Annotated[HostPattern, PlainValidator(HostPattern.parse)], ...], NoDecode] = ()
    """Hosts that requests may name in `Host`, separated by commas: a name (`api.example.org`), all subdomains
    (`*.example.org`), a single port (`localhost:3000`) or an address (`192.0.2.1`, `[2001:db8::1]`). Other hosts get
    421. By default every host is allowed. Set it if browsers can reach the server, above all on localhost or in a
    private network without API keys: otherwise any web page can read responses, by DNS rebinding. `/livez`, `/healthz`,
    `/readyz`, `/metrics` and `/v2/health` also answer to any IP address, which is how kubelet and Prometheus reach a
    pod."""

    cors_origins: Annotated[tuple[Annotated[str, PlainValidator(parse_origin)], ...], NoDecode] = ()
    """Origins of web pages that may call the server from a browser (CORS), separated by commas, such as
    `https://app.example.org` or `http://localhost:5173`; `*` for every page. By default only pages of the server's own
    origin may. Cookies are never allowed; API keys, in `Authorization`, are."""

    trusted_proxies: Annotated[tuple[Annotated[IPNetwork, PlainValidator(parse_network)], ...], NoDecode] = ()
    """Addresses and networks of proxies whose `forwarded_header` the server trusts, separated by commas, such as
    `10.0.0.0/8, 2001:db8::1`. By default none is trusted, and the client's address is the peer's. Do not list networks
    from which clients connect directly: they could forge their address."""

    forwarded_header: str = Field("X-Forwarded-For", pattern=r"^[A-Za-z0-9-]+$")
    """Header in which trusted proxies send the client's address: `X-Forwarded-For`, `Forwarded` (RFC 7239), or a header
    with a single address, such as `X-Real-IP`. Other headers are not read: a proxy may pass them on as a client sent
    them."""

    workers: int = Field(1, ge=1, le=256)
    """Number of worker processes. `auto` is one for each core that the cgroup and the CPU affinity allow. Each worker
    loads every model. Workers scale better than threads."""

    models_dir: Path = Path(__file__).parent.parent / "models"
    """Directory with the models, as `<name>/<version>`."""

    version_policy: Annotated[dict[ModelName, VersionPolicy], NoDecode] = {}
    """Versions to load, by model: `"latest N"` for the newest N that pass verification, `"all"`, or a list. For example
    `{"digits": "all", "sentiment": [1, 3]}`. The default for a model is `"latest 2"`."""

    watch_seconds: float = Field(0.0, ge=0)
    """Interval at which `models_dir` is checked for versions to load: new ones, and those whose content has changed. 0
    checks at start only, and when a client with an admin key loads a model. A loaded version keeps serving when its
    files disappear: see `deepserve_model_files_missing`."""

    strict_readiness: bool = False
    """Whether the server is ready only while every model in `models_dir` is ready. Otherwise it is ready once every
    model found at start is ready, and until one of the models that were ready no longer is; a new model that fails does
    not count."""

    device: Device = "cpu"
    """Device that runs the models. With `cuda` or `tensorrt` the server does not start if the device does not work, and
    a model that it cannot run is not ready. `auto` uses `cuda` if it works, or else the CPU."""

    precision: Literal["auto", "float32"] = "auto"
    """Precision on the CPU. `auto` runs the int8 graph of a model if its card says that it is faster and as accurate;
    `float32` runs the reference graph."""

    gpu_memory_mib: int = Field(0, ge=0)
    """GPU memory limit of each model in each worker, in MiB; 0 for no limit."""

    cuda_graphs: bool = False
    """Whether a GPU replays recorded runs (CUDA graphs) if a model allows it. Saves the launch of each operation."""

    tensorrt_cache: Path | None = None
    """Directory for the engines that TensorRT builds. By default it builds them at each start, which takes minutes."""

    threads: int = Field(default_factory=lambda chosen: max(1, cores() // chosen["workers"]), ge=1, le=256)
    """Threads of a run on the CPU. By default each worker's share of the cores."""

    max_body_bytes: int = Field(10 * 2**20, ge=1024)
    """Size limit of a request body. A larger one gets 413 as soon as its size is known."""

    max_body_bytes_in_flight: int = Field(
        default_factory=lambda chosen: max(256 * 2**20, 4 * chosen["max_body_bytes"]), ge=1024
    )
    """Size limit of all request bodies together that a worker holds in memory. A request that would exceed it gets 503.
    By default 256 MiB or four times `max_body_bytes`, whichever is more."""

    max_connections: int = Field(1000, ge=1)
    """Limit of open connections of a worker. One more gets 503. Each needs a file descriptor (`ulimit -n`)."""

    keep_alive_seconds: float = Field(75.0, gt=0, le=86400)
    """How long an idle connection stays open. A load balancer must close idle connections earlier, or it may send a
    request on a connection that the server is closing: the default is above the 60 seconds that are usual there."""

    max_batch_rows: int = Field(64, ge=1)
    """Maximum number of rows of a run."""

    max_queue_rows: int = Field(1024, ge=1)
    """Maximum number of rows that wait for a model in a worker. Further requests get 503 at once."""

    max_wait_seconds: float = Field(0.0, ge=0, le=1)
    """How long a run waits for more rows. At 0 it does not wait: rows that arrive during a run make up the next one."""

    request_timeout_seconds: float = Field(30.0, gt=0)
    """Time limit of a request. Clients can ask for a shorter one with `X-Request-Timeout`."""

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
    """Version that answers a share of the requests that do not name a version, by model. For example
    `{"digits": {"version": "2", "share": 0.1}}`. The request id decides: the same id always gets the same version."""

    shadow: Annotated[dict[ModelName, TrafficSplit], NoDecode] = {}
    """Version that gets a copy of a share of the requests, by model, in the form of `canary`. Metrics compare its
    outputs with those that clients get. It runs only while the worker is idle."""

    cache_bytes: Annotated[dict[ModelName, PositiveInt], NoDecode] = {}
    """Size of the cache of outputs in each worker, by model. For example `{"digits": 67108864}`. By default a model has
    no cache."""

    drain_seconds: float = Field(0.0, ge=0, le=3600)
    """How long the server keeps serving after SIGTERM, while it reports that it is not ready. Set it to the time that
    load balancers need to notice, and above 5 so that idle connections close without losing a request."""

    api_keys: Annotated[frozenset[SecretStr], NoDecode] = frozenset()
    """API keys, separated by commas. Requests to the models need one of them. By default no key is needed."""

    admin_keys: Annotated[frozenset[SecretStr], NoDecode] = frozenset()
    """Keys for loading and unloading models under `/v2/repository`, separated by commas. They open nothing else, and
    must not be in `api_keys`. By default models cannot be loaded or unloaded over HTTP."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the log lines that are written."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log on standard output: `text` for people, or `json`, an object a line, for programs."""

    log_requests_fraction: float = Field(0.01, ge=0, le=1)
    """Fraction of successful requests to log. Failed requests are logged within `log_refusals_per_second`."""

    log_refusals_per_second: int = Field(10, ge=0)
    """Limit of the lines that each worker logs about refused (4xx, 503, 504) or abandoned requests without a valid key,
    so that nobody can fill the disk. One line a second says how many more there were, and
    `deepserve_log_lines_left_out_total` counts them. Failures of the server (500) are always logged. 0 for no limit."""

    log_client_address: bool = True
    """Whether log lines of requests contain the client's address. It is personal data under laws such as the GDPR: keep
    logs no longer than needed, or leave it out."""

    # How a variable is parsed.

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _parse_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [entry for part in value.split(",") if (entry := part.strip())]

    @field_validator(*_BY_MODEL, mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        return from_json(value) if isinstance(value, str) else value

    @field_validator("workers", mode="before")
    @classmethod
    def _parse_workers(cls, value: object) -> object:
        return cores() if value == "auto" else value

    @field_validator("port", mode="before")
    @classmethod
    def _explain_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                f"{value} comes from Kubernetes, for a Service of this name: set enableServiceLinks: false"
            )
        return value

    @field_validator("tls_certificate_file", "tls_key_file", mode="before")
    @classmethod
    def _parse_empty(cls, value: object) -> object:
        return value or None

    @field_validator("models_dir", "tls_certificate_file", "tls_key_file")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        """Keep links: they may lead elsewhere later, as in a volume that Kubernetes updates."""
        return None if value is None else value.absolute()

    # What a value must be, beside its type and range.

    @field_validator("tls_key_file")
    @classmethod
    def _check_pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_certificate_file" in info.data and (value is None) != (info.data["tls_certificate_file"] is None):
            raise ValueError("a certificate file and a key file need each other")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_wildcard(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("* allows every origin: list either it or the others")
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
    def _check_room_for_a_body(cls, value: int, info: ValidationInfo) -> int:
        if value < (largest := info.data.get("max_body_bytes", 0)):
            raise ValueError(f"less than {PREFIX}MAX_BODY_BYTES, {largest}")
        return value

    @field_validator("rate_limit_per_second")
    @classmethod
    def _check_rate(cls, value: float) -> float:
        if 0 < value < MIN_RATE:
            raise ValueError(f"must be 0, for no limit, or at least {MIN_RATE:g} requests a second")
        return value

    @field_validator("admin_keys")
    @classmethod
    def _check_keys_differ(cls, value: frozenset[SecretStr], info: ValidationInfo) -> frozenset[SecretStr]:
        if value & info.data.get("api_keys", frozenset()):
            raise ValueError(f"a key must not also be in {PREFIX}API_KEYS")
        return value

    @property
    def by_model(self) -> dict[str, Mapping[str, Any]]:
        """The settings whose values are given by model, by their names."""
        return {name: getattr(self, name) for name in _BY_MODEL}


@cache
def settings() -> Settings:
    """Return the settings of this process.

    Raises:
        StartupError: a setting is not valid, or a variable is set by its new and its old name. The message names them.
    """
    renamed = _renamed(os.environ)
    present = {_setting(variable): variable for variable in os.environ}
    for name, variable in renamed.items():
        if name in present:
            raise StartupError(f"{variable} is the old name of {present[name]}, and both are set: remove {variable}")
    values: dict[str, Any] = {name: os.environ[variable] for name, variable in renamed.items()}
    try:
        return Settings(**values)
    except ValidationError as error:
        faults = "; ".join(
            f"{renamed.get(str(fault['loc'][0])) or _variable(str(fault['loc'][0]))}: "
            f"{_location(fault['loc'][1:])}{fault['msg']}"
            for fault in error.errors()
            if fault["type"] != "default_factory_not_called"  # follows from another setting, which is at fault
        )
        raise StartupError(faults) from error


def environment_warnings(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that has an old name or is not a setting."""
    old = [
        f"{variable} is the old name of {_variable(name)}; the next release ignores it"
        for name, variable in _renamed(environment).items()
    ]
    return old + unknown_variables(environment)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that looks like a setting and is none, such as a misspelt one."""
    lines = []
    for variable in sorted(environment):
        name = _setting(variable)
        if name is None or name in Settings.model_fields or name in RENAMED or _FOREIGN.fullmatch(variable):
            continue
        nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.65)
        hint = f"; is {_variable(nearest[0])} meant?" if nearest else ""
        lines.append(f"{variable} is not a setting{hint}")
    return lines


def _renamed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with old names, by the new names of their settings."""
    found = {RENAMED.get(_setting(variable) or ""): variable for variable in environment}
    return {name: variable for name, variable in found.items() if name is not None}


def _setting(variable: str) -> str | None:
    """Return the name of the setting that a variable sets; None if it does not begin as one."""
    name = variable.upper()
    return name.removeprefix(PREFIX).lower() if name.startswith(PREFIX) else None


def _variable(setting: str) -> str:
    return PREFIX + setting.upper()


def _location(loc: tuple[str | int, ...]) -> str:
    """Return where in the value of a setting a fault is."""
    return f"{'.'.join(map(str, loc))}: " if loc else ""
