"""What a writer and the publisher count is on the page of metrics."""

from __future__ import annotations

from mdp.feeds import HALT, HALTS, SCANNER
from mdp.observability.metrics import Metrics
from mdp.observability.writer import show_publisher, show_writer
from tests.cache.writer_rig import Rig
from tests.processor.test_publisher import Place
from tests.redis_server import RedisServer


def shown(metrics: Metrics) -> dict[str, float]:
    """Each sample's name with labels, and its value."""
    lines = metrics.render().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


async def test_a_writer_counts_over_all_its_outputs(redis_server: RedisServer) -> None:
    """Also those that are gone: a partition that was handed over takes nothing off the totals."""
    rig, metrics = Rig(redis_server), Metrics()
    show_writer(rig.writer, metrics)
    for epoch in (1, 2):
        output = rig.partition(epoch=epoch)
        output.publish(HALT, "AAPL", 1)
        output.publish(SCANNER, "mine", 1)
        output.push(HALTS, "", 1)
        output.push(HALTS, "", object())
        if epoch == 1:
            await rig.turn()
    found = shown(metrics)
    assert found['mdp_writer_written_total{kind="event"}'] == 2
    assert found['mdp_writer_written_total{kind="value"}'] == 1
    assert found['mdp_writer_lost_total{reason="unencodable"}'] == 2
    assert found['mdp_writer_lost_total{reason="unmergeable"}'] == 2
    assert found["mdp_writer_waiting_events"] == 1
    rig.partition(epoch=1)
    rig.writer.outputs["partition:0"].publish(HALT, "AAPL", 1)
    rig.partition(1, epoch=1).publish(HALT, "BBB", 1)
    other = Rig(redis_server)
    other.partition(epoch=9).publish(HALT, "AAPL", 1)
    await other.turn()
    await rig.turn()
    assert shown(metrics)["mdp_writer_refused_total"] == 1
    await rig.close()
    await other.close()


async def test_who_publishes_is_told(redis_server: RedisServer) -> None:
    """One process of all that run."""
    place, metrics = Place(redis_server, epoch=0), Metrics()
    show_publisher(place.publisher, metrics)
    assert shown(metrics)["mdp_publisher_active"] == 0
    place.lease.gain(1)
    await place.rig.client.hset("mdp:parts:{scanners:top_volume}", "partition:0", b"\xc1")
    await place.round()
    found = shown(metrics)
    assert found["mdp_publisher_active"] == 1
    assert found['mdp_publisher_refused_parts_total{reason="broken"}'] == 1
    await place.rig.close()
