"""Finding parts by short name or `package.module:Class`, and what is said when there is none."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mdp.analyzers.base import Analyzer
from mdp.analyzers.enriched_quote import EnrichedQuote
from mdp.analyzers.raw_feeds import RawFeeds
from mdp.plugins import PluginError, load
from mdp.scanner.base import Scanner
from mdp.scanner.market_breadth import MarketBreadth


def test_short_names_are_entry_points() -> None:
    """Those that the package itself publishes."""
    assert load("mdp.analyzers", "enriched_quote", Analyzer) is EnrichedQuote
    assert load("mdp.analyzers", "raw_feeds", Analyzer) is RawFeeds
    assert load("mdp.scanners", "market_breadth", Scanner) is MarketBreadth


def test_every_published_name_loads() -> None:
    """No entry point of ours leads nowhere."""
    for group, base in (("mdp.analyzers", Analyzer), ("mdp.scanners", Scanner), ("mdp.listeners", object)):
        points = entry_points(group=group)
        assert points
        for point in points:
            assert load(group, point.name, base).__name__ == point.value.split(":")[1]


def test_a_module_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:Class` from the working directory, without a package."""
    (tmp_path / "my_own_mdp_analyzer.py").write_text(
        "from mdp.analyzers.base import Analyzer\nclass Mine(Analyzer):\n    name = 'mine'\n"
    )
    monkeypatch.chdir(tmp_path)
    found = load("mdp.analyzers", "my_own_mdp_analyzer:Mine", Analyzer)
    assert issubclass(found, Analyzer)
    assert found.name == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such", ["no_such", "enriched_quote", "top_trades", "package.module:Class"]),
        ("", ["allowed"]),
        ("no.such.module:Mine", ["no.such.module:Mine", "No module named"]),
        ("mdp.analyzers.base:NoSuch", ["NoSuch", "no attribute"]),
        ("mdp.analyzers.base:", ["cannot load"]),
        (":Analyzer", ["cannot load"]),
        ("..base:Analyzer", ["cannot load"]),
        ("mdp.scanner.base:Scanner", ["is no mdp.analyzers.base:Analyzer"]),
        ("mdp.feeds:AGG", ["is no mdp.analyzers.base:Analyzer"]),
        ("json:dumps", ["is no mdp.analyzers.base:Analyzer"]),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name: str, words: list[str]) -> None:
    """Which group, which name, why, and what there is."""
    with pytest.raises(PluginError) as caught:
        load("mdp.analyzers", name, Analyzer)
    text = str(caught.value)
    assert text.startswith("mdp.analyzers: ")
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("class Mine(:\n    pass\n", "SyntaxError"),
        ("import no_such_library_at_all\n", "no_such_library_at_all"),
        ("raise RuntimeError('two\\nlines')\n", "two lines"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("Mine = undefined\n", "undefined"),
    ],
)
def test_a_users_module_may_raise_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, word: str
) -> None:
    """It is the user's one line all the same, not our traceback."""
    module = f"broken_mdp_module_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        load("mdp.analyzers", f"{module}:Mine", Analyzer)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
