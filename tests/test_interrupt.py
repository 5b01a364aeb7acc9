"""Ctrl-C while the program is still being imported."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from reliability import ended, wait_for

ROOT = Path(__file__).parents[1]
MODULE, FUNCTION = re.findall(r'^lit-mnist = "(.+):(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
WAYS_IN = {
    "module": ["-m", "lit_mnist"],
    "script": ["-c", f"import sys; from {MODULE} import {FUNCTION}; sys.exit({FUNCTION}())"],  # as pip writes it
}


@pytest.mark.parametrize("way_in", WAYS_IN)
@pytest.mark.parametrize("imported", ["torch.types", "lightning.fabric.utilities.types", "lit_mnist.runs.history"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_the_program_without_a_traceback(
    way_in: str, imported: str, number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-X", "importtime", *WAYS_IN[way_in], "fit", "--data.dataset", "digits"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=out, stderr=err)
    wait_for(lambda: f"| {imported}\n" in (tmp_path / "err").read_text().replace(" ", "").replace("|", "| "))
    process.send_signal(number)
    done = ended(process.wait(60), tmp_path)
    assert done.status == 128 + number
    assert "Traceback" not in done.err
    assert "lit_mnist.program" not in done.err
    assert not (tmp_path / "lightning_logs").exists()
