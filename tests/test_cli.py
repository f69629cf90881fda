"""The command line: help, refusals with exit code 2, and what is handed to the application."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mdp import __version__
from mdp.cli import main
from mdp.config import MASK, Config
from mdp.config_load import KEYS
from mdp.demo import DemoOptions

SECRET = "s3cret-S3CRET"


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and none of our variables."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MDP_") or name in ("MASSIVE_API_KEY", "POLYGON_API_KEY"):
            monkeypatch.delenv(name)


class FakeApp(types.ModuleType):
    """Stands where the application is and notes what it is asked to run."""

    def __init__(self, name: str = "mdp.app") -> None:
        super().__init__(name)
        self.calls: list[tuple[Config, list[str], Any]] = []
        self.code = 0

    def run(self, config: Config, roles: list[str], demo: Any) -> int:
        """Run nothing."""
        self.calls.append((config, roles, demo))
        return self.code


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    """The application's place, taken."""
    fake = FakeApp()
    monkeypatch.setitem(sys.modules, "mdp.app", fake)
    monkeypatch.setattr("mdp.app", fake, raising=False)
    monkeypatch.setattr("mdp.observability.logging.configure", lambda *args: None)
    return fake


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    """The place of whatever runs roles over Redis, taken."""
    fake = FakeApp("mdp.roles.assembly")
    monkeypatch.setitem(sys.modules, "mdp.roles.assembly", fake)
    monkeypatch.setattr("mdp.roles.assembly", fake, raising=False)
    monkeypatch.setattr("mdp.observability.logging.configure", lambda *args: None)
    return fake


def mdp(*arguments: str, environ: dict[str, str] | None = None) -> Result:
    """One call of the command."""
    return CliRunner().invoke(main, list(arguments), env=environ or {}, prog_name="mdp")


def commands() -> Sequence[str]:
    """Every command there is."""
    return sorted(main.commands)


def test_without_arguments_the_help_is_shown() -> None:
    """It starts with what to try first, and that is no error."""
    result = mdp()
    assert result.exit_code == 0
    assert "mdp run --role all --demo" in result.output
    for command in commands():
        assert command in result.output


def test_every_command_has_help_with_an_example() -> None:
    """Each shows how it is called."""
    for command in commands():
        result = mdp(command, "--help")
        assert result.exit_code == 0, command
        assert f"  mdp {command}" in result.output.split("Examples:")[1], command
    assert "  mdp bench ingest" in mdp("bench", "ingest", "--help").output.split("Examples:")[1]


def test_the_version_is_shown() -> None:
    """For bug reports."""
    assert __version__ in mdp("--version").output


def test_a_wrong_option_says_what_was_meant() -> None:
    """Settings' options are suggested, too, the hidden ones included."""
    result = mdp("run", "--massive-feeed", "x")
    assert result.exit_code == 2
    assert "--massive-feed" in result.output


