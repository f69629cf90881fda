"""The format of an exchange's list of halts: what is understood, and what costs nothing."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.events import HaltNotice
from mdp.listener.trade_halts_rss import RssError, RssReader
from tests.data import data_file

from .rss import document, item


def read(body: bytes, *, piece: int = 0) -> list[HaltNotice]:
    """A document's halts, fed whole or in pieces."""
    reader = RssReader("nasdaq")
    for start in range(0, len(body), piece or len(body) or 1):
        reader.feed(body[start : start + (piece or len(body))])
    return reader.finish()


def ms(*parts: int) -> int:
    """A UTC time in ms."""
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


def test_every_field_of_an_item_is_read() -> None:
    """Times are New York's; the description, which says it all again, is not read."""
    text = item(
        "BRK.A", time="12:00:01", code="T1", resumption=("03/05/2024", "12:10:00", "12:15:00"),
        price=" 10.25 ", market="NYSE American",
    )  # fmt: skip
    assert read(document(text)) == [
        HaltNotice(
            symbol="BRK.A",
            timestamp=0,
            halt_timestamp=ms(2024, 3, 5, 17, 0, 1),
            source="nasdaq",
            reason_code="T1",
            quote_timestamp=ms(2024, 3, 5, 17, 10),
            resume_timestamp=ms(2024, 3, 5, 17, 15),
            listing_market="NYSE American",
            pause_price=10.25,
        )
    ]


@pytest.mark.parametrize(
    ("day", "time", "expected"),
    [
        ("07/05/2024", "12:00:01", ms(2024, 7, 5, 16, 0, 1)),  # summer
        ("03/05/2024", "12:00:01.5", ms(2024, 3, 5, 17, 0, 1) + 500),
        ("03/05/2024", "12:00:01.073", ms(2024, 3, 5, 17, 0, 1) + 73),
        ("03/05/2024", "12:00:01 .540", ms(2024, 3, 5, 17, 0, 1) + 540),
        ("03/05/2024 ", " 7:00:01", ms(2024, 3, 5, 12, 0, 1)),
        ("03/05/2024", "", None),
        ("", "12:00:00", None),
        ("13/05/2024", "12:00:00", None),
        ("02/30/2024", "12:00:00", None),
        ("03/05/2024", "25:00:00", None),
        ("03/05/2024", "noon", None),
        ("03/05/0001", "00:00:00", None),
        ("2024-03-05", "12:00:00", None),
    ],
)
def test_times_of_every_form(day: str, time: str, expected: int | None) -> None:
    """With and without a fraction, summer and winter; an item without a time is none, and is counted."""
    reader = RssReader("nasdaq")
    reader.feed(document(item("GOOD"), item(day=day, time=time)))
    assert [notice.halt_timestamp for notice in reader.finish()][1:] == ([expected] if expected else [])
    assert reader.malformed == (0 if expected else 1)


@pytest.mark.parametrize(
    ("resumption", "resume"),
    [
        (("03/05/2024", "", ""), 0),
        (("", "", "12:15:00"), 0),
        (("03/05/2024", "", "11:00:00"), 0),  # before the halt
        (("03/06/2024", "", "09:30:00"), ms(2024, 3, 6, 14, 30)),
    ],
)
def test_a_resumption_needs_date_and_time_and_comes_after(
    resumption: tuple[str, str, str], resume: int
) -> None:
    """Else it is not known yet."""
    (notice,) = read(document(item(resumption=resumption)))
    assert notice.resume_timestamp == resume


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("LUDP", "LUDP"),
        ("T1, T3", "T1+T3"),
        (" t12 ", "T12"),
        ("", ""),
        ("A B C D E F", "A+B+C+D"),
        ("&lt;x&gt;", "X"),
    ],
)
def test_reason_codes_are_a_few_short_words(text: str, code: str) -> None:
    """Several are joined; nothing of a page gets through."""
    assert read(document(item(code=text)))[0].reason_code == code


@pytest.mark.parametrize("price", ["x", "nan", "inf", "-1", "1e300", ""])
def test_a_price_that_is_none_is_0(price: str) -> None:
    """It costs only itself."""
    assert read(document(item(price=price)))[0].pause_price == 0


