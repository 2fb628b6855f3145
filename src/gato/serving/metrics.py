"""Counters and a histogram in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Metrics:
    """What happened since the server started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (route, status)
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        self._counts[route] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]
        for bound in BUCKETS:
            if seconds <= bound:
                self._buckets[route, bound] += 1

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """`gauges`: name → (help, value)."""
        lines = ["# HELP gato_requests_total Answers by route and status.", "# TYPE gato_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'gato_requests_total{{route="{route}",status="{status}"}} {count}')
        lines += ["# HELP gato_request_seconds Time to the answer.", "# TYPE gato_request_seconds histogram"]
        for route, count in sorted(self._counts.items()):
            for bound in BUCKETS:
                lines.append(
                    f'gato_request_seconds_bucket{{route="{route}",le="{bound}"}} {self._buckets[route, bound]}'
                )
            lines.append(f'gato_request_seconds_bucket{{route="{route}",le="+Inf"}} {count}')
            lines.append(f'gato_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
            lines.append(f'gato_request_seconds_count{{route="{route}"}} {count}')
        for name, (what, value) in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP gato_{name} {what}", f"# TYPE gato_{name} {kind}", f"gato_{name} {value:g}"]
        return "\n".join(lines) + "\n"
