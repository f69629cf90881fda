"""One run: the real application in this process, the feeder and its clients in another."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mdp.app import App, StartError
from mdp.bench import accounting, control
from mdp.bench.accounting import Check
from mdp.bench.bare import BareSlice, measure_bare
from mdp.bench.figures import middle, ratio
from mdp.bench.frames import FrameOptions, FrameSource
from mdp.bench.options import IngestOptions
from mdp.bench.process import (
    BenchError,
    FeederProcess,
    LagProbe,
    Machine,
    peak_rss_mb,
    rss_mb,
    run_delay_seconds,
)
from mdp.bench.result import Result, Segment
from mdp.config import Config, LogConfig
from mdp.observability.logging import configure

_CREDIT_SECONDS = 0.005
_SEGMENT_SECONDS = 3.0
_RAMP_SECONDS = 0.3  # of each segment, not measured: the window fills
_SAMPLE_EVENTS = 40_000  # of the frames decoded bare: 5 MB, as little in the CPU's cache as live frames
_STILL_SECONDS = 3.0  # without progress, after which nothing more is expected
_READY_SECONDS = 30.0
_TICK_SECONDS = 0.2  # ten ticks of the WDS: what is due to clients has arrived


async def run(options: IngestOptions) -> Result:
    """Measure once, as the options say.

    Raises:
        BenchError: Something did not come up, or the feeder failed.
    """
    configure(LogConfig(level="error"))
    with tempfile.TemporaryDirectory(prefix="mdp-bench-") as folder:
        return await _Run(options, Path(folder)).measure()


def configuration(ready: control.Ready, folder: Path) -> Config:
    """The application's defaults, pointed at the feeder, on free ports, keeping its files in a folder."""
    config = Config()
    config.massive.feed = f"127.0.0.1:{ready.ws_port}"
    config.massive.rest_url = f"http://127.0.0.1:{ready.rest_port}"
    config.massive.secure = False
    config.massive.api_key = "bench"
    config.cache.snapshot_path = str(folder / "mdp.snapshot")
    config.cache.history_path = str(folder / "history")
    for section in (config.wds, config.scp, config.metrics, config.admin):
        section.port = 0
    return config


class _Reading(NamedTuple):
    """Where the platform stands at a moment."""

    events: float
    wall: float
    cpu: float
    delay: float

    def since(self, earlier: _Reading) -> _Reading:
        """The differences."""
        return _Reading(*(now - then for now, then in zip(self, earlier, strict=True)))