def test_symbols_that_could_be_no_feed_are_malformed() -> None:
    """Counted, and the others go on."""
    reader = RssReader("nasdaq")
    reader.feed(document(item("BAC$K"), item(""), item("A" * 40), item("GOOD"), "<item/>"))
    assert [notice.symbol for notice in reader.finish()] == ["GOOD"]
    assert reader.malformed == 4


def test_another_spelling_of_the_market_and_another_namespace() -> None:
    """Fields are known by their names."""
    text = (
        document(item(market=""))
        .replace(b"ndaq:Market", b"ndaq:Mkt")
        .replace(b"<ndaq:Mkt>", b"<ndaq:Mkt>IEX")
    )
    text = text.replace(b"http://www.nasdaqtrader.com/", b"urn:x")
    assert read(text)[0].listing_market == "IEX"


def test_an_empty_list_is_good() -> None:
    """A quiet day."""
    assert read(document()) == []


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">'.encode() for i in range(9))
    + b"]><rss><channel><item>&j;</item></channel></rss>"
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BOMB, "document type"),
        (b'<!DOCTYPE rss SYSTEM "http://127.0.0.1:9/x.dtd"><rss/>', "document type"),
        (b'<!DOCTYPE r [<!ENTITY f SYSTEM "file:///etc/passwd">]><rss>&f;</rss>', "document type"),
        (b"", "no XML"),
        (b"<html><body>busy</body></html>", "no RSS"),
        (b'{"halts": []}', "no XML"),
        (document(item())[:-20], "no XML"),
        (b"\x1f\x8b\x08\x00garbage", "no XML"),
        (b'<?xml version="1.0" encoding="no-such-code"?><rss/>', "no XML"),
        (b"<rss>&undefined;</rss>", "no XML"),
        (document(item("")), "none of 1 items"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(body: bytes, why: str) -> None:
    """No entity expands, nothing is fetched, no exception of the parser gets out."""
    with pytest.raises(RssError, match=re.escape(why)) as caught:
        read(body)
    assert "\n" not in str(caught.value)


def test_depth_and_long_texts_cost_nothing() -> None:
    """A hundred thousand elements within each other, and a field of a megabyte."""
    deep = b"<x>" * 100_000 + b"</x>" * 100_000
    (notice,) = read(document(item("A"), item("A", market="M" * 1_000_000)).replace(b"<ttl>1</ttl>", deep))[
        1:
    ]
    assert notice.listing_market == "M" * 64


def test_items_are_bounded() -> None:
    """More than any market has."""
    assert len(read(document(*[item()] * 20_100))) == 20_000


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200))
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    """A network cuts where it likes."""
    body = document(item("AAA"), item("ÄÖÜ"), item("BBB", resumption=("03/05/2024", "", "12:30:00")))
    assert read(body, piece=size) == read(body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    """Bytes changed, cut or repeated: a list or an `RssError`."""
    body = bytearray(document(item(), item("BBB")))
    for _ in range(data.draw(st.integers(1, 5))):
        where = data.draw(st.integers(0, len(body) - 1))
        body[where : where + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=10))
        if not body:
            break
    try:
        notices = read(bytes(body))
    except RssError:
        return
    assert all(notice.halt_timestamp > 0 for notice in notices)


def test_a_real_table_reads_as_it_was_captured() -> None:
    """The recorded day as a list, against its own columns."""
    rows = list(csv.DictReader(data_file("halts/halts_2022-02.csv").open(encoding="utf-8")))
    body = document(
        *[
            item(
                row["symbol"], day=row["halt_date"], time=row["halt_time_et"], market=row["market"],
                code=row["reason_codes"].replace("+", " "),
                resumption=(
                    row["resumption_date"], row["resumption_quote_time_et"], row["resumption_trade_time_et"]
                ),
            )
            for row in rows
        ]
    )  # fmt: skip
    read_ones = read(body)
    assert [notice.symbol for notice in read_ones] == [row["symbol"] for row in rows]
    uber = next(notice for notice in read_ones if notice.symbol == "UBER")
    assert (uber.reason_code, uber.listing_market) == ("T1+T3", "NYSE")
    assert uber.halt_timestamp == ms(2022, 2, 10, 16, 13, 35)
    assert uber.resume_timestamp == ms(2022, 2, 10, 16, 52, 18)
