"""What is of a newer version is counted, and said once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mdp.cache.schemas import Refused


@given(st.lists(st.integers(min_value=3, max_value=9), min_size=1))
def test_each_rise_is_said_once_and_everything_counted(versions: list[int]) -> None:
    """However many come, of however many versions."""
    refused = Refused("reference values", reads=2)
    with capture_logs() as logs:
        for version in versions:
            refused.note(version)

    assert refused.count == len(versions)
    highest = [max(versions[: number + 1]) for number in range(len(versions))]
    assert len(logs) == len(set(highest))
    assert f"reference values of version {max(versions)}; this process reads up to 2" in refused.reason
    assert "upgrade" in logs[-1]["reason"]
