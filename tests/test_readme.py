import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lit_mnist import MNISTDataModule

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
SHORT = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]


def run(command: list[str], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def shortened(words: list[str]) -> list[str]:
    """A command that does the same to less data."""
    if "fit" in words and "--model.network.help" not in words:
        return words + SHORT + ([] if "--ckpt_path" in words else ["--trainer.max_epochs", "1"])
    return [*words, "--seeds", "2", "--runs", "mlp"] if "reproduce" in words else words


def serve(words: list[str], cwd: Path, **environ: str) -> None:
    """Run a command that serves until it is interrupted, up to the line that says that it is ready."""
    with subprocess.Popen(words, cwd=cwd, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)


@pytest.mark.slow
def test_every_command_of_the_program_in_the_readme_works_in_the_order_given(tmp_path, mnist_dir):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "scans").mkdir()
    environ = {"LIT_MNIST_DATA_DIR": str(mnist_dir)}
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    for name, image in zip(("photo.jpg", "scans/1.png", "scans/2.png"), data.images("test")[0], strict=False):
        Image.fromarray(image.numpy()).save(tmp_path / name)
    commands = [command for command in COMMANDS if command.startswith("python -m lit_mnist")]
    assert len(commands) >= 10
    for command in commands:
        words = [sys.executable, *shlex.split(command)[1:]]
        if "demo" in words:
            serve([*words, "--port", "0"], tmp_path, **environ)
            continue
        result = run(shortened(words), tmp_path, **environ)
        assert result.returncode == 0, f"{command}\n{result.stderr}"


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(COMMANDS), re.MULTILINE))
def test_every_make_target_in_the_readme_exists(target):
    assert run(["make", "--dry-run", target], ROOT).returncode == 0


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
