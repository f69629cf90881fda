"""The REST client over loopback: retries, bounds, paging, and where the key never goes."""

from __future__ import annotations

import asyncio
import gzip
import socket

import pytest
from aiohttp import web

from mdp.cache.rest import RestClient, RestError
from mdp.observability.metrics import Metrics
from tests.cache.provider import Answer, Provider, cut_off, hang, serving

KEY = "secret-key-123"


class Waits:
    """A clock that moves when somebody waits; remembers how long they did."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def client(url: str, waits: Waits | None = None, *, tries: int = 4, timeout: float = 5.0) -> RestClient:
    """A client that waits in no time and without jitter."""
    waits = waits or Waits()
    return RestClient(
        url,
        KEY,
        rate=1e9,
        tries=tries,
        timeout=timeout,
        max_body_bytes=8 << 20,
        clock=waits.clock,
        sleep=waits.sleep,
        jitter=lambda: 1.0,
    )


async def test_the_key_goes_into_the_header_and_nowhere_else() -> None:
    """Not into a URL, a repr or an error."""
    async with serving(Provider()) as provider:
        provider.answers["/v1/a"] = b"{}"
        rest = client(provider.url)
        assert await rest.get("/v1/a", {"limit": "5"}) == b"{}"
        with pytest.raises(RestError) as caught:
            await rest.get("/nothing")
        await rest.close()

    assert provider.keys == [f"Bearer {KEY}"] * 2
    assert provider.asked == ["/v1/a?limit=5", "/nothing"]
    assert KEY not in repr(rest) + str(caught.value) + repr(caught.value)


async def test_without_a_key_none_is_sent() -> None:
    """A simulator needs none."""
    async with serving(Provider()) as provider:
        provider.answers["/"] = b"{}"
        rest = RestClient(provider.url)
        await rest.get("/a")
        await rest.close()
    assert provider.keys == [""]


async def test_a_base_url_may_have_a_path() -> None:
    """A proxy may serve the API below one."""
    async with serving(Provider()) as provider:
        provider.answers["/proxy/v1"] = b"{}"
        rest = client(provider.url + "/proxy/")
        assert await rest.get("/v1/a") == b"{}"
        await rest.close()


@pytest.mark.parametrize("status", [413, 429, 499, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    """With pauses that double."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = [status, status, b"ok"]
        rest = client(provider.url, waits)
        assert await rest.get("/a") == b"ok"
        await rest.close()
    assert waits.slept == [0.5, 1.0]
    assert rest.requests == {("other", str(status)): 2, ("other", "200"): 1}


@pytest.mark.parametrize(
    ("status", "absent"), [(400, False), (401, True), (403, True), (404, True), (302, False)]
)
async def test_what_is_final_is_not(status: int, absent: bool) -> None:
    """One request; a redirect is not followed either, it would carry the key along."""
    async with serving(Provider()) as provider:
        provider.answers["/"] = status
        rest = client(provider.url)
        with pytest.raises(RestError, match=f"GET /a: HTTP {status}") as caught:
            await rest.get("/a")
        await rest.close()
    assert len(provider.asked) == 1
    assert (caught.value.status, caught.value.absent) == (status, absent)


async def test_tries_are_bounded() -> None:
    """After the last try there is no pause, only the error."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = 503
        rest = client(provider.url, waits, tries=3)
        with pytest.raises(RestError) as caught:
            await rest.get("/a")
        await rest.close()
    assert len(provider.asked) == 3
    assert len(waits.slept) == 2
    assert not caught.value.absent


async def test_the_pause_is_capped_and_half_of_it_random() -> None:
    """However often it failed, it waits 10 s at most and half of that at least."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = 500
        rest = RestClient(
            provider.url,
            rate=1e9,
            tries=9,
            breaker_failures=99,
            clock=waits.clock,
            sleep=waits.sleep,
            jitter=lambda: 0.0,
        )
        with pytest.raises(RestError):
            await rest.get("/a")
        await rest.close()
    assert waits.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


async def test_retry_after_is_honoured_by_all_requests() -> None:
    """The one that was refused and those that come after it wait as long as the server said."""
    waits = Waits()
    async with serving(Provider()) as provider:
        limited: Answer = web.Response(status=429, headers={"Retry-After": "7"})
        provider.answers["/limited"] = [limited, b"ok"]
        provider.answers["/other"] = b"ok"
        rest = client(provider.url, waits)
        began = waits.now
        await rest.get("/limited")
        assert waits.now - began == pytest.approx(7)

        provider.answers["/limited"] = [web.Response(status=429, headers={"Retry-After": "7"}), b"ok"]
        began = waits.now
        await asyncio.gather(rest.get("/limited"), rest.get("/limited"), rest.get("/other"))
        await rest.close()
    assert waits.now - began >= 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Wed, 23 Sep 2026 12:00:09 GMT", 9),
        ("Wed, 23 Sep 2026 11:00:00 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("1e3", 0),
        ("", 0),
    ],
)
async def test_retry_after_as_a_date_is_by_the_servers_clock(value: str, seconds: float) -> None:
    """Not by ours, which may be another; nonsense counts as nothing said."""
    async with serving(Provider()) as provider:
        headers = {"Retry-After": value, "Date": "Wed, 23 Sep 2026 12:00:00 GMT"}
        provider.answers["/"] = web.Response(status=503, headers=headers)
        rest = client(provider.url, tries=1)
        with pytest.raises(RestError) as caught:
            await rest.get("/a")
        await rest.close()
    assert caught.value.retry_after == seconds


