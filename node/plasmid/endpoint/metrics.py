"""What ``/metrics`` shows, in Prometheus' text format (version 0.0.4).

Rules
-----
1. Counts and times alone: no input, no name of a caller or of an adapter.
2. One event loop writes; there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Histogram:
    """Counts of values up to each of *bounds*, their number and their sum."""

    bounds: tuple[float, ...]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterable[str]:
        """Yield the sample lines."""
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.total}"
        yield f"{name}_count {below}"


@dataclass
class Measured:
    """The figures of one process."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    passes: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    rows: Histogram = field(default_factory=lambda: Histogram(_ROWS))
    mixed: Histogram = field(default_factory=lambda: Histogram(_ROWS))
    tokens: int = 0
    first: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    written: int = 0

    def on_pass(self, rows: int, adapters: int, seconds: float) -> None:
        """Count one forward pass."""
        self.passes.add(seconds)
        self.rows.add(rows)
        self.mixed.add(adapters)

    def text(self, *, waiting: int, held: int, held_bytes: int, loads: int, evictions: int) -> str:
        """Return the whole page."""
        lines: list[str] = []

        def family(name: str, kind: str, what: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP {name} {what}", f"# TYPE {name} {kind}", *samples))

        family(
            "plasmid_requests_total",
            "counter",
            "Requests by route and status.",
            [
                f'plasmid_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self.requests.items())
            ],
        )
        for name, what, histogram in (
            ("plasmid_row_seconds", "From a row's coming to its result.", self.latency),
            ("plasmid_pass_seconds", "One forward pass.", self.passes),
            ("plasmid_pass_rows", "Rows of one forward pass.", self.rows),
            ("plasmid_pass_adapters", "Adapters of one forward pass, the base counted.", self.mixed),
            ("plasmid_first_token_seconds", "From a prompt's coming to the first text.", self.first),
        ):
            family(name, "histogram", what, histogram.lines(name))
        for name, kind, what, value in (
            ("plasmid_tokens_total", "counter", "Tokens of inputs.", self.tokens),
            ("plasmid_written_tokens_total", "counter", "Tokens of answers.", self.written),
            ("plasmid_rows_waiting", "gauge", "Rows, or prompts, that wait.", waiting),
            ("plasmid_adapters", "gauge", "Adapters in memory.", held),
            ("plasmid_adapter_bytes", "gauge", "What they take.", held_bytes),
            ("plasmid_adapter_loads_total", "counter", "Adapters loaded.", loads),
            ("plasmid_adapter_evictions_total", "counter", "Adapters dropped for others.", evictions),
        ):
            family(name, kind, what, [f"{name} {value}"])
        return "\n".join(lines) + "\n"
