"""The whole chain with TLS, as a user with few rights under a prefix, and through a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdp.cache.keys import Keys
from mdp.feeds import FAMILIES
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.setups.chain import BOARD, chained
from tests.setups.servers import Certificates, One, Several

PREFIX = "mdp-test:"
PASSWORD = "correct-horse"


def rights() -> list[str]:
    """Of the user in docs/redis.md, word for word; its password is ours."""
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
    given = "ACL SETUSER mdp "
    lines = [line.removeprefix(given) for line in text.splitlines() if line.startswith(given)]
    return ["mdp", *" ".join(lines).replace(">password", f">{PASSWORD}").split()]


def test_the_documented_user_may_hear_every_wildcard() -> None:
    """Redis compares a pattern with those of a user by the letter: each family of symbols is named."""
    families = [family for family in FAMILIES if family.hole and not family.max_items]
    wanted = {f"&{PREFIX}{Keys().bus('')}{family.feed('*')}" for family in families}
    assert wanted - set(rights()) == set()


def over_tls(folder: Path) -> Several:
    """One server that asks for TLS, with a certificate of an authority of our own."""
    made = Certificates(folder)
    port = free_port()
    server = RedisServer(folder, *made.options(port))
    return One(server, MDP_CACHE_URL=f"rediss://127.0.0.1:{port}/0", MDP_CACHE_TLS_CA=str(made.authority))


def limited(folder: Path) -> Several:
    """One server with the user of docs/redis.md, who sees one prefix; everybody else may do nothing."""
    server = RedisServer(folder, "--user", *rights(), password="of-the-test")
    return One(
        server,
        MDP_CACHE_URL=f"redis://mdp:{PASSWORD}@127.0.0.1:{{port}}/0",
        MDP_CACHE_KEY_PREFIX=PREFIX,
    )


def socketed(folder: Path) -> Several:
    """One server on a socket, and another database than the first."""
    path = folder / "r.sock"
    server = RedisServer(folder, "--unixsocket", str(path))
    return One(server, MDP_CACHE_URL=f"unix://{path}?db=3")


@pytest.mark.slow
@pytest.mark.parametrize("made", [over_tls, limited, socketed])
async def test_the_chain_runs(made: object, tmp_path: Path) -> None:
    """Boards, quotes, alerts and all of a family reach a client; nothing that must not happen does."""
    redis = made(tmp_path)  # type: ignore[operator]
    async with chained(tmp_path, redis, ("listener-a", "processor-a", "scanner-a", "wds-a")) as chain:
        assert None not in (await chain.wildcard()).values()
        await chain.flowing()
        assert chain.recorder.judge.places[BOARD] > (0, 0)
        assert not chain.recorder.judge.faults, chain.recorder.judge.details
        for role in chain.roles.values():
            text = role.log.read_text()
            assert [line for line in text.splitlines() if '"level": "error"' in line] == []
            assert PASSWORD not in text
        if made is limited:
            with redis.servers[0].client() as client:
                assert {key[: len(PREFIX)] for key in client.scan_iter()} == {PREFIX.encode()}
