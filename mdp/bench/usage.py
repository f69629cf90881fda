"""What a process of the bench used, by its number: processor time and memory, out of /proc."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Usage(msgspec.Struct, frozen=True):
    """Of one process; all 0 where the system does not say."""

    cpu_seconds: float = 0.0  # of all its threads since it began, user and system
    waited_seconds: float = 0.0  # its first thread was ready, and others had the cores
    rss_mb: float = 0.0  # now, in 10**6 bytes
    peak_mb: float = 0.0


def usage(pid: int) -> Usage:
    """Of a process that runs, now."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()  # a name may hold blanks
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        memory = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    except (OSError, IndexError, ValueError):
        return Usage()
    try:
        waited = int((folder / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return Usage(cpu, waited, _mb(memory.get("VmRSS", "")), _mb(memory.get("VmHWM", "")))


def _mb(text: str) -> float:
    return int(text.split()[0]) * 1_024 / 1e6 if text.strip() else 0.0


def cores(most: int) -> set[int]:
    """Cores for all that the bench starts: `most` of those of this process; empty: not known."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    return set(sorted(os.sched_getaffinity(0))[:most])