class _Run:
    def __init__(self, options: IngestOptions, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._frames = FrameOptions(
            seed=options.seed,
            symbols=options.symbols,
            zipf=options.zipf,
            events_per_frame=options.events_per_frame,
            mix=options.mix,
        )
        self._probe = LagProbe()
        self._bare: list[BareSlice] = []
        self._result = Result(
            machine=Machine.here(),
            mode=options.mode,
            mix=options.mix,
            symbols=options.symbols,
            events_per_frame=options.events_per_frame,
        )
        self._app: App
        self._feeder: FeederProcess
        self._window = 0

    async def measure(self) -> Result:
        options, result = self._options, self._result
        sample = self._sample()
        self._feeder = await FeederProcess.start(
            control.FeederOptions(frames=self._frames, rest=options.rest)
        )
        try:
            ready = self._feeder.ready
            self._window = self._window_events(ready.mean_frame_bytes)
            self._probe.start()
            self._app = await self._started(configuration(ready, self._folder), warm=options.rest == "well")
            crediting = asyncio.create_task(self._credit())
            try:
                await self._phases(sample)
            finally:
                crediting.cancel()
                self._probe.hold()
                await self._app.stop()
        finally:
            await self._feeder.stop()
        # The kernel brings the peak up to date now and then only, so it may be a little behind.
        result.rss_peak_mb = max(peak_rss_mb(), result.rss_filled_mb, result.rss_end_mb)
        result.bare_rate = middle([piece.rate for piece in self._bare])
        result.open_seconds = options.seconds if options.mode == "open" else 0.0
        return result

    @staticmethod
    async def _started(config: Config, *, warm: bool) -> App:
        """The application; with its reference values, where it will get any."""
        try:
            app = App(config, ["all"])
            await app.start()
        except StartError as exc:
            raise BenchError(f"the application did not start: {exc}") from None
        deadline = time.monotonic() + _READY_SECONDS
        while warm and not app.reference.ready:
            if time.monotonic() > deadline:
                raise BenchError("the application did not get its reference values")
            await asyncio.sleep(0.05)
        return app

    async def _phases(self, sample: list[bytes]) -> None:
        options, result, feeder = self._options, self._result, self._feeder
        app_port = self._app.wds.port
        await feeder.ask(control.Connect(app_port, options.clients, options.quotes))
        result.rss_start_mb = rss_mb()
        report = await feeder.ask(control.Fill(options.full_windows, self._window), 300)
        await self._drained(report.sent.events)
        result.fill_events = report.sent.events
        result.rss_filled_mb = rss_mb()
        multiple = options.multiple
        if options.mode == "closed" or multiple:
            await self._closed(sample, options.seconds if not multiple else 9.0)
        if options.mode == "open":
            result.rss_normal_mb = peak_rss_mb()
            await self._open(sample, multiple * result.rate if multiple else options.events_per_second)
        report = await feeder.ask(control.Ask())
        await self._drained(report.sent.events)
        await asyncio.sleep(_TICK_SECONDS)
        report = await feeder.ask(control.Ask())
        self._conclude(report)

    async def _closed(self, sample: list[bytes], seconds: float) -> None:
        """Segments of closed loop, bare decoding between them."""
        feeder, result = self._feeder, self._result
        feeder.tell(control.Closed(self._window))
        await asyncio.sleep(self._options.warmup)
        await self._paused()
        before = await self._slice(sample)
        self._probe.restart()
        total = _Reading(0, 0.0, 0.0, 0.0)
        feeding = -(await feeder.ask(control.Ask())).cpu_seconds
        began = time.perf_counter()
        idle = 0.0
        for _ in range(max(round(seconds / _SEGMENT_SECONDS), 1)):
            feeder.tell(control.Closed(self._window))
            await asyncio.sleep(_RAMP_SECONDS)
            started = self._reading()
            await asyncio.sleep(min(seconds, _SEGMENT_SECONDS))
            done = self._reading().since(started)
            await self._paused()
            paused = time.perf_counter()
            after = await self._slice(sample)
            idle += time.perf_counter() - paused
            segment = Segment(
                events=int(done.events),
                wall_seconds=done.wall,
                cpu_seconds=done.cpu,
                bare_rate=(before.rate + after.rate) / 2,
                bare_cpu_rate=(before.cpu_rate + after.cpu_rate) / 2,
            )
            result.segments.append(segment)
            total = _Reading(*(a + b for a, b in zip(total, done, strict=True)))
            before = after
        feeding += (await feeder.ask(control.Ask())).cpu_seconds
        result.feeder_busy = ratio(feeding, time.perf_counter() - began - idle)
        result.busy = ratio(total.cpu, total.wall)
        result.crowded = ratio(total.delay, total.wall)
        result.cpu_us_per_event = ratio(total.cpu, total.events) * 1e6
        result.cpu_in_bare = middle(
            [ratio(s.cpu_seconds, s.events) * s.bare_cpu_rate for s in result.segments]
        )
        result.lag_ms = self._probe.quantiles()

    async def _open(self, sample: list[bytes], rate: float) -> None:
        """Frames at a fixed rate; a warm-up at the same rate first, unless it is an overload."""
        options, feeder, result = self._options, self._feeder, self._result
        if not options.multiple and options.warmup:
            report = await feeder.ask(control.Open(rate, options.warmup), options.warmup + 30)
            await self._drained(report.sent.events)
        before = await self._slice(sample)
        await asyncio.sleep(0.2)
        self._probe.restart()
        feeding = (await feeder.ask(control.Ask())).cpu_seconds
        started = self._reading()
        report = await feeder.ask(control.Open(rate, options.seconds), options.seconds + 60)
        done = self._reading().since(started)
        result.feeder_busy = ratio(report.cpu_seconds - feeding, done.wall)
        result.busy = ratio(done.cpu, done.wall)
        result.crowded = ratio(done.delay, done.wall)
        result.lag_ms = self._probe.quantiles()
        result.sender_lateness_ms = report.lateness
        result.open_rate = rate
        result.open_processed_rate = ratio(done.events, done.wall)
        await self._drained(report.sent.events)
        await asyncio.sleep(_TICK_SECONDS)  # decoding bare blocks the loop: what is due to clients goes first
        after = await self._slice(sample)
        cpu = ratio(done.cpu, done.events)
        result.cpu_us_per_event = cpu * 1e6
        result.cpu_in_bare = cpu * (before.cpu_rate + after.cpu_rate) / 2

    def _conclude(self, report: control.Report) -> None:
        result, app = self._result, self._app
        result.clients = report.clients
        result.sent = report.sent
        result.connections = report.connections
        result.cut = report.cut
        result.sender_most_waiting_bytes = report.most_waiting_bytes
        result.sender_longest_wait_ms = report.longest_wait_ms
        result.accounting = self._accounting()
        result.checks = accounting.checks(result.accounting, report.sent)
        guards = {guard.name: guard.failures for guard in app.engine.guards}
        result.checks += [Check(f"failures of the analyzer {name}", n, 0) for name, n in guards.items()]
        result.longest_lag_ms = self._probe.longest_ms
        result.longest_work_ms = self._probe.longest_work_ms
        result.longest_stage, seconds = app.steps.longest()
        result.longest_step_ms = seconds * 1000
        result.rss_end_mb = rss_mb()

    def _sample(self) -> list[bytes]:
        """Frames as the feeder sends them; this source is thrown away before the platform starts."""
        source = FrameSource(self._frames, pool_events=_SAMPLE_EVENTS)
        count = max(_SAMPLE_EVENTS // self._frames.events_per_frame, 1)
        base = control.FeederOptions().base_ms
        return [source.next(base + number).data for number in range(count)]

    async def _slice(self, sample: list[bytes]) -> BareSlice:
        """Decode bare. It blocks the loop, so neither the bench's probe nor the platform's counts that."""
        self._probe.hold()
        await self._app.loop_lag.stop()
        piece = measure_bare(sample)
        self._bare.append(piece)
        await self._app.loop_lag.start()
        self._probe.start()
        return piece

    def _reading(self) -> _Reading:
        return _Reading(
            self._app.processed_events(), time.perf_counter(), time.process_time(), run_delay_seconds()
        )

    def _accounting(self) -> accounting.Accounting:
        return accounting.read(self._app.accounting())

    def _window_events(self, mean_frame_bytes: int) -> int:
        per_event = mean_frame_bytes / self._frames.events_per_frame
        return int(self._options.credit_bytes / per_event)

    async def _credit(self) -> None:
        """Tell the feeder how far the platform is; what was lost counts too, lest the window stays shut."""
        last, waited = -1, 0
        # Each word wakes the feeder, often on our own core: a quarter of the window at a time is enough.
        step = max(1, self._window // 4)
        while True:
            processed = self._app.processed_events()
            if processed - last >= step or (processed != last and waited >= 10):
                last, waited = processed, 0
                self._feeder.tell(control.Credit(processed))
            else:
                waited += 1
                if waited % 40 == 0:
                    self._feeder.tell(control.Credit(self._accounting().settled))
            await asyncio.sleep(_CREDIT_SECONDS)

    async def _paused(self) -> None:
        report = await self._feeder.ask(control.Pause())
        await self._drained(report.sent.events)

    async def _drained(self, sent: int) -> None:
        """Wait until the platform is through with everything sent, or nothing moves any more."""
        settled, moved = -1, time.monotonic()
        while (now := self._accounting().settled) < sent:
            if now != settled:
                settled, moved = now, time.monotonic()
            elif time.monotonic() - moved > _STILL_SECONDS:
                return  # the accounting will show what is missing
            await asyncio.sleep(0.02)
