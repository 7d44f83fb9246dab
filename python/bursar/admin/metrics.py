"""What the control plane counts, beside what the data plane does, for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics_core import Metric

# When each began: of no use to anyone, and in nobody's documentation.
disable_created_metrics()  # type: ignore[no-untyped-call]


class DrainMetrics:
    """How usage comes into the books."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Counts in `registry`."""
        self.sequence = Gauge(
            "bursar_books_sequence", "The last sequence of the ledger in the books.",
            registry=registry,
        )  # fmt: skip
        self.batches = Counter(
            "bursar_books_batches", "Batches of usage taken into the books.", registry=registry
        )
        self.failures = Counter(
            "bursar_books_failures", "Drains of usage that failed.", registry=registry
        )
        self.seconds = Histogram(
            "bursar_books_drain_seconds", "How long a drain of usage took.", registry=registry
        )


class PolicyFileMetrics:
    """What was made of the policy file."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Counts in `registry`; the file is in force until something else is found."""
        self.outcomes = Counter(
            "bursar_policy_reloads", "Changed policy files, by what became of them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        for outcome in ("activated", "refused"):
            self.outcomes.labels(outcome)
        self.ok = Gauge(
            "bursar_policy_file_ok", "1 if the policy file as last read is in force, 0 if not.",
            registry=registry,
        )  # fmt: skip
        self.ok.set(1)


def count_process(registry: CollectorRegistry) -> None:
    """Has `registry` say what program this is, and what its process takes of the machine."""
    build = Gauge(
        "bursar_build_info", "1, with the program's version.", ["version"], registry=registry
    )
    build.labels(version("bursar")).set(1)
    ProcessCollector(registry=registry)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric for people: its name, type, labels and meaning."""

    name: str
    kind: str
    labels: str
    meaning: str


def families() -> list[Family]:
    """Every metric of the control plane."""
    registry = CollectorRegistry()
    DrainMetrics(registry)
    PolicyFileMetrics(registry)
    count_process(registry)
    return [_family(each) for each in registry.collect()]


def _family(metric: Metric) -> Family:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    labels = {key for sample in metric.samples for key in sample.labels} - {"le", "quantile"}
    return Family(name, metric.type, ", ".join(sorted(labels)), metric.documentation)