async def test_an_hour_is_not_waited_for() -> None:
    """The caller gets the error, with the time."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = web.Response(status=429, headers={"Retry-After": "3600"})
        rest = client(provider.url, waits)
        with pytest.raises(RestError) as caught:
            await rest.get("/a")
        await rest.close()
    assert caught.value.retry_after == 3600
    assert waits.slept == []


async def test_a_server_that_never_answers_times_out() -> None:
    """Each try is bounded; the error says why."""
    async with serving(Provider()) as provider:
        provider.answers["/"] = hang
        rest = client(provider.url, tries=2, timeout=0.05)
        with pytest.raises(RestError, match="in time"):
            await rest.get("/a")
        await rest.close()
        assert rest.requests == {("other", "timeout"): 2}


async def test_an_answer_that_is_cut_off_is_tried_again() -> None:
    """Half a body is never handed out."""
    async with serving(Provider()) as provider:
        provider.answers["/"] = cut_off
        rest = client(provider.url, tries=2)
        with pytest.raises(RestError, match="cut off"):
            await rest.get("/a")
        await rest.close()
    assert rest.requests == {("other", "truncated"): 2}


async def test_a_refused_connection_is_an_error_of_ours() -> None:
    """The message is one short line."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        rest = client(f"http://127.0.0.1:{unused.getsockname()[1]}", tries=2)
        with pytest.raises(RestError, match=r"no connection \(\w+\)$"):
            await rest.get("/a")
        await rest.close()
    assert rest.requests == {("other", "connection"): 2}


async def test_large_and_compressed_bodies_arrive_whole() -> None:
    """Several megabytes, also gzipped."""
    large = b'{"x":"' + b"0123456789abcdef" * 400_000 + b'"}'

    async def zipped(_request: web.Request) -> Answer:
        return web.Response(body=gzip.compress(large, 1), headers={"Content-Encoding": "gzip"})

    async with serving(Provider()) as provider:
        provider.answers["/plain"] = large
        provider.answers["/zipped"] = zipped
        rest = client(provider.url)
        assert await rest.get("/plain") == large
        assert await rest.get("/zipped") == large
        await rest.close()
    assert rest.received_bytes == 2 * len(large)


async def test_bodies_are_bounded_also_when_unpacked() -> None:
    """A small answer that unpacks into more than the limit is given up, and not tried again."""
    async with serving(Provider()) as provider:
        bomb = gzip.compress(bytes(9 << 20))
        provider.answers["/"] = web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
        rest = client(provider.url)
        with pytest.raises(RestError, match="more than 8388608 bytes"):
            await rest.get("/a")
        await rest.close()
    assert len(provider.asked) == 1


async def test_requests_at_once_are_bounded() -> None:
    """Of 40 askers four are served at a time."""

    async def slowly(_request: web.Request) -> Answer:
        await asyncio.sleep(0.005)
        return b"ok"

    async with serving(Provider()) as provider:
        provider.answers["/"] = slowly
        rest = client(provider.url)
        await asyncio.gather(*(rest.get(f"/{n}") for n in range(40)))
        await rest.close()
    assert provider.most_at_once == 4


async def test_requests_per_second_are_bounded() -> None:
    """Ten requests at 5 a second take a second of the clock: a second's worth needs no wait."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = b"ok"
        rest = RestClient(provider.url, rate=5, clock=waits.clock, sleep=waits.sleep)
        began = waits.now
        for n in range(10):
            await rest.get(f"/{n}")
        await rest.close()
    assert waits.now - began == pytest.approx(1.0)


async def test_an_endpoint_that_only_fails_is_left_alone_and_the_others_are_not() -> None:
    """After eight failed tries in a row nothing is sent for a while; then one try decides for all."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = b"ok"
        provider.answers["/stocks/vX/float"] = 500
        rest = client(provider.url, waits)
        for _ in range(2):
            with pytest.raises(RestError, match="HTTP 500"):
                await rest.get("/stocks/vX/float")
        with pytest.raises(RestError, match="only failed lately") as caught:
            await rest.get("/stocks/vX/float")
        assert not caught.value.asked
        assert 0 < caught.value.retry_after <= 5
        assert provider.count("/stocks/vX/float") == 8
        assert await rest.get("/stocks/v1/splits") == b"ok"

        waits.now += 5
        provider.answers["/stocks/vX/float"] = b"well"
        assert await rest.get("/stocks/vX/float") == b"well"
        assert await rest.get("/stocks/vX/float") == b"well"
        await rest.close()


