"""What the admin API sees of a real application, without its HTTP."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mdp.admin.controls import UnknownSymbolError
from mdp.analyzers.rows import quote_of
from mdp.app import App
from mdp.controls import AppControls

from .app_support import SECRET, config_for, eventually, platform
from .simulator.support import serve


async def test_what_can_be_read_before_the_start_is_plain_json_without_secrets() -> None:
    """An operator may look at any time; nothing raises, nothing leaks."""
    app = App(config_for(1), ["all"])
    controls = AppControls(app)
    for read in (controls.status, controls.gaps, controls.queues, controls.analyzers):
        assert SECRET.encode() not in msgspec.json.encode(read())
    assert controls.status()["recording"] is None
    assert controls.gaps() == []
    await app.stop()


async def test_analyzers_are_shown_with_what_failed() -> None:
    """Name, failures, lost events, and whether it still runs."""
    app = App(config_for(1), ["all"])
    guard = next(guard for guard in app.engine.guards if guard.name == "top_trades")
    guard.failures, guard.lost_events, guard.disabled = 7, 70, True

    shown = {one["name"]: one for one in AppControls(app).analyzers()}

    assert set(shown) >= set(app.config.processor.analyzers)
    assert (shown["top_trades"]["failures"], shown["top_trades"]["lost_events"]) == (7, 70)
    assert shown["top_trades"]["enabled"] is False
    assert shown["raw_feeds"]["enabled"] is True
    await app.stop()


async def test_stopping_a_recording_that_does_not_run_is_refused() -> None:
    """With a word why, as every input that cannot be followed."""
    app = App(config_for(1), ["all"])
    with pytest.raises(ValueError, match="no recording"):
        await AppControls(app).record_stop()
    await app.stop()


async def test_a_recording_to_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The running feed is not touched."""
    app = App(config_for(1), ["all"])
    controls = AppControls(app)
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    for path in (obstacle, obstacle / "below", tmp_path / "absent" / "x.frames.gz"):
        with pytest.raises(ValueError, match=r".") as caught:
            await controls.record_start(str(path))
        assert "\n" not in str(caught.value)
    assert app.listener.recorder is None
    assert obstacle.read_text() == "in the way"
    await app.stop()


async def test_a_second_recording_is_possible_once_the_first_ended(tmp_path: Path) -> None:
    """One at a time; the status shows it while it runs, and not afterwards."""
    async with serve() as simulator, platform(simulator) as app:
        controls = AppControls(app)
        for name in ("one", "two"):
            await controls.record_start(str(tmp_path / name))
            with pytest.raises(ValueError, match="already"):
                await controls.record_start(str(tmp_path / "three"))
            await eventually(
                lambda: bool(app.listener.recorder and app.listener.recorder.counters.written > 3)
            )
            shown = controls.status()["recording"]
            assert shown["path"] == str(tmp_path / name)
            assert shown["dropped"] == 0
            assert not shown["error"]
            await controls.record_stop()
            assert controls.status()["recording"] is None
        assert not (tmp_path / "three").exists()


async def test_a_wrong_setting_changes_nothing() -> None:
    """All or nothing: a good subscription beside a bad feed is not taken over."""
    async with serve() as simulator, platform(simulator) as app:
        controls = AppControls(app)
        await eventually(lambda: app.processed_events() > 100)
        before = controls.status()["feed"]
        with pytest.raises(ValueError, match=r"massive\."):
            await controls.feed_configure("nonsense", None, ["T.AAPL"])
        after = controls.status()["feed"]
        assert (after["feed"], after["state"]) == (before["feed"], "live")
        assert after["subscriptions"] == before["subscriptions"]


async def test_a_recording_that_runs_is_complete_when_the_application_stops(tmp_path: Path) -> None:
    """Ctrl-C while recording: the file is closed properly, so that it replays."""
    import gzip

    path = tmp_path / "day.frames.gz"
    async with serve() as simulator:
        async with platform(simulator) as app:
            await AppControls(app).record_start(str(path))
            await eventually(lambda: app.processed_events() > 500)
        recorder = app.listener.recorder
        frames = app.ring.counters.frames

    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert 0 < len(lines) <= frames
    assert recorder is None or not recorder.active


async def test_a_symbol_is_explained_with_reference_values_and_trust() -> None:
    """Of a running platform: each number with its source; plain JSON; nothing secret."""
    async with serve() as simulator, platform(simulator) as app:
        controls = AppControls(app)
        with pytest.raises(UnknownSymbolError, match="NOPE"):
            await controls.explain("NOPE")

        def whole() -> bool:
            rows = app.reference.rows
            return app.reference.complete and any(
                state.bar is not None and name in rows for name, state in app.market.symbols.items()
            )

        await eventually(whole)
        symbol = next(
            name
            for name, state in app.market.symbols.items()
            if state.bar is not None and name in app.reference.rows
        )
        answer = await controls.explain(symbol)
        packed = msgspec.json.encode(answer)
        quote = quote_of(app.market, symbol)
        with pytest.raises(UnknownSymbolError, match=f"'{symbol}' is known"):
            await controls.explain(symbol.lower())

    assert SECRET.encode() not in packed
    assert quote is not None
    assert answer["fields"].keys() == {*quote.__struct_fields__}
    assert answer["bar"]["symbol"] == symbol
    told = answer["fields"]["prev_day_close"]
    assert told["source"].startswith("REST ")
    assert told["fetched_at"] == answer["reference"]["sources"]["sessions"]["fetched_at"] is not None
    assert answer["reference"]["trading_day"] == answer["trading_day"]
    assert told["value"] == answer["reference"]["values"]["prev_day_close"] > 0
    assert answer["trust"]["stale"] is answer["fields"]["stale"]["value"]
    assert answer["trust"]["feed_state"] == "live"
    assert answer["trust"]["pending"] == list(answer["fields"]["pending"]["value"])


async def test_before_an_event_came_nothing_can_be_explained() -> None:
    """It says where to look."""
    app = App(config_for(1), ["all"])
    with pytest.raises(UnknownSymbolError, match="no event has come yet"):
        await AppControls(app).explain("AAPL")
    await app.stop()
