"""Generate the Grafana dashboard: `python deploy/monitoring/dashboard.py` writes dashboards/deepserve.json.

A panel is an entry of `ROWS`: its title, its unit, and its queries by legend.
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "dashboards" / "deepserve.json"

OF = 'job=~"$job"'
MODEL = f'{OF}, model=~"$model", model!=""'
RATE = "[$__rate_interval]"

Queries = dict[str, str]
"""Queries by legend."""


def share(quantile: float, name: str) -> str:
    """Return the query for a quantile of a histogram by model."""
    return f"histogram_quantile({quantile}, sum by (le, model) (rate({name}_bucket{{{MODEL}}}{RATE})))"


def mean(name: str) -> str:
    """Return the query for the mean of a histogram."""
    return f"sum(rate({name}_sum{{{MODEL}}}{RATE})) / sum(rate({name}_count{{{MODEL}}}{RATE}))"


def drift(features: str) -> str:
    """Return the query for the drift index of features, which a recording rule computes."""
    return f"deepserve_drift_index{{{MODEL}, {features}}}"


ROWS: dict[str, list[tuple[str, str, Queries]]] = {
    "Objectives": [
        ("Requests for models", "reqps", {"all": "sum(deepserve:requests:rate5m)"}),
        (
            "Failed requests, without invalid and abandoned ones",
            "percentunit",
            {"5 minutes": "max(deepserve:failed:ratio5m)"},
        ),
        ("Responses over 250 ms", "percentunit", {"5 minutes": "max(deepserve:slow:ratio5m)"}),
        (
            "Versions not ready",
            "short",
            {"versions": f"count(deepserve_model_ready{{{OF}}} == 0) or vector(0)"},
        ),
    ],
    "Requests": [
        (
            "By outcome",
            "reqps",
            {"{{outcome}}": f"sum by (outcome) (rate(deepserve_requests_total{{{MODEL}}}{RATE}))"},
        ),
        (
            "By route, model and version",
            "reqps",
            {
                "{{route}} {{model}} {{version}}": (
                    f"sum by (route, model, version) (rate(deepserve_requests_total{{{MODEL}}}{RATE}))"
                )
            },
        ),
        ("Response time, median", "s", {"{{model}}": share(0.5, "deepserve_request_seconds")}),
        ("Response time, 99th percentile", "s", {"{{model}}": share(0.99, "deepserve_request_seconds")}),
    ],
    "Where the time goes": [
        (
            "Mean of each stage",
            "s",
            {stage: mean(f"deepserve_{stage}_seconds") for stage in ("decode", "queue", "run", "encode")},
        ),
        ("Time in the queue, 99th percentile", "s", {"{{model}}": share(0.99, "deepserve_queue_seconds")}),
        (
            "Rows per run",
            "short",
            {
                "{{model}}": (
                    f"sum by (model) (rate(deepserve_run_rows_sum{{{MODEL}}}{RATE}))"
                    f" / sum by (model) (rate(deepserve_run_rows_count{{{MODEL}}}{RATE}))"
                )
            },
        ),
        (
            "Queued rows, share of the limit",
            "percentunit",
            {
                "{{model}} {{version}}": (
                    f"max by (model, version) (deepserve_queue_rows{{{MODEL}}} / deepserve_queue_limit_rows{{{MODEL}}})"
                )
            },
        ),
    ],
    "Models": [
        (
            "Workers by provider and precision",
            "short",
            {
                "{{model}} {{version}} {{provider}} {{precision}}": (
                    f"sum by (model, version, provider, precision) (deepserve_model_provider{{{MODEL}}})"
                )
            },
        ),
        ("Loads", "short", {"{{model}} {{outcome}}": f"sum by (model, outcome) (deepserve_model_loads_total{{{OF}}})"}),
        (
            "Cache hits",
            "percentunit",
            {
                "{{model}}": (
                    f'sum by (model) (rate(deepserve_cache_requests_total{{{MODEL}, outcome="hit"}}{RATE}))'
                    f" / sum by (model) (rate(deepserve_cache_requests_total{{{MODEL}}}{RATE}))"
                )
            },
        ),
        (
            "Rows compared with a shadow",
            "short",
            {
                "{{model}} {{shadow}} {{outcome}}": (
                    f"sum by (model, shadow, outcome) (rate(deepserve_shadow_rows_total{{{MODEL}}}{RATE}))"
                )
            },
        ),
    ],
    "Drift from the training data: below 0.1 is none, above 0.25 is much": [
        ("Inputs", "short", {"{{model}} {{version}} {{feature}}": drift('feature!="prediction"')}),
        ("Predictions", "short", {"{{model}} {{version}}": drift('feature="prediction"')}),
    ],
    "Workers": [
        ("Memory", "bytes", {"{{instance}} {{worker}}": f"deepserve_worker_resident_bytes{{{OF}}}"}),
        (
            "CPU",
            "percentunit",
            {
                "{{instance}} {{worker}}": (
                    f"sum by (instance, worker) (rate(deepserve_worker_cpu_seconds_total{{{OF}}}{RATE}))"
                )
            },
        ),
        ("Memory of the caches", "bytes", {"{{model}}": f"sum by (model) (deepserve_cache_bytes{{{OF}}})"}),
        ("Servers up", "short", {"servers": f"sum(up{{{OF}}})"}),
    ],
    "GPUs": [
        (
            "GPU memory in use",
            "percentunit",
            {"{{instance}} {{gpu}}": f"deepserve_gpu_memory_used_bytes{{{OF}}} / deepserve_gpu_memory_bytes{{{OF}}}"},
        ),
        (
            "GPU memory of workers",
            "bytes",
            {"{{instance}} {{worker}} {{gpu}}": f"deepserve_worker_gpu_memory_bytes{{{OF}}}"},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in the format that Grafana imports."""
    panels: list[dict[str, Any]] = []
    for height, (title, row) in enumerate(ROWS.items()):
        y = 9 * height
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"type": "row", "title": title, "gridPos": place, "panels": [], "id": len(panels) + 1})
        for number, (name, unit, queries) in enumerate(row):
            width = 24 // len(row)
            place = {"x": width * number, "y": y + 1, "w": width, "h": 8}
            panels.append(_panel(len(panels) + 1, name, unit, queries, place))
    return {
        "uid": "deepserve",
        "title": "deepserve",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable("job", "up"), _variable("model", "deepserve_model_ready")]},
        "panels": panels,
    }


def _panel(number: int, title: str, unit: str, queries: Queries, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + each), "expr": query, "legendFormat": legend, "exemplar": "seconds" in query}
            for each, (legend, query) in enumerate(queries.items())
        ],
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": f"label_values({metric}, {label})",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")
