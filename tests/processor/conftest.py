"""Fixtures of this package."""

from __future__ import annotations

from tests.redis_fixtures import hearer, rig

__all__ = ["hearer", "rig"]
