"""Faults on command: what can go wrong at the provider, switched on by name.

Told apart by what their value means:

- on connecting: how many of the next connections are hit; -1 is all of them until cleared
- actions on a connection that has subscribed: after how many seconds; 0 is now
- `stall`: for how many seconds no data is sent; -1 until cleared
- `pause`: true: the simulated market stands still until cleared, its time, too: there is nothing to miss
- in the data: the part of the events concerned that are hit, above 0 up to 1

Malformed and unknown events are added to the good ones and replace none, so that what a client
makes of the good data stays comparable.
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Mapping

import msgspec

ON_CONNECT = frozenset({"http_401", "http_403", "hang_auth", "auth_failed", "max_connections"})
ACTIONS = frozenset({"evict", "slow_consumer", "abrupt_close", "clean_close"})
STALL = "stall"
PAUSE = "pause"
IN_DATA = frozenset(
    {
        "late_bars",
        "repeat_bars",
        "corrected_bars",
        "duplicate_trades",
        "float_z",
        "unknown_events",
        "malformed_string",
        "malformed_nan",
        "malformed_no_symbol",
        "truncated_frames",
    }
)
FAULTS = ON_CONNECT | ACTIONS | IN_DATA | {STALL, PAUSE}

MALFORMED = "malformed"  # the name under which malformed events are counted as sent
TRUNCATED = "truncated"  # marks an event that goes out as a cut-off frame of its own
UNKNOWN_EV = "XT"

_DEFAULTS = dict.fromkeys(ON_CONNECT, 1.0) | dict.fromkeys(ACTIONS, 0.0) | dict.fromkeys(IN_DATA, 0.01)
_DEFAULTS[STALL] = -1.0
_DEFAULTS[PAUSE] = 1.0
LATE_STEPS = 100  # a late bar is held back for that many publications (5 s of the simulated market)
_MAX_HELD = 100_000

_SYMBOL = re.compile(r'"(?:sym|T)":"[^"]*",')
_NUMBER = re.compile(r'"(p|bp|v|h)":(-?[0-9.]+)')
_Z = re.compile(r'"z":(\d+)(?=[,}])')

Events = list[tuple[str, str, str]]


def parse_fault(text: str) -> tuple[str, float]:
    """`NAME` or `NAME=VALUE`, as a flag gives it.

    Raises:
        ValueError: Unknown name, or a value the fault cannot have.
    """
    name, equals, value = text.partition("=")
    if not equals:
        return name, check_fault(name, True)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"fault {name!r} needs a number, got {value!r}") from None
    return name, check_fault(name, number)


def check_fault(name: str, value: object) -> float:
    """The value as a number; True stands for the fault's default, False and None for off.

    Raises:
        ValueError: Unknown name, or a value the fault cannot have. Off is -2 for actions, 0 for others.
    """
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}, known are: {', '.join(sorted(FAULTS))}")
    if value is True:
        return _DEFAULTS[name]
    if value is False or value is None:
        return -2.0 if name in ACTIONS else 0.0
    if not isinstance(value, int | float) or not -2 <= value < 1e9:
        raise ValueError(f"fault {name!r} needs a number, got {value!r}")
    if name in IN_DATA and not 0 <= value <= 1:
        raise ValueError(f"fault {name!r} needs a part from 0 to 1, got {value!r}")
    return float(value)


class Faults:
    """The faults that are on, and how often each has struck."""

    def __init__(self, seed: int = 0, faults: Mapping[str, float] | None = None) -> None:
        self.injected: Counter[str] = Counter()
        self._rng = random.Random(f"faults/{seed}")
        self._counts: dict[str, float] = {}  # of ON_CONNECT: connections left to hit
        self._armed: dict[str, float] = {}  # of ACTIONS: delay in seconds, for the next subscriber
        self._rates: dict[str, float] = {}  # of IN_DATA
        self._held: deque[tuple[int, tuple[str, str, str]]] = deque()  # late bars: due publication, event
        self._publications = 0
        self.stall_seconds = 0.0  # 0: none, -1: until cleared; read and reset by the server
        self.paused = False  # read by the market's feed
        for name, value in (faults or {}).items():
            self.set(name, value)

    @property
    def on(self) -> dict[str, float]:
        """What is switched on, by name."""
        stall = {STALL: self.stall_seconds} if self.stall_seconds else {}
        pause = {PAUSE: 1.0} if self.paused else {}
        return {**self._counts, **self._armed, **self._rates, **stall, **pause}

    @property
    def in_data(self) -> bool:
        """Whether `corrupt` has anything to do."""
        return bool(self._rates or self._held)

    def set(self, name: str, value: object) -> float:
        """Switch a fault on, or off with False; its value as a number.

        Raises:
            ValueError: Unknown name, or a value the fault cannot have.
        """
        number = check_fault(name, value)
        if name == STALL:
            self.stall_seconds = number
            return number
        if name == PAUSE:
            self.injected[PAUSE] += bool(number) and not self.paused
            self.paused = bool(number)
            return number
        table = self._counts if name in ON_CONNECT else self._armed if name in ACTIONS else self._rates
        if number == -2 or (number == 0 and name not in ACTIONS):
            table.pop(name, None)
        else:
            table[name] = number
        return number

    def clear(self) -> None:
        """Switch everything off. Bars held back as late still come."""
        self._counts.clear()
        self._armed.clear()
        self._rates.clear()
        self.stall_seconds = 0.0
        self.paused = False

    def strikes(self, name: str) -> bool:
        """Whether a fault of connecting hits this connection; counts it down and as injected."""
        left = self._counts.get(name, 0)
        if not left:
            return False
        if left > 0:
            if left <= 1:
                del self._counts[name]
            else:
                self._counts[name] = left - 1
        self.injected[name] += 1
        return True

    def take_actions(self) -> dict[str, float]:
        """The armed actions, name to delay in seconds, handed out once."""
        armed, self._armed = self._armed, {}
        return armed

    def corrupt(self, events: Events) -> Events:
        """The events of one publication with the faults in the data applied."""
        self._publications += 1
        rates, rnd = self._rates, self._rng.random
        out: Events = []
        while self._held and self._held[0][0] <= self._publications:
            out.append(self._held.popleft()[1])
        for event in events:
            topic, symbol, text = event
            bar = topic in ("A", "AM")
            if bar and rnd() < rates.get("late_bars", 0) and len(self._held) < _MAX_HELD:
                self.injected["late_bars"] += 1
                self._held.append((self._publications + LATE_STEPS, event))
                continue
            if rnd() < rates.get("float_z", 0) and _Z.search(text):
                self.injected["float_z"] += 1
                event = (topic, symbol, _Z.sub(r'"z":\1.0', text))
            out.append(event)
            if bar:
                if rnd() < rates.get("repeat_bars", 0):
                    self.injected["repeat_bars"] += 1
                    out.append(event)
                if rnd() < rates.get("corrected_bars", 0):
                    self.injected["corrected_bars"] += 1
                    out.append((topic, symbol, corrected(text)))
            elif topic == "T" and rnd() < rates.get("duplicate_trades", 0):
                self.injected["duplicate_trades"] += 1
                out.append(event)
            if rnd() < rates.get("unknown_events", 0):
                self.injected["unknown_events"] += 1
                out.append((UNKNOWN_EV, symbol, f'{{"ev":"{UNKNOWN_EV}","sym":"{symbol}","value":1}}'))
            self._malform(text, out)
        return out

    def release(self) -> Events:
        """The bars still held back as late, now."""
        late = [event for _, event in self._held]
        self._held.clear()
        return late

    def _malform(self, text: str, out: Events) -> None:
        rates, rnd = self._rates, self._rng.random
        if rnd() < rates.get("malformed_string", 0):
            self.injected["malformed_string"] += 1
            out.append((MALFORMED, "", _NUMBER.sub(r'"\1":"\2"', text, count=1)))
        if rnd() < rates.get("malformed_nan", 0):
            self.injected["malformed_nan"] += 1
            out.append((MALFORMED, "", _NUMBER.sub(r'"\1":NaN', text, count=1)))
        if rnd() < rates.get("malformed_no_symbol", 0):
            self.injected["malformed_no_symbol"] += 1
            out.append((MALFORMED, "", _SYMBOL.sub("", text, count=1)))
        if rnd() < rates.get("truncated_frames", 0):
            self.injected["truncated_frames"] += 1
            out.append((TRUNCATED, "", text[: len(text) * 2 // 3]))


def corrected(text: str) -> str:
    """A bar sent again with other values for the same time: 100 shares more, its range at open and close."""
    bar = msgspec.json.decode(text)
    bar["v"] += 100
    bar["av"] = bar.get("av", bar["v"]) + 100
    bar["h"], bar["l"] = max(bar["o"], bar["c"]), min(bar["o"], bar["c"])
    return msgspec.json.encode(bar).decode()
