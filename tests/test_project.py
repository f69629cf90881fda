"""The frame around the code: what is packaged, set up, checked and promised."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import mdp
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.cli import main
from mdp.config import Config
from mdp.config_load import VARIABLES
from mdp.events import Trade
from mdp.processor.results import Results
from mdp.queues.base import Batch

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def sources() -> list[Path]:
    """Every module of the package."""
    return sorted((ROOT / "mdp").rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a module's file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# --- packaging ---


def test_the_version_is_the_same_everywhere() -> None:
    """Package, metadata, and the newest entry of the changelog."""
    assert PROJECT["project"]["version"] == mdp.__version__
    newest = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[1] == mdp.__version__


def test_the_license_is_mit_and_shipped() -> None:
    """In the metadata, as a file, and named there."""
    assert PROJECT["project"]["license"] == "MIT"
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).read_text(encoding="utf-8").startswith("MIT License")


def requirements() -> list[Requirement]:
    """Everything pyproject.toml asks for, the extras included."""
    listed = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        listed += extra
    return [Requirement(text) for text in listed]


def pins() -> dict[str, Version]:
    """constraints.txt: name -> version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): Version(version) for name, version in pairs}


def test_every_dependency_has_a_lower_bound_and_a_pin_that_fits() -> None:
    """What is promised to work is what is tested, and mdp itself is not pinned."""
    known = pins()
    for requirement in requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">="}, requirement
        assert known[requirement.name.lower()] in requirement.specifier, requirement
    assert "mdp" not in known


def test_what_is_installed_is_what_is_pinned() -> None:
    """A transitive dependency without a pin would make two machines differ."""
    from importlib import metadata

    known = pins()
    for requirement in requirements():
        for text in metadata.requires(requirement.name) or []:
            inner = Requirement(text)
            if inner.marker is None or inner.marker.evaluate({"extra": ""}):
                assert inner.name.lower().replace("_", "-") in known, f"{inner} of {requirement.name}"


