"""Fixtures of this package."""

from __future__ import annotations

from tests.redis_fixtures import client, publisher

__all__ = ["client", "publisher"]
