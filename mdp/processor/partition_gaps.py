"""A partition's gap ledger: what the listener missed, and what was lost behind it, as in one process.

What the active listener says of its connection (`mdp:listener`) opens and closes outages here, so that
`Losses` marks the market and asks for a repair as it does in one process. The ledger is kept in the
partition's checkpoint, with the market's trust: whoever takes the partition over goes on with both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, Output
from mdp.analyzers.state import Market
from mdp.events import AGGREGATES
from mdp.listener.announcement import Announcement
from mdp.listener.gaps import Gap, GapLedger
from mdp.processor.engine import Engine
from mdp.processor.losses import RING, Losses, Repairer

MAX_ENTRIES = 50  # of a partition's ledger
TAKEOVER = "takeover"  # as the listener names it
SILENT = "silent"  # why, where no listener says anything
#: Reasons of losses while the listener was connected (`mdp.listener.losses`); all others are outages.
SHED, _OTHER = "shed", "dropped"
LOSSES = frozenset({_OTHER, "expired", SHED})
_RECENT_MS = 30_000  # by the listener's clock; what ended so long before we came is in the state we have

#: What tells entries of the listener's ledger apart: number, start (wall clock, ms) and reason.
Key = tuple[int, int, str]


class _Source(msgspec.Struct):
    """What we know of an entry of the listener's ledger."""

    number: int  # of our entry; 0: nothing of ours
    events: int = 0
    symbols: int | None = None


