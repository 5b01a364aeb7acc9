"""Each contender of the benchmarks runs; how fast is for `make bench` to say."""

import json
import os
import re
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


@pytest.fixture(scope="module")
def data(mnist_dir, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_MNIST_DATA_DIR", str(mnist_dir))
        patch.syspath_prepend(BENCHMARKS)
        from bench import save_data

        path = tmp_path_factory.mktemp("data") / "mnist.npz"
        save_data(path)
    return path


@pytest.mark.parametrize(
    ("script", "args"),
    [("dataloader_idiom.py", SHORT), ("dataloader_idiom.py", (*SHORT, "--batched")), ("lit.py", SHORT_FIT)],
    ids=["dataloader-idiom", "batched-dataloader", "lit-mnist"],
)
def test_a_contender_runs_for_a_few_batches(script, args, mnist_dir):
    result = run(sys.executable, script, *args, LIT_MNIST_DATA_DIR=str(mnist_dir))
    assert result.keys() == {"fit_seconds", "val_loss", "test_accuracy"}


def test_the_bare_loop_runs_for_a_few_batches_and_imports_neither_lightning_nor_ours(data):
    result = run(sys.executable, "bare_loop.py", str(data), *SHORT)
    assert result.keys() == {"fit_seconds", "val_loss", "test_accuracy"}
    assert not {"lightning", "lit_mnist"} & set(
        re.findall(r"^(?:from|import) (\w+)", (BENCHMARKS / "bare_loop.py").read_text(), re.M)
    )


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_peer_runs_for_a_few_batches(backend, data):
    if not PEERS.exists():
        pytest.skip("needs the peers' environment, which make bench sets up")
    result = run(str(PEERS), "keras_peer.py", str(data), *SHORT, KERAS_BACKEND=backend)
    assert result.keys() == {"fit_seconds", "val_loss", "test_accuracy"}
