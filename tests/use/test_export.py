"""export: one ONNX file that answers as PyTorch does, or none."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.use import export as export_module

onnxruntime = pytest.importorskip("onnxruntime")


def test_the_file_answers_alone_as_pytorch_does(cli: Cli, own_run: Path, digits: MNISTDataModule) -> None:
    out = cli("export", "--ckpt_path", "last").worked().out
    path = own_run / "model.onnx"
    assert "lightning_logs/version_0/model.onnx" in out
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, labels = digits.splits["test"]
    classifier = Classifier.load_from_checkpoint(own_run / "checkpoints/last.ckpt")
    expected = classifier(rescale(images)).softmax(1).detach()
    for count in (1, 7, 359):
        probabilities, classes = session.run(None, {"images": images[:count].numpy()})
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
        assert classes.tolist() == expected[:count].argmax(1).tolist()
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list("0123456789")
    accuracy = (expected.argmax(1) == labels).float().mean().item()
    assert about["test_accuracy"] == f"{accuracy:.4f} on digits"
    assert b"site-packages" not in path.read_bytes()


def test_without_the_test_images_it_is_checked_on_noise_and_has_no_accuracy(
    cli: Cli, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(own_run / "checkpoints/last.ckpt", weights_only=True)
    torch.save(saved | {"dataset": "mnist"}, "stranger.ckpt")
    monkeypatch.setenv("LIT_MNIST_DATA_DIR", "nowhere")
    assert "1,000 images of noise, within" in cli("export", "--ckpt_path", "stranger.ckpt").worked().out
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    assert "test_accuracy" not in session.get_modelmeta().custom_metadata_map


def test_a_file_that_answers_otherwise_is_not_kept(cli: Cli, own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disturb(model: export_module.FromImages, shape: list[int], path: Path, about: dict[str, str]) -> None:
        with torch.no_grad():
            next(model.parameters()).mul_(1.1)
        write(model, shape, path, about)

    write = export_module.write_onnx
    monkeypatch.setattr(export_module, "write_onnx", disturb)
    cli("export").refused("model.onnx is not written: its probabilities differ", status=1)
    assert not list(own_run.glob("*model*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--output x.pt", "--output: x.pt"),
        ("--output no/x.onnx", "--output: no/x.onnx"),
        ("--ckpt_path x", "x is not a file"),
    ],
)
def test_bad_input_gets_one_line(options: str, words: str, own_run: Path, cli: Cli) -> None:
    cli("export", *options.split()).refused(words)


def test_without_the_extra_it_says_how_to_install_it(own_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cli("export").refused("pip install onnx onnxruntime onnxscript")
