"""What an analyzer is.

An analyzer takes batches of events and changes its state per symbol. It is synchronous and pure: no
I/O, no waiting, no wall clock (time comes from the events), so it is fast, replayable and easy to
test. It knows events, feeds and sessions, and hands results to an `Output`, which the application
plugs in. It runs in the event loop, so one step (a batch, one `next` of a flush) should take
milliseconds at most.

To add one: subclass `Analyzer`, name it in `[processor] analyzers` as `package.module:Class`, or
publish it under the entry point group `mdp.analyzers` and use its short name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from typing import Any, ClassVar, Protocol

from mdp.analyzers.state import Market
from mdp.feeds import Family
from mdp.sessions import TradingDay


class EventBatch(Protocol):
    """What an analyzer gets: events in order of arrival, never none, and the symbols they touch."""

    events: list[Any]
    #: (arrival ns, frame) of each frame, oldest first. A frame is text of the provider, or something with a
    #: length (bytes) and `events_of(symbol)`: its events, none where the symbol is in none of them.
    sources: Sequence[tuple[int, Any]]

    @property
    def symbols(self) -> set[str]: ...


class Wanted(Protocol):
    """Which symbols of a family somebody subscribes to."""

    all: bool
    symbols: set[str]

    def __bool__(self) -> bool: ...

    def wanted(self, symbols: Set[str]) -> Set[str]: ...


class Output(Protocol):
    """Where results go. Nothing leaves before the batch is through: the journal is written first."""

    def interest(self, family: Family) -> Wanted:
        """Who wants what of a family, now and later: ask once, look often."""

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        """A new value of a feed for those who subscribe; kept nowhere (see `provide`).

        Call it only for what is wanted. `symbol` fills the feed's hole; empty where it has none.
        """

    def emit(self, family: Family, symbol: str, value: Any, *, journal: bool = False) -> None:
        """An event: kept in its feed's list, or as last value, and published.

        With `journal` it survives a kill.
        """

    def journal(self, analyzer: str, record: Any) -> None:
        """Write a record (msgpack-able) before this batch's results leave; `Analyzer.replay` gets it back."""

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Answer `get` for a family: `provider(symbol)` gives the value, None where there is none.

        A provider may be a generator, which works in steps as `flush` does and returns the value. `symbols`
        names those that have one now, for whoever subscribes to all of them.
        """


class Analyzer:
    """Base of all analyzers. Every hook does nothing by default.

    Attributes:
        name: Short name, unique in a process; key of its part of the snapshot.
        queues: Names of the queues (`mdp.events`) whose batches it takes.
        flush_seconds: How often `flush` is called (monotonic clock); 0: never.
        flush_turns: How many calls of `flush` in a row publish all there is.
        flush_on_tick: `flush` is called whenever the fan-out is about to send, so that what leaves is the
            newest and nothing is published that the next value would replace unsent.
    """

    name: ClassVar[str] = ""
    queues: ClassVar[tuple[str, ...]] = ()
    flush_seconds: ClassVar[float] = 0.0
    flush_turns: ClassVar[int] = 1
    flush_on_tick: ClassVar[bool] = False

    def __init__(self, market: Market, out: Output) -> None:
        self.market = market
        self.out = out

    def process(self, batch: EventBatch) -> None:
        """Take a batch of one of `queues`. What it raises costs this analyzer the batch, and is counted.

        Times are in ms; only of quotes, some of a batch may still be in ns (`mdp.events.milliseconds`).
        """

    def on_refill(self) -> None:
        """Bars that were missed in an outage were fetched: `market.notable` holds them, of place `REFILL`.

        What follows from them is true, and no news.
        """

    def on_repaired(self, symbols: Collection[str]) -> None:
        """What `market.trust` says of these symbols changed, or their day's volume: after an outage."""

    def flush(self) -> Iterator[None] | None:
        """Publish what is due. A generator does it in steps and gives the loop back at each `yield`."""

    def on_day(self, day: TradingDay) -> None:
        """A new trading day began (04:00 New York time): forget the old one's values."""

    def on_session(self, session: str) -> None:
        """The market clock entered a session (`mdp.sessions`); `regular` is the reset of 09:30."""

    def dump(self) -> Iterator[Any]:
        """The state as msgpack-able records, in steps of at most a few milliseconds."""
        yield from ()

    def hydrate(self, records: Iterable[Any]) -> None:
        """Take back what `dump` gave, before any batch. Records of another trading day never come here."""

    def replay(self, record: Any) -> None:
        """Take back a journal record written after the snapshot; the same record may come twice."""
