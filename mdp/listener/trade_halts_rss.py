"""Reads an exchange's list of trading halts in the RSS format of Nasdaq Trader (`feed=tradehalts`).

One `item` per halt of any US listing, in the namespace of nasdaqtrader.com: `HaltDate HaltTime IssueSymbol
IssueName Market ReasonCode PauseThresholdPrice ResumptionDate ResumptionQuoteTime ResumptionTradeTime`.
An item stays and is filled in as more is known. Dates are MM/DD/YYYY, times HH:MM:SS with or without a
fraction, both US Eastern.

`defusedxml` refuses a document type, and with it every entity, before one can expand; the standard
library's parser would leave that to the version of expat it was built with. The answer is parsed in the
pieces in which it comes, so no step is long, and nothing but the fields above is kept.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from mdp.events import HaltNotice
from mdp.feeds import is_symbol
from mdp.sessions import NEW_YORK

_FIELDS = frozenset({
    "HaltDate", "HaltTime", "IssueSymbol", "Market", "Mkt", "ReasonCode", "PauseThresholdPrice",
    "ResumptionDate", "ResumptionQuoteTime", "ResumptionTradeTime",
})  # fmt: skip
_MAX_TEXT = 64  # characters of a field; none of these is longer
_MAX_ITEMS = 20_000  # a market-wide halt has one for each listing
_TIME = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})\s*(?:\.(\d{1,6}))?")
_CODE = re.compile(r"[A-Z0-9]{1,8}")


class RssError(ValueError):
    """The answer is no list of halts: one line that says why."""


class RssReader:
    """Takes an answer piece by piece.

    Attributes:
        notices: What was understood, in the order of the document; `timestamp` is 0.
        malformed: Items without a symbol or a time that can be read.
    """

    def __init__(self, source: str) -> None:
        self.notices: list[HaltNotice] = []
        self.malformed = 0
        self._source = source
        self._root = ""
        self._item: dict[str, str] | None = None
        self._field = ""
        self._text: list[str] = []
        self._length = 0
        self._parser: Any = DefusedXMLParser(target=self, forbid_dtd=True)

    def feed(self, piece: bytes) -> None:
        """Parse on.

        Raises:
            RssError: It is no XML, holds a document type, or is no RSS.
        """
        self._parse(lambda: self._parser.feed(piece))

    def finish(self) -> list[HaltNotice]:
        """Everything was fed.

        Raises:
            RssError: The document is cut off, or nothing in it could be read.
        """
        self._parse(lambda: self._parser.close())
        if self.malformed and not self.notices:
            raise RssError(f"none of {self.malformed} items has a symbol and a time")
        return self.notices

    @staticmethod
    def _parse(step: Any) -> None:
        try:
            step()
        except RssError:
            raise
        except DefusedXmlException:
            raise RssError("a document type or an entity, which no list of halts has") from None
        except (ParseError, ValueError, LookupError) as exc:  # LookupError: an encoding nobody knows
            raise RssError(f"no XML: {exc}") from None

    # What the parser calls.

    def start(self, tag: str, _attributes: Any) -> None:
        """An element begins."""
        name = tag.rpartition("}")[2]
        if not self._root:
            self._root = name
            if name != "rss":
                raise RssError("no RSS")
        if name == "item":
            self._item = {}
        self._field = name if self._item is not None and name in _FIELDS else ""
        self._text.clear()
        self._length = 0

    def data(self, text: str) -> None:
        """Text of the element."""
        if self._field and self._length <= _MAX_TEXT:
            self._text.append(text)
            self._length += len(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        item = self._item
        if item is None:
            return
        if self._field:
            item[self._field] = "".join(self._text)[:_MAX_TEXT].strip()
            self._field = ""
        elif tag.rpartition("}")[2] == "item":
            self._item = None
            if len(self.notices) < _MAX_ITEMS:
                notice = _notice(item, self._source)
                if notice is None:
                    self.malformed += 1
                else:
                    self.notices.append(notice)

    def close(self) -> None:
        """The document ends."""


def _notice(item: dict[str, str], source: str) -> HaltNotice | None:
    """One item; None where it says not which symbol, or not when."""
    symbol = item.get("IssueSymbol", "")
    halted = _moment(item.get("HaltDate", ""), item.get("HaltTime", ""))
    if not is_symbol(symbol) or not halted:
        return None
    resumed = item.get("ResumptionDate", "")
    resume = _moment(resumed, item.get("ResumptionTradeTime", ""))
    return HaltNotice(
        symbol=symbol,
        timestamp=0,
        halt_timestamp=halted,
        source=source,
        reason_code="+".join(_CODE.findall(item.get("ReasonCode", "").upper())[:4]),
        quote_timestamp=_moment(resumed, item.get("ResumptionQuoteTime", "")),
        resume_timestamp=resume if resume >= halted else 0,  # a resumption before the halt is none
        listing_market=item.get("Market") or item.get("Mkt", ""),
        pause_price=_price(item.get("PauseThresholdPrice", "")),
    )


def _moment(date: str, time: str) -> int:
    """A New York date and time in ms since the epoch; 0 where there is none."""
    found = _TIME.fullmatch(time)
    if found is None:
        return 0
    hour, minute, second, fraction = found.groups()
    try:
        day = datetime.strptime(date, "%m/%d/%Y")
        if day.year < 1971:  # a list was never so old, and times before the epoch are none
            return 0
        moment = day.replace(hour=int(hour), minute=int(minute), second=int(second), tzinfo=NEW_YORK)
        return int(moment.timestamp()) * 1000 + int((fraction or "0").ljust(3, "0")[:3])
    except (ValueError, OverflowError):  # no such day, or no such hour
        return 0


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        return 0
    return price if 0 < price < 1e9 else 0
