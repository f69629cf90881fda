"""What makes a simulated day worth watching: gappers, runners, halts and the news about them."""

from __future__ import annotations

import math
import random

import msgspec

from .shape import DayShape
from .universe import Listing

HALT_MS = 5 * 60_000  # a volatility pause
MAX_NEWS = 2_000
_FAMILIAR = 68  # the first symbols of the universe are those that everybody knows

_GOOD = (
    "{name} announces positive results of its phase 2 study",
    "{name} wins contract with major customer",
    "{name} raises full-year outlook",
    "{name} to be acquired at a premium, report says",
    "{name} receives patent for core technology",
)
_BAD = (
    "{name} prices public offering of common stock",
    "{name} cuts full-year outlook",
    "{name} receives letter from regulator",
)


class Runner(msgspec.Struct):
    """A low-float name that climbs over some minutes and gives part of it back."""

    index: int  # of the symbol in the universe
    start_ms: int
    climb_ms: int
    gain: float  # 0.8: it climbs 80 %
    giveback: float  # part of the gain lost afterwards
    arrivals: float  # further events a second at the height, for an average rate of 1

    def log_move(self, ms: int) -> float:
        """Natural log of price over price at the start, at an epoch time in ms."""
        top = math.log1p(self.gain)
        part = (ms - self.start_ms) / self.climb_ms
        if part <= 0:
            return 0.0
        if part <= 1:
            return top * math.pow(part, 1.4)
        return top * (1 - self.giveback * min(1.0, (part - 1) / 2))

    def heat(self, ms: int) -> float:
        """How much of `arrivals` comes at an epoch time in ms, from 0 to 1."""
        part = (ms - self.start_ms) / self.climb_ms
        if not 0 <= part <= 3:
            return 0.0
        return 0.3 + 0.7 * part if part <= 1 else max(0.05, 1 - (part - 1) / 2)

    @property
    def end_ms(self) -> int:
        """When it is an ordinary symbol again."""
        return self.start_ms + 3 * self.climb_ms


class Halt(msgspec.Struct, frozen=True):
    """A trading pause of one symbol."""

    index: int
    start_ms: int
    end_ms: int


class News(msgspec.Struct, frozen=True):
    """One headline."""

    published_ms: int
    index: int  # of its symbol
    title: str


class Story:
    """The plan of one trading day, made when the day (or the simulator) begins.

    All of it is fixed then from the seed: nothing depends on what subscribers do.
    """

    def __init__(self, seed: int, shape: DayShape, universe: list[Listing], from_ms: int) -> None:
        rng = random.Random(f"story/{seed}/{shape.day}/{from_ms}")
        begin = max(from_ms, shape.start_ms)
        self.gaps: dict[int, float] = {}  # symbol index to overnight move, 0.2 is +20 %
        self.runners: list[Runner] = []  # by start
        self.halts: list[Halt] = []  # by start
        self.news: list[News] = []  # by time
        if len(universe) >= 20:
            self._plan_gaps(rng, shape, universe)
            self._plan_runners(rng, shape, universe, begin)
            self._plan_halts(rng, shape, universe, begin)
        self.news.sort(key=lambda item: item.published_ms)
        del self.news[:-MAX_NEWS]

    def _plan_gaps(self, rng: random.Random, shape: DayShape, universe: list[Listing]) -> None:
        count = min(60, len(universe) // 10)
        for index in rng.sample(range(min(len(universe), 6_000)), count):
            big = 0.06 if index < 500 else 0.35  # large companies do not jump as far
            move = max(0.03, rng.expovariate(1 / big))
            self.gaps[index] = min(move, 1.2) if rng.random() < 0.65 else -min(move, 0.55)
            if index < _FAMILIAR:  # among them index funds, which would look wrong with more
                self.gaps[index] = max(-0.04, min(self.gaps[index], 0.04))
            title = rng.choice(_GOOD if self.gaps[index] > 0 else _BAD)
            at = rng.randrange(shape.start_ms - 3_600_000, shape.open_ms - 1_800_000)
            self.news.append(News(at, index, title.format(name=universe[index].name)))

    def _plan_runners(self, rng: random.Random, shape: DayShape, universe: list[Listing], begin: int) -> None:
        pool = [i for i, one in enumerate(universe) if one.free_float < 2e7 and 0.5 < one.prev_close < 20]
        pool = [i for i in pool if i not in self.gaps] or list(range(len(universe) // 2, len(universe)))
        rng.shuffle(pool)
        at = begin - 90_000  # the first ones are on their way when the simulator starts
        for index in pool:
            if at >= shape.end_ms:
                break
            climb_ms = rng.randrange(180_000, 720_000)
            gain = min(2.0, 0.2 + rng.expovariate(1 / 0.35))
            self.runners.append(
                Runner(index, at, climb_ms, gain, rng.uniform(0.2, 0.6), rng.uniform(0.002, 0.008))
            )
            self.news.append(News(at - 20_000, index, rng.choice(_GOOD).format(name=universe[index].name)))
            at += int(30_000 if at < begin + 15_000 else rng.uniform(40_000, 160_000))

    def _plan_halts(self, rng: random.Random, shape: DayShape, universe: list[Listing], begin: int) -> None:
        """LULD pauses of steep runners and of others in regular hours; before, one on news.

        The provider's LULD topic carries halts of Nasdaq listings only, so only those are halted.
        """
        nasdaq = [i for i, one in enumerate(universe) if one.tape == 3 and i > len(universe) // 5]
        free_at: dict[int, int] = {}
        planned: list[tuple[int, int]] = [(begin + 15_000, rng.choice(nasdaq))] if nasdaq else []
        for runner in self.runners:
            at = runner.start_ms + int(runner.climb_ms * 0.6)
            if runner.gain > 0.4 and universe[runner.index].tape == 3:
                planned.append((at, runner.index))
        at = shape.open_ms + 20_000
        while at < shape.close_ms and nasdaq:
            planned.append((at, rng.choice(nasdaq)))
            at += int(rng.expovariate(1 / 150_000)) + 1_000
        first = begin + 15_000
        for at, index in sorted(planned):
            in_hours = shape.open_ms + 15_000 <= at < shape.close_ms - HALT_MS
            if at < begin or (at != first and not in_hours) or at < free_at.get(index, 0):
                continue
            self.halts.append(Halt(index, at, at + HALT_MS))
            free_at[index] = at + 2 * HALT_MS
