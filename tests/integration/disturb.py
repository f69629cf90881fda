"""Recordings made worse, the way a feed is worse than a recording; the same seed, the same damage.

Providers send trades again, within a frame or after a while; bars of late prints come up to 15 minutes
late or revised; frames of one moment overtake each other. Here 1 % of a recording's frames are sent twice,
1 % come up to 10 minutes late, 1 % change places with the next one, and 1 % of its bars are revised.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHARE = 0.01  # of the frames, for each kind of damage
MOST_LATE_SECONDS = 600.0
_BEAT_SECONDS = 20

# Weights of conditions that nothing but the tape's rules tells apart: most prints are regular (none, or 0).
_CONDITIONS: tuple[tuple[list[int] | None, int], ...] = (
    (None, 30), ([0], 10), ([], 5), ([14], 10), ([37], 25), ([14, 37], 5), ([14, 41], 3), ([12], 3),
    ([12, 37], 2), ([13], 1), ([10], 1), ([2], 1), ([5], 1), ([22], 1), ([32], 1), ([52], 1), ([7], 1),
    ([15], 1), ([16], 1), ([38], 1), ([53, 41], 1), ([997], 1), ([17, 41], 1),
)  # fmt: skip


class Frame(NamedTuple):
    """One line of a recording."""

    arrival_ns: int  # since the epoch
    text: str  # as on the wire


def read(path: Path) -> list[Frame]:
    """The frames of a recording in order of arrival."""
    found = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            arrival, text = line.rstrip("\n").split("\t", 1)
            found.append(Frame(int(arrival), text))
    return found


def write(path: Path, frames: list[Frame], reference: Path | None = None) -> Path:
    """Write a recording, with the reference values of another one beside it.

    Args:
        path: Ends in `.frames.gz`.
        frames: In order of arrival.
        reference: A `NAME.reference.json.gz`; None where the recording has none.
    """
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(f"{frame.arrival_ns}\t{frame.text}\n" for frame in frames)
    if reference is not None:
        name = path.name.removesuffix(".frames.gz") + ".reference.json.gz"
        path.with_name(name).write_bytes(reference.read_bytes())
    return path


def disturb(frames: list[Frame], seed: int) -> tuple[list[Frame], Counter[str]]:
    """The frames in a worse order of arrival, and how many were damaged in which way."""
    rng = random.Random(f"disturb/{seed}")
    done: Counter[str] = Counter()
    order = list(frames)
    for at in range(len(order) - 1):
        if rng.random() < SHARE:
            first, second = order[at], order[at + 1]
            order[at] = Frame(first.arrival_ns, second.text)
            order[at + 1] = Frame(second.arrival_ns, first.text)
            done["reordered"] += 1
    arrivals: list[Frame] = []
    for frame in order:
        fate = rng.random()
        if fate < SHARE:
            arrivals.append(_late(frame, rng))
            done["delayed"] += 1
            continue
        if fate < 2 * SHARE:
            arrivals.extend(_twice(frame, rng))
            done["duplicated"] += 1
            continue
        arrivals.append(frame)
    arrivals.sort(key=lambda frame: frame.arrival_ns)  # stable: what arrives together keeps its order
    return arrivals, done


def with_corrections(frames: list[Frame], seed: int) -> list[Frame]:
    """1 % of the frames with bars are sent again up to a minute and a half later, their bars revised.

    So a bar is revised while it is the newest of its symbol or when it is not any more; its high and low may
    shrink or grow, its open, close and volume change.
    """
    rng = random.Random(f"corrections/{seed}")
    found = list(frames)
    for frame in frames:
        if '"A' not in frame.text or rng.random() >= SHARE:
            continue
        events = [event for event in json.loads(frame.text) if event["ev"] in ("A", "AM")]
        for event in events:
            _revise(event, rng)
        wait_seconds = rng.choice((0.5, 20.0, 90.0)) * rng.random()
        text = json.dumps(events, separators=(",", ":"))
        found.append(Frame(frame.arrival_ns + int(wait_seconds * 1e9), text))
    return sorted(found, key=lambda frame: frame.arrival_ns)


def _revise(bar: dict[str, Any], rng: random.Random) -> None:
    low = bar["l"] + round(rng.uniform(-0.05, 0.05), 2)
    high = max(low, bar["h"] + round(rng.uniform(-0.05, 0.05), 2))
    bar.update(
        o=min(max(bar["o"], low), high), c=min(max(bar["c"], low), high), h=round(high, 4), l=round(low, 4)
    )
    more = rng.randrange(-50, 200)
    bar.update(v=max(1, bar["v"] + more), av=bar["av"] + more)


def with_minutes(frames: list[Frame]) -> list[Frame]:
    """Minute bars beside the second bars that they are made of, arriving 2 s after their end."""
    bars: dict[tuple[int, str], dict[str, Any]] = {}
    for frame in frames:
        if '"A"' not in frame.text:
            continue
        for event in json.loads(frame.text):
            if event["ev"] != "A":
                continue
            start = event["s"] // 60_000 * 60_000
            had = bars.get((start, event["sym"]))
            if had is None:
                bars[start, event["sym"]] = {**event, "ev": "AM", "s": start, "e": start + 60_000}
                continue
            had.update(c=event["c"], h=max(had["h"], event["h"]), l=min(had["l"], event["l"]))
            had.update(v=had["v"] + event["v"], av=event["av"], a=event["a"])
    found = [
        Frame((start + 62_000) * 1_000_000, json.dumps([bar], separators=(",", ":")))
        for (start, _), bar in bars.items()
    ]
    return sorted(frames + found, key=lambda frame: frame.arrival_ns)


def with_market(frames: list[Frame]) -> list[Frame]:
    """A recording of few symbols among three more, each with a second bar every 20 s.

    Before the open a minute may pass without three of four symbols. Then the market clock, which wants
    three that agree, stands still, and how late a bar is has no answer.
    """
    begin_s, end_s = frames[0].arrival_ns // 10**9, frames[-1].arrival_ns // 10**9
    others = []
    for beat, start_s in enumerate(range(begin_s, end_s - 3, _BEAT_SECONDS)):
        price = round(20 + beat % 37 / 100, 2)
        events = [
            {
                "ev": "A", "sym": symbol, "v": 10, "av": 10 * (beat + 1), "vw": price, "o": price, "c": price,
                "h": price, "l": price, "a": 20.18, "z": 10, "s": start_s * 1000, "e": (start_s + 1) * 1000,
            }
            for symbol in ("ZZA", "ZZB", "ZZC")
        ]  # fmt: skip
        others.append(Frame((start_s + 3) * 10**9, json.dumps(events, separators=(",", ":"))))
    return sorted(frames + others, key=lambda frame: frame.arrival_ns)


def _late(frame: Frame, rng: random.Random) -> Frame:
    return frame._replace(arrival_ns=frame.arrival_ns + int(rng.uniform(0.1, MOST_LATE_SECONDS) * 1e9))


def _twice(frame: Frame, rng: random.Random) -> Iterator[Frame]:
    """Each event repeated within the frame, the frame at once again, or once more after a while."""
    how = rng.randrange(3)
    if how == 0:
        events = json.loads(frame.text)
        repeated = [event for event in events for _ in range(2)]
        yield frame._replace(text=json.dumps(repeated, separators=(",", ":")))
        return
    yield frame
    yield frame if how == 1 else _late(frame, rng)


def with_conditions(frames: list[Frame], seed: int) -> list[Frame]:
    """The trades with sale conditions, reporting facilities and corrections, of which recordings have none.

    Some trades get an id that another one had, of the same facility or of another: the first are the same
    trade to whoever follows the rules, the second are not.
    """
    rng = random.Random(f"conditions/{seed}")
    lists, weights = zip(*_CONDITIONS, strict=True)
    changed = []
    reported = 0
    for frame in frames:
        if '"T"' not in frame.text:
            changed.append(frame)
            continue
        events: list[dict[str, Any]] = json.loads(frame.text)
        for event in events:
            if event["ev"] != "T":
                continue
            conditions = rng.choices(lists, weights)[0]
            if conditions is not None:
                event["c"] = conditions
            chance = rng.random()
            if chance < 0.05:
                reported += 1
                event.update(x=4, trfi=rng.choice((201, 202)), i=f"r{reported // 2}")
            elif chance < 0.052:
                event["correction"] = rng.choice((0, 1, 7, 8, 10, 11, 12))
            elif chance < 0.06:
                del event["i"]  # without one nobody can tell a repeat
        changed.append(frame._replace(text=json.dumps(events, separators=(",", ":"))))
    return changed
