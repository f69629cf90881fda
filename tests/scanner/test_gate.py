"""What scanners say leaves through the one process that speaks."""

from __future__ import annotations

from typing import Any

from mdp.feeds import ALERTS, QUOTE, SCANNER
from mdp.processor.results import Results
from mdp.scanner.gate import Gate


class Way:
    """Notes what leaves."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def publish(self, family: Any, symbol: str, value: Any) -> None:
        """See `mdp.scanner.gate.Way`."""
        self.said.append(("publish", family, symbol, value))

    def set(self, family: Any, symbol: str, value: Any) -> None:
        """See there."""
        self.said.append(("set", family, symbol, value))

    def push(self, family: Any, symbol: str, value: Any) -> None:
        """See there."""
        self.said.append(("push", family, symbol, value))

    def provide(self, family: Any, provider: Any, symbols: Any = tuple) -> None:
        """See there."""
        self.said.append(("provide", family, provider("A"), list(symbols())))


def test_who_stands_by_says_nothing_and_later_nothing_of_it() -> None:
    """What was said while there was no way is gone: another process said it."""
    gate, way = Gate(), Way()
    results = Results(gate, gate)
    results.publish(SCANNER, "mine", 1)
    results.emit(ALERTS, "", 2)
    results.commit()
    gate.lead_to(way)
    assert gate.open
    results.publish(SCANNER, "mine", 3)
    results.emit(ALERTS, "", 4)
    results.commit()
    assert way.said == [
        ("publish", SCANNER, "mine", 3), ("push", ALERTS, "", 4), ("publish", ALERTS, "", 4),
    ]  # fmt: skip
    gate.lead_to(None)
    results.publish(SCANNER, "mine", 5)
    results.commit()
    assert len(way.said) == 3
    assert not gate.open


def test_what_happened_before_is_worked_through_in_silence() -> None:
    """Although there is a way already."""
    gate, way = Gate(), Way()
    gate.lead_to(way)
    gate.silent = True
    gate.set(QUOTE, "A", 1)
    gate.push(ALERTS, "", 1)
    gate.publish(QUOTE, "A", 1)
    assert (way.said, gate.open) == ([], False)
    gate.silent = False
    gate.set(QUOTE, "A", 2)
    assert way.said == [("set", QUOTE, "A", 2)]


def test_providers_are_told_to_each_way() -> None:
    """Before or after it leads anywhere."""
    gate, first, second = Gate(), Way(), Way()
    gate.provide(SCANNER, lambda name: f"value of {name}", lambda: ["mine"])
    gate.lead_to(first)
    gate.lead_to(second)
    gate.provide(QUOTE, lambda _: None)
    told = ("provide", SCANNER, "value of A", ["mine"])
    assert first.said == [told]
    assert second.said == [told, ("provide", QUOTE, None, [])]


def test_scanners_publish_whatever_is_wanted_or_not() -> None:
    """A successor must know it all; what nobody wants is dropped on the way out."""
    gate = Gate()
    interest = gate.interest(QUOTE)
    assert interest is gate.interest(QUOTE)
    assert interest.all
