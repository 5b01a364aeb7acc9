"""A fit survives being killed at any moment; `make soak` repeats this more often."""

from pathlib import Path

import pytest
from kills import kill_until


@pytest.mark.slow
def test_whenever_a_fit_is_killed_its_files_are_whole_and_it_resumes_as_if_it_never_was(tmp_path: Path) -> None:
    count = kill_until(8, seed=1, folder=tmp_path)
    assert count.failures() == []
    assert count.kills == 8
    assert count.at_checkpoint >= 2
    assert count.fits >= 1
