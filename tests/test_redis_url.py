"""Addresses of Redis, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.redis_url import RedisAddress, parse_redis_url

SECRET = "s3cret-S3CRET"
GOOD = {
    "redis://h": RedisAddress("single", False, (("h", 6379),)),
    "redis://h/": RedisAddress("single", False, (("h", 6379),)),
    "rediss://u:p@h:1/2": RedisAddress("single", True, (("h", 1),), database=2, user="u", password="p"),
    "redis://:p%40%3A@[::1]:7": RedisAddress("single", False, (("::1", 7),), password="p@:"),
    "unix:///run/r.sock": RedisAddress("unix", False, (), path="/run/r.sock"),
    "unix://u:p@/a%20b?db=3": RedisAddress(
        "unix", False, (), path="/a b", database=3, user="u", password="p"
    ),
    "redis+sentinel://a:1,b/main": RedisAddress("sentinel", False, (("a", 1), ("b", 26379)), service="main"),
    "rediss+sentinel://u:p@a,[::1]:2/main/4": RedisAddress(
        "sentinel", True, (("a", 26379), ("::1", 2)), service="main", database=4, user="u", password="p"
    ),
    "redis+cluster://a,b:7000": RedisAddress("cluster", False, (("a", 6379), ("b", 7000))),
    "rediss+cluster://:p@a/": RedisAddress("cluster", True, (("a", 6379),), password="p"),
}


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_taken_apart(url: str) -> None:
    """Each form, with and without its optional parts."""
    assert parse_redis_url(url) == GOOD[url]


@pytest.mark.parametrize(
    "url",
    [
        "", "h:6379", "http://h", "redis://", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/x",
        "redis://h/-1", "redis://h/99999", "redis://h/1/2", "redis://a,b", "redis://h?db=1", "redis://h#a",
        f"redis://h?password={SECRET}", "unix://", "unix://h/path", "unix:///p?x=1", "unix:///p?db=x",
        "redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/main/0/1", "redis+sentinel://,/m",
        "redis+cluster://a/1", f"redis://:{SECRET}@", f"redis://:{SECRET}@[h", "redis+other://h",
    ],
)  # fmt: skip
def test_anything_else_is_refused_without_saying_it(url: str) -> None:
    """The message may be logged."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_redis_url(url)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    """Of one kind: the configuration turns it into a refusal."""
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}"):
        try:
            parse_redis_url(url)
        except ValueError:
            continue


@pytest.mark.parametrize("url", GOOD)
def test_an_address_shows_where_and_never_who(url: str) -> None:
    """In logs and tracebacks."""
    address = parse_redis_url(url.replace(":p", f":{SECRET}"))
    for shown in (str(address), repr(address), f"{[address]}"):
        assert SECRET not in shown
    assert str(GOOD["redis+sentinel://a:1,b/main"]) == "a:1,b:26379 (main)"
    assert str(GOOD["redis://:p%40%3A@[::1]:7"]) == "[::1]:7"
