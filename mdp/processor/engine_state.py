"""The state of an engine as records, and back: for the snapshot file and for partitions' checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mdp.analyzers import waiting
from mdp.processor.engine import Engine

_WAITING = "waiting"  # beside the names of analyzers: what is the market's own


def dump(engine: Engine) -> Iterator[tuple[str, Any]]:
    """(analyzer's name, record) of all analyzers, in steps of a few milliseconds; records are msgpack-able.

    The records belong together only where no batch is processed between two steps, or where what follows
    is journaled as well.
    """
    for guard in engine.guards:
        for record in guard.analyzer.dump():
            yield guard.name, record
    ahead = waiting.dump(engine.market)
    if ahead:
        yield _WAITING, ahead


def hydrate(engine: Engine, now_ms: float, records: Iterable[tuple[str, Any]]) -> None:
    """Take back what `dump` gave, of a market whose clock stood at `now_ms`. Before any batch. Never raises.

    Records of analyzers that do not run any more are left alone.
    """
    market = engine.market
    market.clock.set(now_ms)
    assert market.clock.day is not None
    market.session = market.clock.day.session(now_ms)
    states: dict[str, list[Any]] = {}
    for name, record in records:
        states.setdefault(name, []).append(record)
    for guard in engine.guards:
        dumped = states.get(guard.name)
        if dumped is not None:
            guard.call("hydrate", lambda g=guard, d=dumped: g.analyzer.hydrate(d))  # type: ignore[misc]
    for record in states.get(_WAITING, ()):
        waiting.hydrate(market, record)
    market.revision += 1
