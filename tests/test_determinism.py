"""The same seed gives the same bits."""

from pathlib import Path

import yaml
from reliability import DIGITS, RUN, assert_fitted, assert_same_run, ended, fit, rows, shell


def test_the_same_seed_gives_the_same_bits_and_stands_in_the_run_folder(tmp_path: Path) -> None:
    options = (*DIGITS, "--trainer.max_epochs", 3)
    folders = [tmp_path / name for name in ("one", "two")]
    for process, folder in [(shell(folder, *options), folder) for folder in folders]:
        assert_fitted(folder, ended(process.wait(120), folder))
    assert_same_run(*(folder / RUN for folder in folders))
    seed = yaml.safe_load((folders[0] / RUN / "config.yaml").read_text())["seed_everything"]
    assert seed == 0

    named = fit(tmp_path / "named", *options, "--seed_everything", seed)
    assert_same_run(named, folders[0] / RUN)
    other = fit(tmp_path / "other", *options, "--seed_everything", 1)
    assert rows(other) != rows(named)
