"""Faults of the environment are named: values that are not valid, misspelt variables and old names."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.commands.startup import check_models
from service.errors import StartupError
from service.settings import RENAMED, Settings, environment_warnings, settings, unknown_variables


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("DEEPSERVE_WORKER", "DEEPSERVE_WORKER is not a setting; is DEEPSERVE_WORKERS meant?"),
        ("DEEPSERVE_MODEL_DIR", "DEEPSERVE_MODEL_DIR is not a setting; is DEEPSERVE_MODELS_DIR meant?"),
        ("deepserve_api_key", "deepserve_api_key is not a setting; is DEEPSERVE_API_KEYS meant?"),
        ("DEEPSERVE_COLOUR", "DEEPSERVE_COLOUR is not a setting"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_setting(variable: str, line: str) -> None:
    assert unknown_variables({variable: "1", "PATH": "/bin"}) == [line]


@pytest.mark.parametrize(
    "variable",
    [
        "DEEPSERVE_WORKERS",
        "deepserve_workers",
        "DEEPSERVE_DATA_DIR",
        "DEEPSERVE_SERVICE_HOST",
        "DEEPSERVE_SERVICE_PORT_HTTP",
        "DEEPSERVE_PORT_3000_TCP_ADDR",
        "WORKERS",
    ],
)
def test_settings_and_variables_of_other_programs_are_known(variable: str) -> None:
    assert unknown_variables({variable: "1"}) == []


def test_the_port_that_kubernetes_makes_of_a_service_of_this_name_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_PORT", "tcp://10.96.0.7:3000")
    with pytest.raises(ValidationError, match="enableServiceLinks"):
        Settings()


def test_a_key_is_not_an_api_key_and_an_admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_API_KEYS", "one, secret")
    monkeypatch.setenv("DEEPSERVE_ADMIN_KEYS", "secret, two")
    with pytest.raises(StartupError) as refused:
        settings.__wrapped__()  # without the cache
    assert str(refused.value).startswith("DEEPSERVE_ADMIN_KEYS: ")
    assert "DEEPSERVE_API_KEYS" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("value", ['{"digits": -1}', '{"digits": 0}', '{"digits": 1.5}', '["digits"]', "1000000"])
def test_a_cache_has_a_positive_size(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEEPSERVE_CACHE_BYTES", value)
    with pytest.raises(StartupError, match=r"^DEEPSERVE_CACHE_BYTES: "):
        settings.__wrapped__()


@pytest.mark.parametrize(
    "misspelt",
    [
        {"cache_bytes": {"digit": 1000}},
        {"canary": {"sentimant": {"version": "2", "share": 0.1}}},
        {"shadow": {"fashion": {"version": "2", "share": 0.1}, "clothing": {"version": "2", "share": 0.1}}},
        {"version_policy": {"digit": "all"}},
    ],
)
def test_settings_of_a_model_for_which_there_is_no_task_end_the_start(misspelt: dict[str, dict[str, object]]) -> None:
    [(name, models)] = misspelt.items()
    with pytest.raises(StartupError, match=f"^DEEPSERVE_{name.upper()}: there is no task {list(models)[-1]}$"):
        check_models(Settings(**misspelt))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_HOSTS", "example.org, https://example.org"),
        ("ALLOWED_HOSTS", "*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://app.example.org/"),
        ("CORS_ORIGINS", "*, https://app.example.org"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example.org"),
        ("FORWARDED_HEADER", "X-Forwarded-For:"),
        ("LOG_REFUSALS_PER_SECOND", "-1"),
        ("LOG_CLIENT_ADDRESS", "perhaps"),
        ("TLS_KEY_FILE", "key.pem"),
    ],
)
def test_settings_that_protect_the_server_are_never_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DEEPSERVE_{name}", value)
    with pytest.raises(StartupError, match=f"^DEEPSERVE_{name}: ") as refused:
        settings.__wrapped__()
    assert str(refused.value).count("DEEPSERVE_") == 1


def test_a_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_TLS_CERTIFICATE_FILE", "certificate.pem")
    with pytest.raises(StartupError, match=r"^DEEPSERVE_TLS_KEY_FILE: "):
        settings.__wrapped__()


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_an_empty_list_is_a_list_of_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("ALLOWED_HOSTS", "CORS_ORIGINS", "TRUSTED_PROXIES"):
        monkeypatch.setenv(f"DEEPSERVE_{name}", value)
    for name in ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE"):
        monkeypatch.setenv(f"DEEPSERVE_{name}", "")
    found = settings.__wrapped__()
    assert (found.allowed_hosts, found.cors_origins, found.trusted_proxies) == ((), (), ())
    assert (found.tls_certificate_file, found.tls_key_file) == (None, None)


def test_files_are_found_from_where_the_server_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The workers have another working directory."""
    monkeypatch.chdir(tmp_path)
    found = Settings(tls_certificate_file=Path("server.pem"), tls_key_file=Path("server.key"))
    assert (found.tls_certificate_file, found.tls_key_file) == (tmp_path / "server.pem", tmp_path / "server.key")


def test_one_body_must_fit_into_those_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_MAX_BODY_BYTES", "100000")
    assert Settings().max_body_bytes_in_flight == 256 * 2**20
    monkeypatch.setenv("DEEPSERVE_MAX_BODY_BYTES_IN_FLIGHT", "99999")
    with pytest.raises(ValidationError, match="less than DEEPSERVE_MAX_BODY_BYTES"):
        Settings()


OLD_VALUES = {
    "watch": "10",
    "gpu_memory": "512",
    "max_wait": "0.002",
    "request_timeout": "5",
    "rate_limit": "50",
    "log_requests": "0.5",
    "cache": '{"digits": 1000}',
}


@pytest.mark.parametrize("old", RENAMED)
@pytest.mark.parametrize("spell", [str.upper, str.lower])
def test_an_old_name_still_works(monkeypatch: pytest.MonkeyPatch, old: str, spell: Callable[[str], str]) -> None:
    new = RENAMED[old]
    monkeypatch.setenv(f"DEEPSERVE_{new.upper()}", OLD_VALUES[old])
    expected = settings.__wrapped__()
    monkeypatch.delenv(f"DEEPSERVE_{new.upper()}")
    variable = spell(f"deepserve_{old}")
    monkeypatch.setenv(variable, OLD_VALUES[old])
    assert settings.__wrapped__() == expected != Settings()
    [line] = environment_warnings({variable: "", "PATH": "/bin"})
    assert line.startswith(f"{variable} is the old name of DEEPSERVE_{new.upper()};")
    assert unknown_variables({variable: ""}) == []


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_beside_the_new_one_ends_the_start(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    names = {f"DEEPSERVE_{old.upper()}", f"DEEPSERVE_{RENAMED[old].upper()}"}
    for name in names:
        monkeypatch.setenv(name, OLD_VALUES[old])
    with pytest.raises(StartupError) as refused:
        settings.__wrapped__()
    assert all(name in str(refused.value) for name in names)


def test_a_fault_is_named_after_the_variable_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_REQUEST_TIMEOUT", "-1")
    with pytest.raises(StartupError, match=r"^DEEPSERVE_REQUEST_TIMEOUT: "):
        settings.__wrapped__()


def test_old_names_lead_to_settings() -> None:
    assert set(RENAMED.values()) <= Settings.model_fields.keys()
    assert not RENAMED.keys() & Settings.model_fields.keys()
    assert environment_warnings({"DEEPSERVE_WATCH_SECONDS": "1"}) == []
