"""Fixtures of this package."""

from __future__ import annotations

from tests.redis_fixtures import client, hearer, publisher, rig

__all__ = ["client", "hearer", "publisher", "rig"]