def test_help_starts_no_heavy_imports() -> None:
    """`mdp --help` answers at once: what a command needs is imported by it alone."""
    code = (
        "import sys\nfrom mdp.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'aiohttp', 'massive', 'rich', 'structlog', 'websockets', 'prometheus_client'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.rstrip().endswith("loaded: []")


# --- run ---


def test_a_demo_needs_no_key(app: FakeApp) -> None:
    """`mdp run --role all --demo` hands the defaults and the demo's options on."""
    assert mdp("run", "--role", "all", "--demo").exit_code == 0
    [(config, roles, demo)] = app.calls
    assert (config, roles) == (Config(), ["all"])
    assert isinstance(demo, DemoOptions)


def test_the_real_market_needs_a_key(app: FakeApp) -> None:
    """Without one: one line, exit code 2, nothing started."""
    result = mdp("run", "--role", "all")
    assert result.exit_code == 2
    assert re.fullmatch(r"Error: environment: massive\.api_key: found nothing; allowed: .*\n", result.output)
    assert app.calls == []

    assert mdp("run", environ={"MASSIVE_API_KEY": "k"}).exit_code == 0
    [(config, roles, demo)] = app.calls
    assert (config.massive.api_key, roles, demo) == ("k", ["all"], None)


def test_every_setting_that_is_no_secret_is_an_option(app: FakeApp) -> None:
    """Flags win over environment and file; booleans and lists are written as in the environment."""
    Path("my.toml").write_text("[wds]\nport = 1\n[scp]\nport = 2\n[admin]\nport = 3\n")
    arguments = ["--config", "my.toml", "--wds-port", "0", "--massive-secure", "false"]
    arguments += ["--massive-subscriptions", '["T.*"]', "--wds-tick-ms", "7.5"]
    result = mdp("run", "--demo", *arguments, environ={"MDP_WDS_PORT": "20", "MDP_SCP_PORT": "30"})
    assert result.exit_code == 0, result.output
    config = app.calls[0][0]
    assert (config.wds.port, config.scp.port, config.admin.port) == (0, 30, 3)
    assert config.massive.secure is False
    assert config.massive.subscriptions == ["T.*"]
    assert config.wds.tick_ms == 7.5
    options = {option for parameter in main.commands["run"].params for option in parameter.opts}
    assert len(options & {"--massive-api-key", "--wds-api-keys", "--admin-token"}) == 0
    assert (
        len([option for option in options if option[2:].split("-")[0] in {k.split(".")[0] for k in KEYS}])
        >= 40
    )


@pytest.mark.parametrize(
    ("role", "roles"),
    [("wds", ["wds"]), ("wds, scp", ["wds", "scp"]), ("scanner,scp,scanner", ["scanner", "scp"])],
)
def test_roles_that_do_not_meet_the_provider_need_no_key(split: FakeApp, role: str, roles: list[str]) -> None:
    """They run over Redis, in one process where several are named, each once."""
    assert mdp("run", "--role", role).exit_code == 0
    assert [call[1:] for call in split.calls] == [(roles, None)]


@pytest.mark.parametrize("role", ["listener", "processor,wds"])
def test_roles_that_meet_the_provider_need_its_key(split: FakeApp, role: str) -> None:
    """Stream and REST endpoints want one."""
    assert "massive.api_key: found nothing" in mdp("run", "--role", role).output
    assert split.calls == []
    assert mdp("run", "--role", role, environ={"MASSIVE_API_KEY": "k"}).exit_code == 0
    assert split.calls[0][1] == role.split(",")


def test_all_roles_meet_in_redis_where_the_queues_are_there(app: FakeApp, split: FakeApp) -> None:
    """`mdq.backend` decides for `--role all`; in memory by default."""
    environ = {"MASSIVE_API_KEY": "k"}
    assert mdp("run", environ=environ).exit_code == 0
    assert (len(app.calls), len(split.calls)) == (1, 0)
    result = mdp("run", "--mdq-backend", "redis", "--cache-backend", "redis", environ=environ)
    assert result.exit_code == 0, result.output
    assert (len(app.calls), len(split.calls)) == (1, 1)
    assert split.calls[0][1] == ["all"]


@pytest.mark.parametrize("role", ["al", "", "everything", "all,", "wsd"])
def test_an_unknown_role_is_refused(app: FakeApp, role: str) -> None:
    """What is allowed is named."""
    result = mdp("run", "--demo", "--role", role)
    assert result.exit_code == 2
    assert "allowed: all, or some of listener, processor, scanner, wds, scp" in result.output
    assert ("did you mean all?" in result.output) == (role == "al")
    assert ("did you mean wds?" in result.output) == (role == "wsd")
    assert app.calls == []


def test_all_is_every_role(app: FakeApp) -> None:
    """Beside others it is a misunderstanding, said in one line."""
    result = mdp("run", "--role", "all,processor")
    assert result.exit_code == 2
    assert result.output == 'Error: --role: found "all,processor"; allowed: all alone, it is every role\n'
    assert app.calls == []


def test_a_demo_is_one_process(split: FakeApp) -> None:
    """Each split role would start a market of its own."""
    result = mdp("run", "--demo", "--role", "wds,scp")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert split.calls == []


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--demo", "--massive-feed", "127.0.0.1:9"], "--massive-feed"),
        (["--demo", "--massive-rest-url", "http://127.0.0.1:9"], "--massive-rest-url"),
        (["--demo", "--workers", "3"], "--processor-workers"),
        (["--demo", "--partitions", "0-7"], "--processor-partitions"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(app: FakeApp, arguments: list[str], flag: str) -> None:
    """Who gives it expects something; the same in the environment is for other processes."""
    result = mdp("run", *arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith(f"Error: {flag}: found ")
    assert app.calls == []
    environ = {"MDP_MASSIVE_FEED": "127.0.0.1:9", "MDP_PROCESSOR_WORKERS": "3"}
    assert mdp("run", "--demo", environ=environ).exit_code == 0


def test_the_exit_code_is_the_applications(app: FakeApp) -> None:
    """A failure while running is a failure of the command."""
    app.code = 3
    assert mdp("run", "--demo").exit_code == 3


@pytest.mark.parametrize("command", ["run --demo", "config", "config --check", "get quote:A"])
def test_a_wrong_configuration_is_one_line_and_exit_code_2(app: FakeApp, command: str) -> None:
    """Whichever command reads it."""
    Path("config.toml").write_text("[wds]\nport = 70000\n")
    result = mdp(*command.split())
    assert result.exit_code == 2
    assert result.output == (
        "Error: config.toml:2: wds.port: found 70000 (a whole number); "
        "allowed: a port from 0 to 65535 (0 picks a free one)\n"
    )
    assert app.calls == []


def test_a_refusal_goes_to_standard_error() -> None:
    """Standard output stays clean for pipes."""
    result = mdp("config", "--check", environ={"MDP_WDS_PORT": "x"})
    assert result.stdout == ""
    assert "MDP_WDS_PORT" in result.stderr


# --- config ---


@pytest.mark.parametrize("key", ["analyzers", "scanners"])
def test_config_check_finds_parts_that_do_not_load(key: str) -> None:
    """A name that `mdp run` would refuse is refused here, too, with the names that there are."""
    result = mdp("config", "--check", environ={f"MDP_PROCESSOR_{key.upper()}": '["no_such_part"]'})
    assert result.exit_code == 2
    assert result.output.startswith(f'Error: processor.{key}: found "no_such_part"; allowed: ')
    assert result.output.count("\n") == 1


def test_config_check_says_ok() -> None:
    """And nothing else."""
    result = mdp("config", "--check")
    assert (result.exit_code, result.output) == (0, "configuration ok\n")


def test_config_prints_toml_with_sources_that_can_be_read_back() -> None:
    """In a pipe it is a configuration file; every value names its source."""
    environ = {"MDP_WDS_PORT": "5", "MDP_CACHE_SNAPSHOT_PATH": 'va"r/é', "MDP_PROCESSOR_SCANNERS": "[]"}
    result = mdp("config", "--scp-port", "6", environ=environ)
    assert result.exit_code == 0
    parsed = tomllib.loads(result.output)
    assert parsed["wds"]["port"] == 5
    assert parsed["cache"]["snapshot_path"] == 'va"r/é'
    assert [f"{section}.{key}" for section, keys in parsed.items() for key in keys] == list(KEYS)
    assert "port = 5  # MDP_WDS_PORT\n" in result.output
    assert "port = 6  # --scp-port\n" in result.output
    assert 'level = "info"  # default\n' in result.output


def test_config_masks_secrets() -> None:
    """Keys, tokens and passwords are shown as set, never as they are."""
    result = mdp(
        "config",
        environ={
            "MASSIVE_API_KEY": SECRET,
            "MDP_WDS_API_KEYS": f'["{SECRET}-1", "{SECRET}-2"]',
            "MDP_ADMIN_TOKEN": SECRET,
            "MDP_CACHE_URL": f"redis://:{SECRET}@127.0.0.1/0",
        },
    )
    assert result.exit_code == 0
    assert SECRET not in result.output
    assert f'api_key = "{MASK}"  # MASSIVE_API_KEY' in result.output
    assert f'api_keys = ["{MASK}", "{MASK}"]  # MDP_WDS_API_KEYS' in result.output


def test_config_warns_of_ignored_variables() -> None:
    """On standard error, so that the output stays TOML."""
    result = mdp("config", environ={"MDP_WDS_PORT": "tcp://10.0.0.1:4202"})
    assert "MDP_WDS_PORT is ignored" in result.stderr
    assert "tcp://" not in result.stdout


# --- bench ---


def test_bench_hands_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults are the measurement's own, and its exit code is the command's."""
    from mdp.bench import ingest
    from mdp.bench.options import IngestOptions

    seen: list[IngestOptions] = []

    def measure(options: IngestOptions) -> int:
        seen.append(options)
        return 1

    monkeypatch.setattr(ingest, "main", measure)
    monkeypatch.setattr("mdp.observability.logging.configure", lambda *args: None)
    assert mdp("bench", "ingest").exit_code == 1
    changed = "--mode open --rate 1.5x --mix aggregates --compare-symbols 9 --compare-symbols 8 --json x.json"
    assert mdp("bench", "ingest", *changed.split()).exit_code == 1
    assert seen == [
        IngestOptions(),
        IngestOptions(mode="open", rate="1.5x", mix="aggregates", compare_symbols=[9, 8], json="x.json"),
    ]
    options = {parameter.name for parameter in main.commands["bench"].commands["ingest"].params}  # type: ignore[attr-defined]
    assert options - {"json_path"} == set(IngestOptions.__struct_fields__) - {"json"}


# --- clients and simulator: what is refused before anything is opened ---


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["watch"], "Missing argument 'FEED...'"),
        (["watch", "quote:A", "--url", "http://x"], "--url: found"),
        (["watch", *[f"quote:A{n}" for n in range(51)]], "at most 50"),
        (["get", "quote:A", "--limit", "0"], "--limit"),
        (["record", "day.gz"], "ends with .frames.gz"),
        (["record", ".frames.gz"], "ends with .frames.gz"),
        (["simulate", "--speed", "0"], "speed must be"),
        (["simulate", "--fault", "gremlins"], "unknown fault 'gremlins'"),
        (["simulate", "--port", "70000"], "port must be"),
        (["simulate", "--replay", "missing.frames.gz"], "missing.frames.gz"),
        (["bench", "nothing"], "No such command"),
        (["bench", "ingest", "--mix", "trades"], "'all', 'aggregates'"),
        (["bench", "ingest", "--json", "missing/x.json"], "a folder that exists"),
        (["bench", "ingest", "--rate", "fast"], "rate must be events per second"),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], part: str) -> None:
    """Exit code 2 and the reason."""
    result = mdp(*arguments)
    assert result.exit_code == 2, result.output
    assert part in result.output


@pytest.mark.parametrize(("command", "key"), [("get quote:A", "wds"), ("record a.frames.gz", "admin")])
def test_a_port_that_is_not_known_must_be_given(command: str, key: str) -> None:
    """Port 0 in the configuration says nothing about where a running process listens."""
    result = mdp(*command.split(), environ={f"MDP_{key.upper()}_PORT": "0"})
    assert result.exit_code == 2
    assert f"{key}.port is 0" in result.output
    assert "--url" in result.output


@pytest.mark.parametrize(
    "command", ["get quote:A --url ws://127.0.0.1:{}/ws", "record a.frames.gz --url http://127.0.0.1:{}"]
)
def test_nobody_listening_is_exit_code_1_and_one_line(command: str, unused_tcp_port: int) -> None:
    """The address is named; no traceback."""
    result = mdp(*command.format(unused_tcp_port).split())
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: cannot ")
    assert str(unused_tcp_port) in last
    assert "running there?" in last
