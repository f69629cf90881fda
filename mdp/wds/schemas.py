"""JSON Schemas of what clients and service say, made from the tables that the code itself uses.

Shared by the documents of both interfaces: `openapi` and `asyncapi`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mdp.feeds import EVENT, FAMILIES, Family
from mdp.wds.views import RELATIONS

Json = dict[str, Any]

_SYMBOL = "[A-Za-z0-9./:\\-]{1,32}"  # as in mdp.feeds
_NAME = "[A-Za-z0-9_\\-]{1,64}"
RELATION = "(" + "|".join(re.escape(relation) for relation in RELATIONS) + ")"


def feed_pattern(families: Iterable[Family] = FAMILIES) -> str:
    """A regular expression for the names of feeds."""
    return "^(" + "|".join(_name_of(family) for family in families) + ")$"


def subscription_pattern() -> str:
    """The same for what may be subscribed: feeds, and wildcards for whole segments."""
    return "^(" + "|".join(_wildcard_of(family) for family in FAMILIES) + ")$"


def event_pattern() -> str:
    """The same for event feeds, by name."""
    return feed_pattern(family for family in FAMILIES if family.kind == EVENT)


def _hole(family: Family) -> str:
    return {"": "", "symbol": _SYMBOL, "name": _NAME}[family.hole]


def _name_of(family: Family) -> str:
    return re.escape(family.prefix) + _hole(family) + re.escape(family.suffix)


def _wildcard_of(family: Family) -> str:
    return ":".join(
        f"(\\*|{_hole(family) if part.startswith('{') else re.escape(part)})"
        for part in family.name.split(":")
    )


def problem(codes: Iterable[str], **more: Json) -> Json:
    """A refusal with a code."""
    return {
        "type": "object",
        "required": ["status", "code", "message"],
        "additionalProperties": False,
        "properties": {
            "status": {"const": "error"},
            "code": {"type": "string", "enum": sorted(codes)},
            "message": {"type": "string"},
            **more,
        },
    }


def envelope(kind: str, **more: Json) -> Json:
    """A message of version 2, or the answer to a question."""
    return {
        "type": "object",
        "required": ["feed", "epoch", "seq", "ts", "kind", "data"],
        "additionalProperties": False,
        "properties": {
            "feed": {"type": "string"},
            "epoch": {"type": "integer", "description": "A publisher's life."},
            "seq": {"type": "integer", "description": "Place on the feed that the value includes."},
            "ts": {
                "type": "integer",
                "description": "Of its publication or answer, ms since the Unix epoch, UTC.",
            },
            "kind": {"const": kind},
            "data": {"description": "As docs/feeds.md says for the feed; null where there is none."},
            **more,
        },
    }
