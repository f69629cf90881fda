"""What errors, close codes and status events mean."""

from __future__ import annotations

import socket
import ssl

import msgspec
import pytest
from massive import WebSocketClient
from massive.exceptions import AuthError
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

from mdp.listener.outcome import Next, of_answer, of_close, of_error, of_status, one_line, statuses_of


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ..."), "refused"),
        (socket.gaierror(-2, "Name or service not known"), "dns"),
        (ssl.SSLCertVerificationError("self-signed certificate"), "tls"),
        (TimeoutError("timed out during opening handshake"), "timeout"),
        (ConnectionResetError(104, "Connection reset by peer"), "network"),
        (ConnectionClosedError(Close(1011, "oops"), None), "closed_1011"),
        (ConnectionClosedError(None, None), "aborted"),
        (KeyError("status"), "protocol"),
    ],
)
def test_error_has_a_reason_of_its_own_and_is_retried(exc: Exception, reason: str) -> None:
    """Each is a label in metrics, and none of them ends the feed for good."""
    outcome = of_error(exc)
    assert (outcome.reason, outcome.then) == (reason, Next.RETRY)
    assert outcome.detail


@pytest.mark.parametrize("answer", ['{"x": 1}', "[]", "[1]", "7", '["x"]', '[{"ev": "status"}]', "null"])
def test_an_answer_that_is_no_list_of_statuses_is_told_in_words(answer: str) -> None:
    """What the client stumbles over, in either of the two places where it looks, says nothing to a reader."""
    client = WebSocketClient("key", feed="ws.example", market="stocks")
    parsed = msgspec.json.decode(answer)
    with pytest.raises((LookupError, TypeError, AttributeError)) as stumbled:  # noqa: PT012
        client._log_server_statuses(parsed)
        _ = parsed[0]["status"]
    outcome = of_answer(stumbled.value)
    assert (outcome.reason, outcome.then) == ("protocol", Next.RETRY)
    assert outcome.detail.endswith("not understood: no list of status events")


def test_other_errors_of_a_connection_are_told_as_those_of_dialling() -> None:
    """A connection that was reset, say."""
    error = ConnectionResetError(104, "Connection reset by peer")
    assert of_answer(error) == of_error(error)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "http_401"), (403, "http_403"), (503, "http_503"), (418, "http_status")]
)
def test_http_status_is_told_and_labels_stay_bounded(status: int, reason: str) -> None:
    """An odd status shares a label; the detail has the number."""
    outcome = of_error(InvalidStatus(Response(status, "no", Headers())))
    assert outcome.reason == reason
    assert str(status) in outcome.detail
    assert outcome.then is Next.RETRY


def test_refused_key_gives_up_and_says_what_to_check() -> None:
    """Two kinds: a wrong key, and a plan without the feed."""
    wrong = of_error(AuthError("authentication failed"))
    plan = of_error(AuthError("Your plan doesn't include websocket access."))
    assert wrong.then is plan.then is Next.GIVE_UP
    assert "check massive.api_key" in wrong.detail
    assert "check massive.api_key" not in plan.detail
    assert "plan" in plan.detail


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, "closed_1000"), (1008, "closed_1008"), (4999, "closed_other"), (None, "aborted")],
)
def test_close_code_is_a_label_out_of_a_bounded_set(code: int | None, reason: str) -> None:
    """A peer cannot invent labels without end."""
    assert of_close(code, "").reason == reason


def test_status_events_that_end_a_connection() -> None:
    """The others end nothing."""
    assert {
        status: outcome.then
        for status in ("max_connections", "auth_failed", "auth_timeout", "slow_consumer", "force_disconnect")
        if (outcome := of_status(status, "text")) is not None
    } == {
        "max_connections": Next.COOL_DOWN,
        "auth_failed": Next.GIVE_UP,
        "auth_timeout": Next.RETRY,
        "slow_consumer": Next.RETRY,
        "force_disconnect": Next.RETRY,
    }
    assert of_status("success", "subscribed to: T.*") is None
    assert of_status("error", "not authorized") is None


def test_text_of_peers_is_masked_and_kept_on_one_short_line() -> None:
    """It goes to logs and terminals."""
    assert one_line("a\nb\x1b[31mc\x00  d") == "a b [31mc d"
    assert one_line("key abc123 here", ("abc123", "")) == "key ******** here"
    assert len(one_line("x" * 10_000)) == 200
    assert one_line(None) == "None"


@pytest.mark.parametrize("frame", ["", "{}", "[1]", "not json", b"\xff\xfe", '[{"ev":"status","status":5}]'])
def test_frames_that_are_not_understood_hold_no_status(frame: str | bytes) -> None:
    """They are the decoder's business."""
    assert statuses_of(frame) == []


def test_statuses_are_found_between_other_events() -> None:
    """A frame may hold events of any types."""
    frame = '[{"ev":"T","sym":"A","p":1},{"ev":"status","status":"max_connections","message":"m"}]'
    assert [status.status for status in statuses_of(frame)] == ["max_connections"]


def test_a_close_that_names_a_status_is_that_status() -> None:
    """The status may have been lost with the connection. A close alone says of no key that it is wrong."""
    refused = of_close(1008, "max_connections")
    assert (refused.reason, refused.then) == ("max_connections", Next.COOL_DOWN)
    assert of_close(1008, "slow_consumer").reason == "slow_consumer"
    assert of_close(1008, "auth_failed").reason == "closed_1008"
    assert of_close(1000, "max_connections").reason == "closed_1000"
