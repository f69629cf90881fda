"""How a role's results get into Redis: a writer, and the interest that it heeds."""

from __future__ import annotations

from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import Link
from mdp.cache.redis_writer import RedisWriter
from mdp.roles.parts import Shared


def writer_of(shared: Shared, role: str) -> tuple[InterestWatch, RedisWriter]:
    """Both stages, under names that begin with the role's; the first is started first, stopped last."""
    config, keys, widget = shared.config.cache, shared.keys, shared.widget_redis.client

    def link(part: str) -> Link:
        return Link(f"{role}_{part}", config)

    interest = InterestWatch(widget, keys, link("interest"))
    interest.name = f"{role}_interest"
    writer = RedisWriter(
        shared.redis.client,
        widget,
        keys,
        interest,
        link=link("writer"),
        parts_link=link("parts"),
        plain_keys=config.plain_keys,
        plain_channels=config.plain_channels,
    )
    writer.name = f"{role}_writer"
    return interest, writer
