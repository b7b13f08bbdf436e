"""ray.util.metrics as a program sees it: constructors, tags, what is refused. What is exported is the engines' own."""

import importlib
import pickle
import warnings

from outcome import raised


def _metrics(ray):
    return importlib.import_module(f"{ray.__name__}.util.metrics")


def _warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return sorted({warning.category.__name__ for warning in caught})


def case_what_a_metric_says_of_itself(ray):
    metrics = _metrics(ray)
    counter = metrics.Counter("compat_info_counter", description="calls", tag_keys=("a", "b"))
    gauge = metrics.Gauge("compat_info_gauge")
    histogram = metrics.Histogram("compat_info_histogram", boundaries=[1.0, 2.0], tag_keys=("a",))
    same = counter.set_default_tags({"a": "1"}) is counter
    infos = [{**metric.info, "tag_keys": list(metric.info["tag_keys"])} for metric in (counter, gauge, histogram)]
    return [same, infos, type(counter.info["tag_keys"]).__name__]


def case_records_of_all_kinds(ray):
    metrics = _metrics(ray)
    counter = metrics.Counter("compat_records_counter", tag_keys=("a", "b")).set_default_tags({"a": "1"})
    gauge = metrics.Gauge("compat_records_gauge")
    histogram = metrics.Histogram("compat_records_histogram", boundaries=[1.0, 2.0])
    return [
        counter.inc(tags={"b": "2"}),
        counter.inc(2, tags={"a": "3", "b": "4"}),
        counter.inc(True, tags={"b": ""}),
        gauge.set(3),
        gauge.set(-1.5),
        gauge.set(None),
        histogram.observe(0.5),
        histogram.observe(-1),
    ]


def case_what_is_refused(ray):
    metrics = _metrics(ray)
    counter = metrics.Counter("compat_refused_counter", tag_keys=("a", "b"))
    plain = metrics.Counter("compat_refused_plain")
    gauge = metrics.Gauge("compat_refused_gauge", tag_keys=("a",))
    histogram = metrics.Histogram("compat_refused_histogram", boundaries=[1.0])
    attempts = [
        (lambda: metrics.Counter(""), "empty"),
        (lambda: metrics.Counter("compat_x", tag_keys=["a"]), "tag_keys", "tuple"),
        (lambda: metrics.Counter("compat_x", tag_keys=("a", 1)), "str", "int"),
        (lambda: metrics.Histogram("compat_x"), "boundaries"),
        (lambda: metrics.Histogram("compat_x", boundaries=[]), "boundaries"),
        (lambda: metrics.Histogram("compat_x", boundaries=[0, 1]), "boundaries", "index 0", "positive"),
        (lambda: counter.set_default_tags({"c": "1"}), "c"),
        (lambda: counter.set_default_tags({"a": 1}), "str", "int"),
        (lambda: counter.inc(), "a,b"),
        (lambda: counter.inc(tags={"b": "1"}), "tag key(s): a"),
        (lambda: counter.inc(tags={"a": 1, "b": "1"}), "str", "int"),
        (lambda: plain.inc(0), ">0", "0"),
        (lambda: plain.inc(-1), ">0", "-1"),
        (lambda: plain.inc("1"), "int or float", "str"),
        (lambda: gauge.set("1"), "int or float", "str"),
        (lambda: gauge.set(1), "tag key(s): a"),
        (lambda: histogram.observe(None), "int or float"),
    ]
    return [raised(ray, call, *facts) for call, *facts in attempts]


def case_names_that_prometheus_does_not_take(ray):
    metrics = _metrics(ray)
    discarded = []
    outcomes = [
        _warned(lambda: discarded.append(metrics.Counter("no-dashes"))),
        _warned(lambda: metrics.Gauge("1st")),
        _warned(lambda: metrics.Gauge("with:colon")),
        _warned(lambda: metrics.Gauge("compat_plain_name")),
    ]
    return [outcomes, discarded[0].inc()]


def case_metrics_travel_without_their_default_tags(ray):
    metrics = _metrics(ray)
    counter = metrics.Counter("compat_pickled", "text", tag_keys=("a",)).set_default_tags({"a": "1"})
    histogram = metrics.Histogram("compat_pickled_histogram", "text", boundaries=[1, 2], tag_keys=("a",))

    @ray.remote
    def use(counter, histogram):
        counter.inc(tags={"a": "2"})
        histogram.observe(1.5, tags={"a": "2"})
        return [{**metric.info, "tag_keys": list(metric.info["tag_keys"])} for metric in (counter, histogram)]

    copy = pickle.loads(pickle.dumps(counter))
    return [copy.info["default_tags"], type(copy).__name__, ray.get(use.remote(counter, histogram))]
