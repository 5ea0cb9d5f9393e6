"""Result of a soak test: its table for docs/reliability.md, and what failed."""

import os
import platform
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.soak.load import Answer

P99_BOUND = 30.0  # seconds; the predictor's own deadline
GROWTH_MIB, GROWTH_SHARE = 48, 0.15  # allowed per program
BEGIN, END = "<!-- soak: written by make soak -->", "<!-- end of soak -->"


@dataclass(frozen=True)
class Verdict:
    """memory : program → MiB early and late. experiments : final states."""

    machine: str
    seconds: float
    capacity: float
    rate: float
    shares: str
    answers: list[Answer]
    memory: dict[str, tuple[int, int]]
    experiments: list[str]
    restarted: list[str]

    @property
    def p99(self) -> float:
        return self._percentile(99)

    @property
    def refused(self) -> int:
        return sum(answer.refused for answer in self.answers)

    @property
    def faults(self) -> list[str]:
        """Return what failed."""
        wrong = Counter(
            f"{answer.kind}: {answer.status} {answer.problem}"
            for answer in self.answers
            if not answer.expected and not answer.refused
        )
        found = [f"{count} × {what}" for what, count in wrong.most_common(10)]
        if self.p99 > P99_BOUND:
            found.append(f"p99 is {self.p99:.1f} s")
        for name, (early, late) in self.memory.items():
            if late - early > max(GROWTH_MIB, GROWTH_SHARE * early):
                found.append(f"{name} grew from {early} to {late} MiB")
        found += [f"{name} was restarted" for name in self.restarted]
        found += [f"an experiment ended as {state}" for state in self.experiments if state != "finished"]
        return found

    def markdown(self) -> str:
        answered = [answer for answer in self.answers if answer.expected]
        memory = ", ".join(f"{name} {early} → {late}" for name, (early, late) in sorted(self.memory.items()))
        rows = {
            "machine": self.machine,
            "traffic": self.shares,
            "capacity, measured before": f"{self.capacity:.1f} requests per second, while a fold trains",
            "sent": f"{len(self.answers):,} requests in {self.seconds:.0f} s, {self.rate:.1f} per second",
            "answered": f"{len(answered):,} ({len(answered) / self.seconds:.1f} per second)",
            "refused with 429 and `Retry-After`": f"{self.refused:,}",
            "other errors": "; ".join(self.faults) or "none",
            "seconds to a response": " · ".join(
                f"{name} {self._percentile(share):.2f}"
                for name, share in (("p50", 50), ("p90", 90), ("p99", 99), ("slowest", 100))
            ),
            "experiments trained during it": str(len(self.experiments)),
            "memory early → late, MiB": memory,
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| quantity | value |", "| --- | --- |", *lines])

    def _percentile(self, share: float) -> float:
        """Return a percentile over the responses other than refusals, in seconds."""
        seconds = [answer.seconds for answer in self.answers if not answer.refused]
        return float(np.percentile(seconds, share)) if seconds else 0.0


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB, Python {platform.python_version()}, "
        f"load average before {os.getloadavg()[0]:.1f}; {date.today().isoformat()}"
    )


def write_into(document: Path, table: str) -> None:
    """Write the table between the page's markers."""
    before, rest = document.read_text().split(BEGIN, 1)
    _, after = rest.split(END, 1)
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
