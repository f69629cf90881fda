"""Several processes of one role on one machine: started together, kept running, ended together.

The parent does nothing else, so that nothing of the workers' work can take it down with them. Each worker is
an ordinary process of the role: Redis sees no difference to replicas on other machines.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from types import FrameType

import msgspec
import structlog

from mdp.config import Config, secrets_of

log = structlog.get_logger(__name__)

PORT_STEP = 10  # between the ports of one worker and the next
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 30.0
_STABLE_SECONDS = 60.0  # who lived so long is started again at once
_STOP_SECONDS = 5.0  # from SIGTERM to SIGKILL
_LOOK_SECONDS = 0.1
_REFUSED = 2  # exit code of a process whose settings are wrong: starting it again changes nothing


def config_of(config: Config, number: int) -> Config:
    """The settings of one worker: its servers listen on ports of their own (0, any free one, stays)."""

    def moved(port: int) -> int:
        return port + PORT_STEP * number if port else 0

    replace = msgspec.structs.replace
    return replace(
        config,
        processor=replace(config.processor, workers=1),
        metrics=replace(config.metrics, port=moved(config.metrics.port)),
        admin=replace(config.admin, port=moved(config.admin.port)),
    )


class _Worker:
    def __init__(self, number: int) -> None:
        self.number = number
        self.process: BaseProcess | None = None
        self.started = 0.0
        self.pause = _BACKOFF_SECONDS
        self.due = 0.0  # when it is to be started, monotonic


class Workers:
    """The parent. Synchronous: `run` returns when all have ended.

    Args:
        config: Its `processor.workers` says how many.
        roles: What each of them does.
    """

    def __init__(self, config: Config, roles: list[str]) -> None:
        self._config, self._roles = config, roles
        # Not forked: a worker begins with nothing of ours.
        self._context = multiprocessing.get_context("spawn")
        self._workers = [_Worker(number) for number in range(config.processor.workers)]
        self._stopping = 0
        self._code = 0
        self.restarts = 0

    def run(self) -> int:
        """Run until a signal; returns the exit code: 0, or that of a worker whose settings are wrong."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, self._signal)
        while not self._stopping:
            for worker in self._workers:
                self._look(worker)
            time.sleep(_LOOK_SECONDS)
        self._stop()
        return self._code

    def _signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping += 1

    def _look(self, worker: _Worker) -> None:
        process, now = worker.process, time.monotonic()
        if process is not None and not process.is_alive():
            code = process.exitcode
            worker.process = None
            if code == _REFUSED:
                self._stopping, self._code = 1, _REFUSED
                return
            if now - worker.started >= _STABLE_SECONDS:
                worker.pause = _BACKOFF_SECONDS
            worker.due, worker.pause = now + worker.pause, min(2 * worker.pause, _MAX_BACKOFF_SECONDS)
            self.restarts += 1
            log.error(
                "worker_ended",
                worker=worker.number,
                exit_code=code,
                again_in_ms=int((worker.due - now) * 1e3),
            )
        if worker.process is None and now >= worker.due:
            worker.process = self._context.Process(
                target=work,
                args=(config_of(self._config, worker.number), self._roles),
                name=f"worker-{worker.number}",
            )
            worker.process.start()
            worker.started = now
            log.info("worker_started", worker=worker.number, process=worker.process.pid)

    def _stop(self) -> None:
        """End all together; a second signal, or 5 s, ends them at once."""
        signals = self._stopping
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < until and self._stopping == signals:
            if not any(process.is_alive() for process in running):
                break
            time.sleep(_LOOK_SECONDS / 2)
        for process in running:
            if process.is_alive():
                process.kill()
            process.join(1)


def work(config: Config, roles: list[str]) -> None:
    """What a worker does: the role, until it is told to end or its parent is gone. Ends the process."""
    from mdp.observability.logging import configure
    from mdp.roles import assembly

    os.setpgrp()  # Ctrl-C of the terminal goes to the parent, which tells us once
    configure(config.log, secrets_of(config))
    threading.Thread(target=_follow_parent, daemon=True, name="follow-parent").start()
    os._exit(assembly.run(config, roles, None))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def run(config: Config, roles: list[str]) -> int:
    """Run `processor.workers` processes of a role.

    Returns:
        The exit code.
    """
    if roles != ["processor"]:
        log.error("not_started", reason="processor.workers: more than 1 is for --role processor alone")
        return _REFUSED
    return Workers(config, roles).run()