def test_only_listed_packages_are_imported() -> None:
    """No dependency is there by luck, because another one needs it."""
    names = {"prometheus-client": "prometheus_client"}
    listed = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    allowed = (
        {names.get(name, name) for name in listed} | {"mdp", "yarl", "multidict"} | sys.stdlib_module_names
    )
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported = [node.module]
            for name in imported:
                assert name.partition(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def entry_points() -> list[tuple[str, str]]:
    """Group and target of every entry point, commands included."""
    groups = dict(PROJECT["project"]["entry-points"]) | {"scripts": PROJECT["project"]["scripts"]}
    return [(group, target) for group, entries in groups.items() for target in entries.values()]


@pytest.mark.parametrize(("group", "target"), entry_points())
def test_every_entry_point_leads_to_something(group: str, target: str) -> None:
    """A name in the configuration's defaults that cannot be loaded would stop the first start."""
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_default_analyzers_and_scanners_are_entry_points() -> None:
    """The defaults name what the package brings."""
    points = PROJECT["project"]["entry-points"]
    assert set(Config().processor.analyzers) <= set(points["mdp.analyzers"])
    assert set(Config().processor.scanners) <= set(points["mdp.scanners"])


def test_pages_are_packaged() -> None:
    """The folder of pages is listed, each level of it, so that an installed mdp shows them."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["mdp"]
    listed = {path for pattern in patterns for path in (ROOT / "mdp").glob(pattern)}
    for path in (ROOT / "mdp").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert path in listed, f"{path.relative_to(ROOT)} is in no pattern of package-data"


# --- direction of dependencies ---


def test_dependencies_point_one_way() -> None:
    """All contracts of import-linter hold."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_part_is_under_a_contract() -> None:
    """A new top-level part is placed before it grows dependencies."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    named = {
        module
        for contract in contracts
        for key in ("source_modules", "forbidden_modules")
        for module in contract[key]
    }
    parts = {module_of(path).split(".")[1] for path in sources() if module_of(path) != "mdp"}
    missing = {f"mdp.{part}" for part in parts} - {".".join(module.split(".")[:2]) for module in named}
    assert not missing


# --- set-up and checks ---


def make(*arguments: str) -> str:
    """What make would do, without doing it."""
    # The flags of a make that runs these tests are not meant for this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_make_run_sets_up_and_starts_the_demo() -> None:
    """One word on a fresh machine: environment, pinned installation, start."""
    commands = make("run", "VENV=fresh")
    order = ["-m venv", "pip install", "-c constraints.txt -e .", "fresh/bin/mdp run --role all --demo"]
    places = [commands.index(part) for part in order]
    assert places == sorted(places)


def test_make_test_installs_the_extras_and_leaves_out_slow_tests() -> None:
    """test-all runs them; both in several processes, or in as many as one asks for."""
    commands = make("test", "VENV=fresh", "WORKERS=3")
    assert "'.[dev]'" in commands
    assert re.search(r'fresh/bin/python -m pytest -n 3 .*-m "not slow"', commands)
    everything = make("test-all", "VENV=fresh", "WORKERS=0", "ARGS=tests/wds")
    assert re.search(r"fresh/bin/python -m pytest -n 0 .* tests/wds\n", everything)
    assert "not slow" not in everything


def test_make_lint_runs_every_check() -> None:
    """Style, format, types, direction of dependencies."""
    commands = make("lint", "VENV=fresh")
    for part in ("ruff check", "ruff format --check", "mypy --strict", "lint-imports"):
        assert f"fresh/bin/{part}" in commands


def test_an_interpreter_that_was_asked_for_is_used() -> None:
    """PYTHON=... wins over the search."""
    assert f'python="{sys.executable}"' in make("run", "VENV=fresh", f"PYTHON={sys.executable}")


def test_ci_is_executable_strict_and_requires_the_data_where_it_is() -> None:
    """bash accepts it, any failure fails it, and both lint and tests count."""
    path = ROOT / ".ci" / "run"
    text = path.read_text(encoding="utf-8")
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert text.splitlines()[0] == "#!/usr/bin/env bash"
    for part in ("set -euo pipefail", "export MDPTEST_REQUIRE_DATA=1", "make lint", "make test"):
        assert part in text


@pytest.mark.parametrize(("lint", "tests", "code"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (124, 0, 1)])
def test_ci_fails_if_lint_or_tests_fail(tmp_path: Path, lint: int, tests: int, code: int) -> None:
    """Both always run, so that one round shows everything; the tests run last."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_text((ROOT / ".ci" / "run").read_text(encoding="utf-8"), encoding="utf-8")
    fake = tmp_path / "bin" / "make"
    fake.parent.mkdir()
    fake.write_text(
        f"#!/bin/sh\necho make $1 data=$MDPTEST_REQUIRE_DATA\n[ $1 = lint ] && exit {lint}\nexit {tests}\n"
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(script)], env=environ, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["make lint data=", "make test data="]
    assert (done.returncode, lines[2].split()[0].rstrip(":")) == (code, "failed" if code else "passed")


# --- the image ---


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: keyword and the rest, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    """What becomes the image."""
    listed = instructions()
    start = max(number for number, (keyword, _) in enumerate(listed) if keyword == "FROM")
    return listed[start:]


def test_the_image_is_built_in_stages_from_pinned_versions() -> None:
    """The tools of the build stay behind."""
    listed = instructions()
    assert sum(keyword == "FROM" for keyword, _ in listed) == 2
    install = [rest for keyword, rest in listed if keyword == "RUN" and "pip install" in rest]
    assert len(install) == 1
    assert "-c constraints.txt" in install[0]
    assert ("COPY", "--from=build /opt/mdp /opt/mdp") in last_stage()
    assert not any("pip install" in rest for _, rest in last_stage())


def test_the_image_runs_as_a_user_of_its_own() -> None:
    """USER comes after everything that needs root and before what runs."""
    keywords = [keyword for keyword, _ in last_stage()]
    user = dict(last_stage())["USER"]
    assert user not in ("root", "0")
    assert keywords.index("USER") > max(n for n, keyword in enumerate(keywords) if keyword == "RUN")
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")


def test_the_image_stops_on_sigterm_and_runs_the_platform() -> None:
    """In exec form, so that the signal reaches the process."""
    image = dict(last_stage())
    assert image["STOPSIGNAL"] == "SIGTERM"
    assert ast.literal_eval(image["ENTRYPOINT"]) == ["mdp"]
    assert ast.literal_eval(image["CMD"]) == ["run", "--role", "all"]


def test_the_image_knows_its_health() -> None:
    """The check asks /healthz of the metrics port, by what the image has, and is valid Python."""
    check = dict(last_stage())["HEALTHCHECK"]
    command = ast.literal_eval(check[check.index("CMD") + 4 :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/healthz" in command[2]
    assert str(Config().metrics.port) in command[2]


def test_the_image_names_ports_and_settings_that_exist() -> None:
    """EXPOSE is the defaults' ports; every MDP_ variable is a setting."""
    image = last_stage()
    config = Config()
    ports = {config.wds.port, config.scp.port, config.metrics.port, config.admin.port}
    assert {int(port) for port in dict(image)["EXPOSE"].split()} == ports
    variables = re.findall(r"\bMDP_[A-Z_]+", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert variables
    assert set(variables) <= set(VARIABLES)


def test_the_build_sees_only_what_it_needs() -> None:
    """Everything is left out but what the Dockerfile copies; no data, no environment, no history."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied: set[str] = set()
    for keyword, rest in instructions():
        if keyword == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
    assert allowed == copied


# --- what is written down ---


def test_no_file_names_this_machine() -> None:
    """What works only here is no use elsewhere."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    home = "/".join(("", "work", ""))  # not spelled out, or this file would be found
    for name in done.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".png", ".gz", ".woff2") or not path.is_file():
            continue
        assert home not in path.read_text(encoding="utf-8", errors="replace"), name


def readme_commands() -> list[list[str]]:
    """Every call of mdp in the README's consoles, as words, without variables and comments."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words.pop(0)
            if words and words[0].endswith("mdp"):
                found.append(words[1:])
    return found


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_every_command_of_the_readme_is_one(words: list[str]) -> None:
    """Commands and options that the README shows exist."""
    command = main.commands[words[0]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= options


def test_the_readme_names_settings_and_targets_that_exist() -> None:
    """Variables, make targets and files."""
    for variable in re.findall(r"\bMDP_[A-Z]+_[A-Z_]+\b", README):
        assert variable in VARIABLES or variable.endswith("_SERVICE_HOST"), variable
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", README):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_readmes_analyzer_works() -> None:
    """Given trades, it publishes each symbol's largest, largest first, and forgets them with the day."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (source,) = [block for block in blocks if "Analyzer" in block]
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    bus = MemoryBus()
    cache = MemoryCache(bus)
    results = Results(bus, cache)
    analyzer = namespace["BigPrints"](Market(), results)
    trades = [Trade(symbol=symbol, price=1.0, size=size, timestamp=0) for symbol, size in
              (("A", 100), ("B", 700), ("A", 300), ("B", 200))]  # fmt: skip
    seen: list[Any] = []
    bus.subscribe("scanners:big_prints", lambda message: seen.append(message.value))

    analyzer.process(Batch(trades, 0))
    analyzer.flush()
    results.commit()
    analyzer.on_day(None)
    analyzer.flush()
    results.commit()

    assert seen == [[{"symbol": "B", "size": 700}, {"symbol": "A", "size": 300}], []]
