"""Metrics: conventions, reading at scrape time, histograms, the text format."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mdp import __version__
from mdp.observability.metrics import Histogram, Metrics


def parsed(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape: (name, sorted labels) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def populated() -> Metrics:
    """Metrics of every kind."""
    metrics = Metrics()
    metrics.counters("mdp_queue_received_total", "Events.", ("queue",), lambda: {("trades",): 3})
    metrics.gauges("mdp_clients", "Clients.", (), lambda: {(): 2})
    metrics.histogram("mdp_lag_seconds", "Lag.", (0.1, 1.0)).observe(0.5)
    metrics.histogram("mdp_batch_bytes", "Size.", (10.0,), ("queue",)).labels("a").observe(5)
    return metrics


def test_a_scrape_shows_what_the_stage_counted_by_then() -> None:
    """A counter is read when it is scraped, not when it is registered."""
    counted = {("trades",): 1}
    metrics = Metrics()
    metrics.counters("mdp_events_total", "Events.", ("queue",), lambda: counted)
    key = ("mdp_events_total", (("queue", "trades"),))

    assert parsed(metrics)[key] == 1
    counted["trades",] = 7

    assert parsed(metrics)[key] == 7


def test_build_info_names_the_version_and_python() -> None:
    """A dashboard can tell which version answered."""
    labels = (("python", platform.python_version()), ("version", __version__))
    assert parsed(Metrics())["mdp_build_info", labels] == 1


def test_every_metric_passes_the_rules_of_promtool() -> None:
    """Each family has help, a type and our prefix; counters alone end in _total; nothing is there twice."""
    text = populated().render().decode()
    families = list(text_string_to_metric_families(text))

    names = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert len(names) == len(families) == len({name for name, _ in names})
    for name, kind in names:
        assert name.startswith("mdp_")
        assert helped[name].strip()
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|us|ns|milliseconds|kb|mb|percent)(_|$)", name)
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_metrics_of_two_processes_share_nothing() -> None:
    """The registry is the object's own, so a test or a second process in one program starts from nothing."""
    Metrics().gauges("mdp_clients", "Clients.", (), lambda: {(): 2})
    assert ("mdp_clients", ()) not in parsed(Metrics())


@pytest.mark.parametrize(
    ("name", "help", "labels", "complaint"),
    [
        ("clients", "Help.", (), "after 'mdp_'"),
        ("mdp_Clients", "Help.", (), "after 'mdp_'"),
        ("mdp_clients_total", "Help.", (), "no counter"),
        ("mdp_clients_count", "Help.", (), "are taken"),
        ("mdp_lag_ms", "Help.", (), "use seconds"),
        ("mdp_clients", " ", (), "help"),
        ("mdp_clients", "Help.", ("A",), "label"),
        ("mdp_clients", "Help.", ("a", "a"), "twice"),
        ("mdp_build_info", "Help.", (), "already"),
    ],
)
def test_a_name_against_the_conventions_is_refused(
    name: str, help: str, labels: tuple[str, ...], complaint: str
) -> None:
    """The mistake shows when the program starts, not on a dashboard."""
    with pytest.raises(ValueError, match=complaint):
        Metrics().gauges(name, help, labels, dict)


def test_a_counter_without_total_is_refused() -> None:
    """Counters are named as Prometheus will show them."""
    with pytest.raises(ValueError, match="_total"):
        Metrics().counters("mdp_events", "Events.", (), dict)


@pytest.mark.parametrize(
    "result",
    [
        ValueError("stage is gone"),
        {("trades", "extra"): 1.0},
        {("trades",): "not a number"},
        None,
    ],
)
def test_a_reader_that_fails_loses_only_itself_and_is_counted(result: object) -> None:
    """One broken stage must not blind the whole dashboard."""

    def read() -> Mapping[tuple[str, ...], float]:
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value]  # nonsense is the point

    metrics = Metrics()
    metrics.gauges("mdp_broken", "Broken.", ("queue",), read)
    metrics.gauges("mdp_fine", "Fine.", (), lambda: {(): 1.0})

    metrics.render()
    samples = parsed(metrics)

    assert samples["mdp_fine", ()] == 1
    assert not [name for name, _ in samples if name == "mdp_broken"]
    assert samples["mdp_metrics_read_failures_total", (("metric", "mdp_broken"),)] == 1


