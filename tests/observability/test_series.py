"""Series gather their changes and hand them to prometheus_client when they are flushed."""

import math
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.samples import Sample

from service.observability.series import Counter, Family, Gauge, Histogram, flush

NUMBERS = count()
BOUNDS = (1.0, 10.0)


def name() -> str:
    return f"a_metric_{next(NUMBERS)}"


def samples(family: Family) -> list[Sample]:
    """The samples of the library's metric."""
    flush()
    [metric] = family.metric.collect()
    return metric.samples


def test_a_counter_adds_up_what_is_gathered_and_what_is_not() -> None:
    counter = Counter(name(), "It", ("of",))
    counter.gathered("x").inc()
    counter.gathered("x").inc(2)
    counter.labels("x").inc(3)
    assert [(sample.name, sample.labels, sample.value) for sample in samples(counter)] == [
        (f"{counter.name}_total", {"of": "x"}, 6.0)
    ]
    assert [sample.value for sample in samples(counter)] == [6.0], "nothing is added twice"


def test_a_family_without_labels_is_one_series() -> None:
    counter = Counter(name(), "It", ())
    counter.gathered().inc()
    assert [sample.value for sample in samples(counter)] == [1.0]


def test_the_same_labels_are_the_same_series_and_a_wrong_number_of_labels_is_refused() -> None:
    counter = Counter(name(), "It", ("of",))
    assert counter.gathered("x") is counter.gathered("x")
    assert counter.gathered("x") is not counter.gathered("y")
    with pytest.raises(ValueError, match="Incorrect label count"):
        counter.gathered("x", "y")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_a_histogram_counts_as_the_library_does(values: list[float]) -> None:
    gathered, direct = (Histogram(name(), "It", ("of",), BOUNDS) for _ in range(2))
    for value in values:
        gathered.gathered("x").observe(value)
        direct.labels("x").observe(value)
    gathered.gathered("x").flush()
    found, expected = (
        [(sample.labels.get("le"), sample.value) for sample in samples(family) if not sample.name.endswith("_sum")]
        for family in (gathered, direct)
    )
    assert found == expected
    totals = [
        next(each.value for each in samples(family) if each.name.endswith("_sum")) for family in (gathered, direct)
    ]
    assert totals[0] == pytest.approx(totals[1]) == pytest.approx(math.fsum(values))


def test_an_observation_of_a_trace_becomes_the_exemplar_of_its_bucket() -> None:
    histogram = Histogram(name(), "It", ("of",), BOUNDS)
    series = histogram.gathered("x")
    series.observe(0.5)
    series.observe_traced(10, "01" * 16)
    exemplars = {sample.labels["le"]: sample.exemplar for sample in samples(histogram) if "le" in sample.labels}
    assert exemplars["1.0"] is exemplars["+Inf"] is None
    assert exemplars["10.0"] is not None
    assert (exemplars["10.0"].labels, exemplars["10.0"].value) == ({"trace_id": "01" * 16}, 10)
    assert [sample.value for sample in samples(histogram) if "le" in sample.labels] == [1, 2, 2]


def test_a_withdrawn_gauge_is_not_a_number() -> None:
    gauge = Gauge(name(), "It", ("of",))
    gauge.labels("x").set(1)
    assert [sample.value for sample in samples(gauge)] == [1]
    gauge.labels("x").withdraw()
    assert [math.isnan(sample.value) for sample in samples(gauge)] == [True]


def test_a_family_is_exposed_with_values_from_elsewhere() -> None:
    counter = Counter(name(), "It", ("of", "rows"), summed_label="rows")
    metric = counter.exposed_with({("x",): 3.0})
    assert [(sample.name, sample.labels, sample.value) for sample in metric.samples] == [
        (f"{counter.name}_total", {"of": "x"}, 3.0)
    ]