async def test_throttling_opens_no_breaker() -> None:
    """429 says that the server is alive; its Retry-After is what counts."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/"] = 429
        rest = client(provider.url, waits)
        for _ in range(5):
            with pytest.raises(RestError, match="HTTP 429"):
                await rest.get("/a")
        await rest.close()
    assert len(provider.asked) == 20


async def test_a_cancelled_trial_leaves_the_endpoint_open_to_the_next() -> None:
    """Whoever gave up must not keep the others out."""
    waits = Waits()
    async with serving(Provider()) as provider:
        provider.answers["/a"] = 500
        rest = client(provider.url, waits)
        for _ in range(2):
            with pytest.raises(RestError):
                await rest.get("/a")
        waits.now += 5
        provider.answers["/a"] = hang
        trial = asyncio.create_task(rest.get("/a"))
        while len(provider.asked) < 9:  # noqa: ASYNC110 - the provider of the tests counts, it tells nobody
            await asyncio.sleep(0.005)
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        provider.answers["/a"] = b"ok"
        assert await rest.get("/a") == b"ok"
        await rest.close()


async def all_pages(rest: RestClient, path: str) -> list[bytes]:
    """Every page; the client is closed."""
    try:
        return [body async for body in rest.pages(path, {"limit": "2"})]
    finally:
        await rest.close()


def linking(target: str) -> bytes:
    """A page that names the next one."""
    return b'{"results":[],"next_url":"' + target.encode() + b'"}'


async def test_pages_follow_next_url_with_the_key_attached() -> None:
    """The link is followed as it is; a key that it holds itself is left out; the last page has none."""
    async with serving(Provider()) as provider:
        provider.answers["/f"] = [
            linking(f"{provider.url}/f?cursor=YXA9MQ%3D%3D"),
            linking(f"/f?cursor=b&apiKey={KEY}"),
            b'{"results":[1]}',
        ]
        found = await all_pages(client(provider.url), "/f")
    assert provider.asked == ["/f?limit=2", "/f?cursor=YXA9MQ%3D%3D", "/f?cursor=b"]
    assert provider.keys == [f"Bearer {KEY}"] * 3
    assert len(found) == 3


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:9/f", "https://evil.example/f", "//evil.example/f", "file:///etc/passwd", "http://[/"],
)
async def test_a_next_url_elsewhere_is_not_followed(target: str) -> None:
    """The key would go there. Another port is another server."""
    async with serving(Provider()) as provider:
        provider.answers["/f"] = linking(target)
        with pytest.raises(RestError, match="another server"):
            await all_pages(client(provider.url), "/f")
    assert len(provider.asked) == 1


async def test_pages_in_a_circle_end() -> None:
    """A link to a page that was there is an error and no endless loop."""
    async with serving(Provider()) as provider:
        provider.answers["/f"] = [linking("/f?cursor=a"), linking("/f?cursor=b"), linking("/f?cursor=a")]
        with pytest.raises(RestError, match="circles"):
            await all_pages(client(provider.url), "/f")
    assert len(provider.asked) == 3


async def test_a_page_with_nan_still_names_the_next() -> None:
    """It is no JSON, but no reason to lose the pages after it."""
    async with serving(Provider()) as provider:
        provider.answers["/f"] = [b'{"results":[{"a":NaN}],"next_url":"\\/f?cursor=a"}', b'{"results":[NaN]}']
        assert len(await all_pages(client(provider.url), "/f")) == 2


@pytest.mark.parametrize("body", [b"<html>", b'{"results":[', b""])
async def test_a_page_that_is_garbage_is_an_error(body: bytes) -> None:
    """Not the end of the pages: whoever believed that would miss the rest."""
    async with serving(Provider()) as provider:
        provider.answers["/f"] = body
        with pytest.raises(RestError, match="not JSON"):
            await all_pages(client(provider.url), "/f")


async def test_its_counters_are_metrics() -> None:
    """Requests by endpoint and outcome, and bytes."""
    metrics = Metrics()
    async with serving(Provider()) as provider:
        provider.answers["/"] = [500, b"12345"]
        rest = client(provider.url)
        rest.register(metrics)
        await rest.get("/a")
        await rest.close()
    text = metrics.render().decode()
    assert 'mdp_rest_requests_total{endpoint="other",outcome="500"} 1.0' in text
    assert 'mdp_rest_requests_total{endpoint="other",outcome="200"} 1.0' in text
    assert "mdp_rest_received_bytes_total 5.0" in text


async def test_close_may_come_twice_and_before_the_first_request() -> None:
    """And a later request opens a new session."""
    async with serving(Provider()) as provider:
        provider.answers["/"] = b"ok"
        rest = client(provider.url)
        await rest.close()
        await rest.get("/a")
        await rest.close()
        await rest.close()
        assert await rest.get("/a") == b"ok"
        await rest.close()
