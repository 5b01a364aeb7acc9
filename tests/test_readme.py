import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
SHORT = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]


def run(command: list[str], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_every_command_of_the_program_in_the_readme_works_in_the_order_given(tmp_path, mnist_dir):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = [command for command in COMMANDS if command.startswith("python -m lit_mnist")]
    assert len(commands) >= 10
    for command in commands:
        words = [sys.executable, *shlex.split(command)[1:]]
        if "fit" in words:
            epochs = [] if "--ckpt_path" in words else ["--trainer.max_epochs", "1"]
            words += SHORT + epochs
        result = run(words, tmp_path, LIT_MNIST_DATA_DIR=str(mnist_dir))
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(COMMANDS), re.MULTILINE))
def test_every_make_target_in_the_readme_exists(target):
    assert run(["make", "--dry-run", target], ROOT).returncode == 0


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
