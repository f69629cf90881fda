"""The short names of endpoints."""

from __future__ import annotations

import pytest

from mdp.cache.paths import endpoint_of


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/aggs/grouped/locale/us/market/stocks/2026-03-10", "grouped"),
        ("/v2/aggs/ticker/A/range/1/day/2026-01-01/2026-02-01", "bars"),
        ("/v2/snapshot/locale/us/markets/stocks/tickers", "snapshot"),
        ("/v3/reference/tickers/BRK%2FA", "details"),
        ("/v3/reference/conditions", "conditions"),
        ("/stocks/v1/short-interest", "short_interest"),
        ("/stocks/v1/short-volume", "short_volume"),
        ("/anything/else", "other"),
    ],
)
def test_each_path_has_one_name_and_symbols_have_none(path: str, name: str) -> None:
    """A metric's label comes from a dozen words, whatever is asked for."""
    assert endpoint_of(path) == name
