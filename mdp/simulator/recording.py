"""Recordings: gzip, one frame a line, `<arrival epoch in ns>TAB<frame as on the wire>`."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .faults import MALFORMED

_CHUNK_BYTES = 1 << 18  # decompressed at a time: some milliseconds of work
_find_topics = re.compile(rb'"ev":\s*"([^"\\]*)"').findall


class _Key(msgspec.Struct):
    ev: str
    sym: str = ""
    T: str = ""


_decode_frame = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_key = msgspec.json.Decoder(_Key).decode


class Line(msgspec.Struct, frozen=True):
    """One recorded frame."""

    arrival_ns: int  # since the epoch
    payload: bytes


class RecordingError(ValueError):
    """A recording cannot be read; the text names the file and the line."""


def read_chunks(path: Path) -> Iterator[list[Line]]:
    """The frames of a recording in order, some at a time. Status messages are left out.

    Raises:
        RecordingError: The file is missing, no gzip, cut off, or a line has no arrival time.
    """
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while lines := file.readlines(_CHUNK_BYTES):
                chunk = []
                for line in lines:
                    number += 1
                    arrival, tab, payload = line.rstrip(b"\r\n").partition(b"\t")
                    if not tab or not arrival.isdigit():
                        raise RecordingError(f"{path}, line {number}: expected '<arrival ns>TAB<frame>'")
                    if b'"status"' in payload:
                        payload = _without_status(payload)
                    if payload:
                        chunk.append(Line(int(arrival), payload))
                yield chunk
    except (OSError, EOFError) as error:
        where = f" after line {number}" if number else ""
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise RecordingError(f"{path}: cannot be read as a recording{where}: {reason}") from error


def first_arrival_ns(path: Path) -> int:
    """Arrival of the first frame, ns since the epoch.

    Raises:
        RecordingError: The file cannot be read, or holds no frame.
    """
    for chunk in read_chunks(path):
        if chunk:
            return chunk[0].arrival_ns
    raise RecordingError(f"{path}: holds no frame")


def count_events(payload: bytes) -> Counter[str]:
    """Events of a frame by `ev`, found by their text: cheap, and right for all that machines write."""
    return Counter(topic.decode("utf-8", "replace") for topic in _find_topics(payload))


def split_events(payload: bytes) -> list[tuple[str, str, str]]:
    """Topic, symbol and text of each event of a frame.

    What has no topic is called malformed, and so is a whole frame that is no JSON array.
    """
    try:
        raws = _decode_frame(payload)
    except msgspec.MsgspecError:
        return [(MALFORMED, "", payload.decode("utf-8", "replace"))]
    events = []
    for raw in raws:
        text = bytes(raw).decode("utf-8", "replace")
        try:
            key = _decode_key(raw)
            events.append((key.ev, key.sym or key.T, text))
        except msgspec.MsgspecError:
            events.append((MALFORMED, "", text))
    return events


def _without_status(payload: bytes) -> bytes:
    """The frame without status events (those of the recorded connection); empty where none is left."""
    kept = [text for topic, _, text in split_events(payload) if topic != "status"]
    return f"[{','.join(kept)}]".encode() if kept else b""
