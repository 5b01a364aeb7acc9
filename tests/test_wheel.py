"""The package that people install: a wheel and an sdist, and the program in an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import ROOT

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.checkpoint import PRETRAINED, read_checkpoint
from lit_mnist.data import rescale


def files_of_the_repository() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("needs the files that git knows")
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of the files that git knows."""
    source = tmp_path_factory.mktemp("source")
    for name in files_of_the_repository():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools import build_meta; print(build_meta.build_{}('dist'))"
    for kind in ("sdist", "wheel"):
        done = subprocess.run([sys.executable, "-c", code.format(kind)], cwd=source, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    return source / "dist"


def test_the_wheel_holds_the_package_whole_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {name.removeprefix("src/") for name in files_of_the_repository() if name.startswith("src/")}
    assert names == source | {f"lit_mnist/{name}" for name in files_of_the_repository() if name.startswith("configs/")}
    assert {"lit_mnist/py.typed", "lit_mnist/pretrained.ckpt", "lit_mnist/use/demo/page.js"} <= names


def test_the_sdist_can_be_tested(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in files_of_the_repository() if not name.startswith((".git", ".ci"))}
    assert wanted <= names, wanted - names


PROGRAM = """
from lit_mnist.__main__ import main

fit = ["fit", "--config", "quickstart", "--trainer.max_epochs", "2"]
for words in (fit, ["test"], ["report", "."], ["export"], ["reproduce", "mlp", "--help"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, words
"""


def test_the_wheel_alone_works_in_an_empty_folder(dist: Path, tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (libraries,) = environment.glob("lib/python*/site-packages")
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(libraries)
    (libraries / "suite.pth").write_text(
        f"{Path(pytest.__file__).parents[1]}\n"
    )  # its dependencies; no .pth of it is read
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    python = environment / "bin" / "python"

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([python, *words], cwd=folder, env=environ, capture_output=True, text=True, check=False)

    assert str(libraries) in run("-c", "import lit_mnist; print(lit_mnist.__file__)").stdout
    done = run("-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    assert {"lightning_logs", "report.html"} == {path.name for path in folder.iterdir()}
    assert list(folder.glob("lightning_logs/version_0/**/*.onnx"))
    shutil.rmtree(folder / "lightning_logs")
    with subprocess.Popen(
        [python, "-m", "lit_mnist", "demo", "--port", "0"],
        cwd=folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as demo:
        assert demo.stdout
        assert demo.stderr
        page = urlopen(demo.stdout.readline().strip()).read().decode()
        demo.kill()
        assert "the pretrained model for MNIST is used" in demo.stderr.read()
    assert "trained on mnist" in page


def test_the_pretrained_weights_are_data_and_as_accurate_as_their_card_says(mnist: MNISTDataModule) -> None:
    saved = read_checkpoint("pretrained")
    assert "optimizer_states" not in saved
    assert PRETRAINED.stat().st_size < 100_000
    images, labels = mnist.splits["test"]
    answers = Classifier.load_from_checkpoint("pretrained")(rescale(images)).argmax(1)
    accuracy = 100 * (answers == labels).float().mean().item()
    card = (ROOT / "docs" / "pretrained.md").read_text()
    assert f"{accuracy:.2f} %" in card
