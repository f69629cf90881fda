"""What subscribers of version 2 see of a feed: all of it, some rows and fields, or only what changed.

All clients who asked for the same share one `View`: each message is worked out and encoded once for all of
them. A view knows what it showed last, so that it can say what changed since, and what a newcomer, or
somebody who was too slow, must be told to catch up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from mdp.cache.base import Entry, Message, encode_json
from mdp.feeds import STATE, Family, Target
from mdp.wds.client import Due

if TYPE_CHECKING:
    from mdp.wds.groups import Group

log = structlog.get_logger(__name__)

_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RELATIONS = tuple(_RELATIONS)

_KEY = "symbol"  # what names a row of a board
_ABSENT = object()

Row = dict[str, Any]


class Options(msgspec.Struct, frozen=True):
    """How a subscriber wants a feed. Two subscriptions with equal options share a view.

    Attributes:
        full: Whole values, not what changed.
        limit: Rows of a board at most, the first ones; 0: all.
        fields: Of a row or value, those named; empty: all. A row always keeps `symbol` and `rank`.
        where: `(field, relation, value)`, all of which a row (or a value) must fulfil.
    """

    full: bool = False
    limit: int = 0
    fields: tuple[str, ...] = ()
    where: tuple[tuple[str, str, str | float | bool], ...] = ()


class Shown:
    """What a view showed last of one feed.

    Attributes:
        epoch, seq: Place of the message that showed it.
        latest: Place of the last one that was looked at; what was shown did not change by it.
        ts: Of its publication, ms since the Unix epoch.
        value: What was shown of it: rows by symbol in order (a board), fields, or anything else as it came.
        board: Whether `value` is rows.
    """

    __slots__ = ("_full", "board", "epoch", "family", "feed", "latest", "seq", "ts", "value")

    def __init__(
        self, feed: str, family: Family, epoch: int, seq: int, ts: int, value: Any, *, board: bool
    ) -> None:
        self.feed = feed
        self.family = family
        self.epoch = epoch
        self.seq = self.latest = seq
        self.ts = ts
        self.value = value
        self.board = board
        self._full: bytes | None = None

    def full(self, kind: str = "snapshot") -> bytes:
        """All of it, encoded once."""
        if self._full is None:
            value = list(self.value.values()) if self.board else self.value
            try:
                self._full = encode_json(value)
            except Exception as error:  # a payload of whatever analyzer must not end the service
                log.warning("wds_encode_failed", feed=self.feed, error=str(error))
                self._full = b"null"
        return envelope(self.feed, self.epoch, self.seq, self.ts, kind, self._full)


def envelope(
    feed: str,
    epoch: int,
    seq: int,
    ts: int,
    kind: str,
    data: bytes,
    *,
    base: int | None = None,
    number: Any = None,
) -> bytes:
    """A message of version 2.

    Args:
        feed, epoch, seq, ts: As its publisher numbered it.
        kind: `snapshot`, `state`, `delta`, `event` or `get`.
        data: JSON.
        base: Of a delta: seq of the value that it changes.
        number: Of an answer: the question's `id`.
    """
    more = b"" if base is None else b',"base":%d' % base
    if number is not None:
        more += b',"id":' + encode_json(number)
    return b'{"feed":%b,"epoch":%d,"seq":%d,"ts":%d,"kind":"%b"%b,"data":%b}' % (
        encode_json(feed),
        epoch,
        seq,
        ts,
        kind.encode(),
        more,
        data,
    )


class View:
    """A pattern seen with some options, for all clients who subscribed it so."""

    def __init__(self, pattern: str, options: Options, targets: tuple[Target, ...]) -> None:
        self.pattern = pattern
        self.options = options
        self.targets = targets
        self.wild = "*" in pattern
        self.groups: dict[Group, None] = {}
        self.clients = 0
        self._shown: dict[str, Shown] = {}  # feed -> what its subscribers know

    @property
    def key(self) -> tuple[str, Options]:
        """What makes a view the one it is."""
        return self.pattern, self.options

    def names(self, family: Family, feed: str) -> bool:
        """Whether the pattern names a feed."""
        return any(
            target.family is family and (target.symbol is None or family.feed(target.symbol) == feed)
            for target in self.targets
        )

    def shown(self, feed: str) -> Shown | None:
        """What was shown of a feed last."""
        return self._shown.get(feed)

    def learn(self, feed: str, family: Family, entry: Entry | None, place: tuple[int, int], ts: int) -> Shown:
        """Take what the cache holds of a state feed, unless something newer was shown meanwhile."""
        known = self._shown.get(feed)
        if known is not None:
            return known
        value, epoch, seq = (None, *place) if entry is None else (entry.value, entry.epoch, entry.seq)
        known = self._show(feed, family, epoch, seq, ts, value)
        self._shown[feed] = known
        return known

    def feeds_shown(self) -> list[str]:
        """Those of which something was shown, or is known to be there."""
        return list(self._shown)

    def whole(self, feed: str) -> Due | None:
        """A feed's snapshot; None where nothing is known of it.

        Of a wildcard, a feed without a value (or whose value fails `where`) is nothing to be told.
        """
        known = self._shown.get(feed)
        if known is None or (self.wild and known.value is None):
            return None
        return Due(feed, known.family, known.full(), seq=known.seq, full=self.catch_up(feed))

    def in_the_end(self, feed: str, family: Family, place: tuple[int, int]) -> Due:
        """What is known of a feed when it is written; null where that is nothing."""

        def full() -> bytes:
            known = self._shown.get(feed)
            return envelope(feed, *place, 0, "snapshot", b"null") if known is None else known.full()

        return Due(feed, family, b"", seq=place[1], full=full)

    def render(self, message: Message) -> Due | None:
        """A message as this view's clients get it; None where it says nothing new to them.

        Raises:
            Whatever the payload raises when it is encoded.
        """
        feed, family = message.feed, message.family
        if family.kind != STATE:
            if self.options.where and not self._passes(_plain(message.value)):
                return None
            data = (
                message.json() if not self.options.fields else encode_json(self._cut(_plain(message.value)))
            )
            body = envelope(feed, message.epoch, message.seq, message.ts, "event", data)
            return Due(feed, family, body, seq=message.seq)
        before = self._shown.get(feed)
        if before is not None and before.epoch == message.epoch and message.seq <= before.latest:
            return None  # the snapshot had it
        now = self._show(feed, family, message.epoch, message.seq, message.ts, message.value)
        if before is None and self.wild and now.value is None:
            self._shown[feed] = now
            return None  # nobody was told of it
        if self.options.full or before is None or before.epoch != now.epoch:
            body = now.full("state")
        else:
            change = _change(before, now)
            if change is _ABSENT:  # nothing of what these clients see
                before.latest = message.seq
                return None
            if change is None:
                body = now.full("state")
            else:
                body = envelope(
                    feed, now.epoch, now.seq, now.ts, "delta", encode_json(change), base=before.seq
                )
        self._shown[feed] = now
        return Due(feed, family, body, seq=message.seq, full=self.catch_up(feed))

    def select(self, items: Iterable[Any]) -> list[Any]:
        """Of rows, values or events those that fulfil `where`, cut to `fields`."""
        return [self._cut(item) for item in map(_plain, items) if self._passes(item)]

    def catch_up(self, feed: str) -> Callable[[], bytes]:
        """Makes what to tell somebody who missed a change of a feed."""
        return lambda: self._shown[feed].full()

    def _show(self, feed: str, family: Family, epoch: int, seq: int, ts: int, value: Any) -> Shown:
        rows = _rows(value, family)
        if rows is not None:
            if self.options.where:
                rows = [row for row in rows if self._passes(row)]
            if self.options.limit:
                rows = rows[: self.options.limit]
            return Shown(
                feed, family, epoch, seq, ts, {row[_KEY]: self._cut(row) for row in rows}, board=True
            )
        plain = _plain(value)
        if isinstance(plain, dict):
            plain = self._cut(plain) if self._passes(plain) else None
        return Shown(feed, family, epoch, seq, ts, plain, board=False)

    def _cut(self, row: Any) -> Any:
        fields = self.options.fields
        if not fields or not isinstance(row, dict):
            return row
        return {name: value for name, value in row.items() if name in fields or name in (_KEY, "rank")}

    def _passes(self, row: Any) -> bool:
        for name, relation, wanted in self.options.where:
            value = row.get(name, _ABSENT) if isinstance(row, dict) else _ABSENT
            try:
                if value is _ABSENT or not _RELATIONS[relation](value, wanted):
                    return False
            except TypeError:  # a number and a text
                return False
        return True


class ViewIndex:
    """All views that somebody has, and how messages find theirs."""

    def __init__(self) -> None:
        self._views: dict[tuple[str, Options], View] = {}
        self._exact: dict[str, dict[View, None]] = {}  # feed -> views that name it
        self._wild: dict[str, dict[View, None]] = {}  # family name -> views of all of it

    def __bool__(self) -> bool:
        return bool(self._views)

    def get(self, pattern: str, options: Options, targets: tuple[Target, ...]) -> View:
        """The view of a pattern with some options, made for the first who wants it."""
        view = self._views.get((pattern, options))
        if view is None:
            view = self._views[pattern, options] = View(pattern, options, targets)
            for table, key in self._routes(view):
                table.setdefault(key, {})[view] = None
        return view

    def forget(self, view: View) -> None:
        """Its last client has left."""
        del self._views[view.key]
        for table, key in self._routes(view):
            views = table.get(key)
            if views is not None:
                views.pop(view, None)
                if not views:
                    del table[key]

    def of(self, message: Message) -> tuple[View, ...]:
        """Those that show a message, now and whatever happens to them meanwhile."""
        return self.showing(message.feed, message.family)

    def showing(self, feed: str, family: Family) -> tuple[View, ...]:
        """The same by feed."""
        return (*self._exact.get(feed, ()), *self._wild.get(family.name, ()))

    def _routes(self, view: View) -> Iterable[tuple[dict[str, dict[View, None]], str]]:
        for target in view.targets:
            if target.symbol is None:
                yield self._wild, target.family.name
            else:
                yield self._exact, target.family.feed(target.symbol)


def _rows(value: Any, family: Family) -> list[Row] | None:
    """The rows of a board; None for what is none: not a list, or not one row for each symbol."""
    if not isinstance(value, list | tuple):
        return None
    if not value:
        return [] if family.name.startswith("scanners:") else None
    rows = [_plain(row) for row in value]
    if not all(isinstance(row, dict) and isinstance(row.get(_KEY), str) for row in rows):
        return None
    return rows if len({row[_KEY] for row in rows}) == len(rows) else None


def _plain(value: Any) -> Any:
    """A struct as a dict; anything else as it is."""
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value


def _change(before: Shown, now: Shown) -> Any:
    """What to tell who knows `before`: a delta, None where that cannot be told, `_ABSENT` if nothing."""
    if before.board != now.board:
        return None
    if now.board:
        return _board_change(before.value, now.value)
    if isinstance(before.value, dict) and isinstance(now.value, dict):
        return _fields_change(before.value, now.value)
    return _ABSENT if before.value == now.value else None


def _fields_change(before: Row, now: Row) -> Any:
    """The changed fields; None where one has gone."""
    if before.keys() - now.keys():
        return None
    changed = {name: value for name, value in now.items() if before.get(name, _ABSENT) != value}
    return changed or _ABSENT


def _board_change(before: dict[str, Row], now: dict[str, Row]) -> Any:
    """`{"set": {symbol: changed fields}, "gone": [symbols]}`, `order` where ranks do not tell it."""
    rows: dict[str, Row] = {}
    ranked = True
    for symbol, row in now.items():
        old = before.get(symbol)
        if "rank" not in row:
            ranked = False
        if old is row:
            continue
        change = row if old is None else _fields_change(old, row)
        if change is None:
            return None
        if change is not _ABSENT:
            rows[symbol] = change
    delta: Row = {}
    if rows:
        delta["set"] = rows
    gone = [symbol for symbol in before if symbol not in now]
    if gone:
        delta["gone"] = gone
    if not ranked and list(before) != list(now):
        delta["order"] = list(now)
    return delta or _ABSENT


def apply_delta(value: Any, delta: Row) -> Any:
    """What a client knows after a delta: the rule that clients follow, here for tests and our own client.

    Args:
        value: Rows of a board in order, or a value's fields.
        delta: `data` of a message of kind `delta`.
    """
    if isinstance(value, dict):
        return {**value, **delta}
    rows: dict[str, Row] = {row[_KEY]: row for row in value}
    for symbol in delta.get("gone", ()):
        rows.pop(symbol, None)
    for symbol, change in delta.get("set", {}).items():
        rows[symbol] = {**rows.get(symbol, {}), **change}
    if "order" in delta:
        return [rows[symbol] for symbol in delta["order"]]
    return (
        sorted(rows.values(), key=lambda row: row["rank"])
        if _all_ranked(rows.values())
        else list(rows.values())
    )


def _all_ranked(rows: Iterable[Row]) -> bool:
    return all("rank" in row for row in rows)