def test_label_values_are_escaped() -> None:
    """A quote or line break in a label cannot forge other samples."""
    metrics = Metrics()
    metrics.gauges("mdp_clients", "Clients.", ("name",), lambda: {('a"\nmdp_forged 1\\',): 1.0})

    samples = parsed(metrics)

    assert samples["mdp_clients", (("name", 'a"\nmdp_forged 1\\'),)] == 1
    assert ("mdp_forged", ()) not in samples


def test_a_histogram_is_shown_in_cumulative_buckets() -> None:
    """A value on a bound belongs to that bucket; the last bucket holds all."""
    metrics = Metrics()
    histogram = metrics.histogram("mdp_lag_seconds", "Lag.", (0.1, 1.0))
    histogram.observe(0.1)
    histogram.observe_many(0.5, 3)
    histogram.observe(50)

    samples = parsed(metrics)

    assert samples["mdp_lag_seconds_bucket", (("le", "0.1"),)] == 1
    assert samples["mdp_lag_seconds_bucket", (("le", "1.0"),)] == 4
    assert samples["mdp_lag_seconds_bucket", (("le", "+Inf"),)] == 5
    assert samples["mdp_lag_seconds_count", ()] == 5
    assert samples["mdp_lag_seconds_sum", ()] == pytest.approx(51.6)


def test_labelled_histograms_count_apart() -> None:
    """The same labels give the same histogram, others another."""
    metrics = Metrics()
    histogram = metrics.histogram("mdp_step_seconds", "Steps.", (1.0,), ("stage",))
    assert histogram.labels("a") is histogram.labels("a")
    histogram.labels("a").observe(0.5)
    histogram.labels("b").observe(2)

    samples = parsed(metrics)

    assert samples["mdp_step_seconds_bucket", (("le", "1.0"), ("stage", "a"))] == 1
    assert samples["mdp_step_seconds_bucket", (("le", "1.0"), ("stage", "b"))] == 0
    assert samples["mdp_step_seconds_count", (("stage", "b"),)] == 1


def test_a_labelled_histogram_wants_its_labels() -> None:
    """Observing it without labels, or with the wrong number of them, is an error and no silent sample."""
    histogram = Metrics().histogram("mdp_step_seconds", "Steps.", (1.0,), ("stage",))
    with pytest.raises(TypeError, match="labels"):
        histogram.observe(1)
    with pytest.raises(ValueError, match="stage"):
        histogram.labels("a", "b")
    with pytest.raises(ValueError, match="no labels"):
        Histogram((1.0,)).labels("a")


@pytest.mark.parametrize("buckets", [(), (2.0, 1.0), (1.0, 1.0), (1.0, float("inf")), (float("nan"),)])
def test_buckets_must_ascend(buckets: tuple[float, ...]) -> None:
    """Anything else would count values in the wrong bucket."""
    with pytest.raises(ValueError, match="ascending"):
        Histogram(buckets)


def test_nan_and_nothing_are_not_observed() -> None:
    """One NaN would make the sum NaN for ever."""
    histogram = Histogram((1.0,))
    histogram.observe(float("nan"))
    histogram.observe_many(1.0, 0)
    assert (histogram.count, histogram.total, histogram.max) == (0, 0.0, 0.0)


def test_the_quantile_of_nothing_is_zero() -> None:
    """A report before the first value shows 0 and does not fail."""
    assert Histogram((1.0,)).quantile(0.99) == 0
    with pytest.raises(ValueError, match="0 to 1"):
        Histogram((1.0,)).quantile(99)


def test_a_quantile_since_a_mark_ignores_what_was_before() -> None:
    """A measured run is not mixed with the warm-up before it."""
    histogram = Histogram((1.0, 2.0, 3.0))
    histogram.observe_many(2.5, 1000)
    mark = histogram.mark()
    histogram.observe_many(0.5, 10)

    assert histogram.quantile(0.5) > 2
    assert histogram.quantile(0.99, since=mark) <= 1


@given(st.lists(st.floats(0, 20), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    """The estimate is off by at most the width of the bucket in which the true quantile lies."""
    bounds = (1.0, 2.0, 5.0, 10.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)

    rank = max(-(-q * len(values) // 1), 1)  # nearest-rank definition
    true = sorted(values)[int(rank) - 1]
    low = max((bound for bound in bounds if bound < true), default=0.0)
    high = min((bound for bound in (*bounds, max(values)) if bound >= true), default=max(values))
    assert low - 1e-9 <= histogram.quantile(q) <= high + 1e-9
