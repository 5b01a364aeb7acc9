"""Each contender of the benchmarks runs; how fast is for `make bench` to say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PEERS = BENCHMARKS / ".venv-peers" / "bin" / "python"
SHORT = ("--epochs", "1", "--limit_batches", "3")
SHORT_FIT = ("--", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3")


def run(python: str, script: str, *args: str, **environ: str) -> dict[str, float]:
    command = [python, str(BENCHMARKS / script), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("bare_loop.py", SHORT),
        ("dataloader_idiom.py", SHORT),
        ("dataloader_idiom.py", (*SHORT, "--batched")),
        ("lit.py", SHORT_FIT),
    ],
    ids=["bare-loop", "dataloader-idiom", "batched-dataloader", "lit-mnist"],
)
def test_a_contender_runs_for_a_few_batches(script, args, mnist_dir):
    result = run(sys.executable, script, *args, LIT_MNIST_DATA_DIR=str(mnist_dir))
    assert result.keys() == {"fit_seconds", "val_loss", "test_accuracy"}


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_peer_runs_for_a_few_batches(backend, mnist_dir, tmp_path, monkeypatch):
    if not PEERS.exists():
        pytest.skip("needs the peers' environment, which make bench sets up")
    monkeypatch.setenv("LIT_MNIST_DATA_DIR", str(mnist_dir))
    monkeypatch.syspath_prepend(BENCHMARKS)
    from bench import save_data

    save_data(tmp_path / "mnist.npz")
    result = run(str(PEERS), "keras_peer.py", str(tmp_path / "mnist.npz"), *SHORT, KERAS_BACKEND=backend)
    assert result.keys() == {"fit_seconds", "val_loss", "test_accuracy"}