class PartitionGaps(Analyzer):
    """See the module. An analyzer of no events, for the checkpoint's sake.

    Attributes:
        ledger: The partition's.
        losses: Marks the market and enters losses; `note` what was lost, `look` once a second.
        owns: Whether a symbol is one of the partition's.
        server_ms: The provider's time; None while unknown.
    """

    name: ClassVar[str] = "gaps"

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self.owns: Callable[[str], bool] = lambda _symbol: True
        self.server_ms: Callable[[], int | None] = lambda: None
        self.ledger = GapLedger(max_entries=MAX_ENTRIES)
        self.losses = Losses(market, None, self.ledger, self, server_ms=lambda: self.server_ms())
        self._repairer: Repairer | None = None
        self._sources: dict[Key, _Source] | None = None  # None: nothing has been heard yet

    # -- repairs ------------------------------------------------------------------------------------

    def repair_by(self, repairer: Repairer) -> None:
        """The partition is live: whatever is not repaired yet is, from now on."""
        self._repairer = repairer
        self.losses.resume()

    def want(self, gap: Gap, number: int, until_ms: float) -> None:
        """As `Repairer.want`. What is wanted before `repair_by` waits in the ledger."""
        if self._repairer is not None:
            self._repairer.want(gap, number, until_ms)

    # -- the listener -------------------------------------------------------------------------------

    def hear(self, said: Announcement, *, silent: bool) -> None:
        """Take the newest word of the listener. Call `losses.look` afterwards.

        Args:
            said: What it said.
            silent: It has not said anything new for some time.
        """
        entries = {key: gap for gap in said.ledger if (key := key_of(gap)) is not None}
        clock = self.market.clock
        if not clock.now_ms:  # nothing of ours can be incomplete
            self._sources = {key: _Source(0) for key in entries}
            return
        if self._sources is None:
            recent = said.ts - _RECENT_MS
            self._sources = {
                key: _Source(0) for key, gap in entries.items() if (gap.get("end_ms") or said.ts) < recent
            }
        lasting = False
        for key, gap in entries.items():
            if gap["reason"] in LOSSES:
                self._hear_loss(key, gap)
            else:
                lasting |= self._hear_outage(key, gap)
        if silent:
            self.ledger.open(SILENT, detail="no listener says anything")
        elif not lasting and self.ledger.current is not None:
            self.ledger.close()
        self._sources = {key: source for key, source in self._sources.items() if key in entries}

    def another_writes(self) -> None:
        """Entries come of another listener, or of one that had lost its lease: what was between is missing.

        It says so itself within some seconds (`hear`), and ends this; but its first prices come before that.
        """
        if self.market.clock.now_ms:
            self.ledger.open(TAKEOVER, detail="another listener writes, or the same one after an outage")

    def bars_lost(self, lost: Mapping[str, Collection[str] | None]) -> None:
        """An entry says what the listener lost of our bars before it (`Header.lost`).

        The listener announces the same a moment later (`hear`); bars behind the loss come before that.
        """
        for reason, names in lost.items():
            known = reason if reason in LOSSES else _OTHER
            self.losses.note(RING if known == SHED else AGGREGATES, known, 0, names)

    def _hear_outage(self, key: Key, gap: dict[str, Any]) -> bool:
        """Returns whether it lasts."""
        assert self._sources is not None
        lasting = gap.get("end_ms") is None
        if key not in self._sources:
            mine = self.ledger.open(gap["reason"], detail=str(gap.get("detail", "")))
            self._sources[key] = _Source(mine.number)
            self.losses.reach_back(mine, self._since(gap))
        return lasting and self._sources[key].number != 0

    def _hear_loss(self, key: Key, gap: dict[str, Any]) -> None:
        assert self._sources is not None
        names: list[str] | None = gap.get("symbols")
        count = gap.get("symbols_count")
        source = self._sources.get(key)
        known = _Source(0) if source is None else source
        events = int(gap.get("events") or 0)
        if source is not None and (events, count) == (known.events, known.symbols):
            return
        self._sources[key] = _Source(known.number, events, count)
        if count == 0:  # no bars
            return
        mine = [name for name in names if self.owns(name)] if names is not None else None
        if names is None or count != len(names):
            mine = None  # not all are named
        elif not mine:
            return
        # No events: the listener has counted them; what concerns us is whose they may have been.
        self.losses.note(_queue_of(gap), gap["reason"], 0, mine, self._since(gap))
        self.losses.look()
        entered = self.losses.stretch_of(_queue_of(gap), gap["reason"])
        if entered is not None:
            self._sources[key].number = entered.number

    def _since(self, gap: dict[str, Any]) -> float:
        """Market time from which on data is missing; not before today's beginning, nor in the future."""
        clock = self.market.clock
        since = float(gap.get("market_start_ms") or clock.now_ms)
        if clock.day is not None:
            since = max(since, clock.day.start_ms)
        return min(since, clock.now_ms)

    # -- for people ---------------------------------------------------------------------------------

    def entries(self) -> list[dict[str, Any]]:
        """The ledger, oldest first. `of` names the listener's entries that one of ours came of."""
        sources: dict[int, list[Key]] = {}
        for key, source in (self._sources or {}).items():
            sources.setdefault(source.number, []).append(key)
        return [{**gap, "of": sources.get(gap["number"], [])} for gap in self.ledger.entries()]

    # -- over a hand-over ---------------------------------------------------------------------------

    def dump(self) -> Iterator[Any]:
        # What was lost since the last look is behind the cursors that are written with this. The market's
        # trust is dumped after us.
        self.losses.look()
        yield ["ledger", self.ledger.dump()]
        if self._sources is not None:
            rows = [
                [key, source.number, source.events, source.symbols] for key, source in self._sources.items()
            ]
            yield ["sources", rows]

    def hydrate(self, records: Iterable[Any]) -> None:
        for name, record in records:
            if name == "ledger":
                self.ledger.restore(record)
            elif name == "sources":
                self._sources = {
                    (key[0], key[1], key[2]): _Source(number, events, symbols)
                    for key, number, events, symbols in record
                }


def gaps_of(engine: Engine) -> PartitionGaps:
    """The ledger of a partition's engine."""
    return next(guard.analyzer for guard in engine.guards if isinstance(guard.analyzer, PartitionGaps))


def key_of(gap: dict[str, Any]) -> Key | None:
    """What identifies an entry of a listener's ledger; None where it is none."""
    number, start, reason = gap.get("number"), gap.get("start_ms"), gap.get("reason")
    if type(number) is int and type(start) is int and type(reason) is str:
        return number, start, reason
    return None


def _queue_of(gap: dict[str, Any]) -> str:
    return RING if gap["reason"] == SHED else AGGREGATES
