"""Export: a checkpoint as one ONNX or torch.export file, checked against PyTorch before it is kept."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import Result, Trained
from reliability import Ended, assert_one_line, fit, run
from torch import Tensor

import lit_mnist
from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.data.checksums import SHA256
from lit_mnist.use import export

Cli = Callable[..., Result]

ROOT = Path(__file__).parents[2]
FORMATS = ["onnx", "torch_export"]
NAMES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained run in both formats, and in NAME.out and NAME.err what the commands said."""
    folder = tmp_path_factory.mktemp("exported")
    for format, name in NAMES.items():
        options = ("--ckpt_path", trained.run / "checkpoints" / "best.ckpt", "--format", format, "--output", name)
        done = run(folder, "export", *options)
        assert done.status == 0, done.err
        (folder / "out").rename(folder / f"{name}.out")
        (folder / "err").rename(folder / f"{name}.err")
    return folder


def expected(checkpoint: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and digits as PyTorch gives them."""
    with torch.inference_mode():
        probabilities = Classifier.load_from_checkpoint(checkpoint).eval()(rescale(images)).softmax(dim=1)
    return probabilities, probabilities.argmax(dim=1)


def answers(path: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and digits as an exported file gives them."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    session = onnxruntime.InferenceSession(path)
    probabilities, digit = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(probabilities), torch.from_numpy(digit)


def metadata(path: Path) -> dict[str, str]:
    """What an exported file says about itself."""
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    extra_files = {"metrics": ""}
    torch.export.load(path, extra_files=extra_files)
    return extra_files


# What the file answers


@pytest.mark.parametrize("name", NAMES.values())
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_a_batch_of_any_size_gets_the_answers_of_the_checkpoint(
    name: str, count: int, exported: Path, trained: Trained
) -> None:
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
    probabilities, digit = answers(exported / name, images)
    wanted, wanted_digit = expected(trained.run / "checkpoints" / "best.ckpt", images)
    assert probabilities.shape == (count, 10)
    assert digit.shape == (count,)
    assert probabilities.dtype == torch.float32
    assert digit.dtype == torch.int64
    assert not probabilities.requires_grad
    assert torch.allclose(probabilities, wanted, rtol=0, atol=1e-5)
    assert torch.equal(digit, wanted_digit)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_model_of_real_mnist_answers_all_test_images_as_its_checkpoint(
    format: str, real: Path, mnist_dir: Path, cli: Cli, monkeypatch: Any
) -> None:
    monkeypatch.chdir(real)
    done = cli("export", "--format", format)
    assert done.status == 0, done.err
    assert "10,000 of 10,000 digits equal PyTorch's" in done.out
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    images, labels = data.images("test")
    path = real / "lightning_logs" / "version_0" / NAMES[format]
    probabilities, digit = answers(path, images)
    wanted, wanted_digit = expected(path.parent / "checkpoints" / "best.ckpt", images)
    assert torch.allclose(probabilities, wanted, rtol=0, atol=1e-5)
    assert torch.equal(digit, wanted_digit)
    accuracy = (digit == labels).float().mean().item()
    assert accuracy > 0.8
    assert json.loads(metadata(path)["metrics"])["test/accuracy"] == pytest.approx(accuracy)
    assert json.loads(metadata(path)["data_sha256"]) == SHA256["mnist"]


@pytest.fixture(scope="module")
def real(mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which 100 steps were taken on real MNIST."""
    folder = tmp_path_factory.mktemp("real")
    options = ("--data.data_dir", mnist_dir, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 4)
    fit(folder, "fit", "--config", ROOT / "configs" / "fast.yaml", *options)
    return folder


# What the file is


def test_an_onnx_file_names_its_inputs_and_outputs_with_shapes_and_types(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    described = [(one.name, one.shape, one.type) for one in (*session.get_inputs(), *session.get_outputs())]
    assert described == [
        ("images", ["N", 28, 28], "tensor(uint8)"),
        ("probabilities", ["N", 10], "tensor(float)"),
        ("digit", ["N"], "tensor(int64)"),
    ]


def test_an_onnx_graph_is_plain_and_whole(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Cast", "Div", "Reshape", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Softmax", "ArgMax"]
    weights = {one.name: tuple(one.dims) for one in model.graph.initializer if one.name.startswith("network")}
    sizes = [784, 32, 16, 10]
    assert sorted(weights.values()) == sorted([*zip(sizes[1:], sizes[:-1], strict=True), *((n,) for n in sizes[1:])])
    assert not any(one.external_data for one in model.graph.initializer)


def test_what_is_no_uint8_is_refused(exported: Path) -> None:
    floats = torch.zeros(3, 28, 28)
    with pytest.raises(Exception, match="uint8"):
        answers(exported / "model.onnx", floats)


@pytest.mark.parametrize("name", NAMES.values())
def test_nothing_of_this_machine_is_in_the_file(name: str, exported: Path) -> None:
    content = (exported / name).read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent, Path(lit_mnist.__file__).parent, Path.home(), exported):
        assert str(folder).encode() not in content


@pytest.mark.parametrize("name", NAMES.values())
def test_the_metadata_tell_where_the_model_comes_from(name: str, exported: Path, trained: Trained) -> None:
    known = metadata(exported / name)
    saved = torch.load(trained.run / "checkpoints" / "best.ckpt", weights_only=True)
    assert known["lit_mnist"] == lit_mnist.__version__
    model, data, metrics = (json.loads(known[key]) for key in ("model", "data", "metrics"))
    assert model["network"]["init_args"]["hidden_sizes"] == [32, 16]
    assert model["network"]["init_args"]["dropout"] == 0.1
    assert model == saved["hyper_parameters"]
    assert data["dataset"] == "digits"
    assert data["batch_size"] == 32
    assert "data_dir" not in data
    row = (trained.run / "metrics.csv").read_text().splitlines()[saved["epoch"] + 1].split(",")
    names = ["epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"]
    assert [metrics[key] for key in names] == list(map(float, row[: len(names)]))
    digits = MNISTDataModule(dataset="digits")
    digits.setup()
    images, labels = digits.images("test")
    right = answers(exported / name, images)[1] == labels
    assert metrics["test/accuracy"] == pytest.approx(right.float().mean().item())
    sha256 = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert json.loads(known["data_sha256"])["test"] == sha256
    assert len(set(json.loads(known["data_sha256"]).values())) == 3


# What is kept


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_goes_into_the_run_folder_or_beside_a_checkpoint_that_is_in_none(
    format: str, own_run: Path, tmp_path: Path, cli: Cli
) -> None:
    alone = tmp_path / "elsewhere" / "deep" / "a.ckpt"
    alone.parent.mkdir(parents=True)
    alone.write_bytes((own_run / "checkpoints" / "last.ckpt").read_bytes())
    for ckpt_path, folder in (("last", own_run), (alone, alone.parent)):
        before = set(folder.iterdir())
        done = cli("export", "--ckpt_path", ckpt_path, "--format", format)
        assert done.status == 0, done.err
        assert set(folder.iterdir()) - before == {folder / NAMES[format]}


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_answers_otherwise_is_not_kept_and_the_old_one_stays(
    format: str, own_run: Path, cli: Cli, monkeypatch: Any
) -> None:
    write = {"onnx": "to_onnx", "torch_export": "to_pt2"}[format]
    other = getattr(export, write)(export.FromImages(Classifier(network=MLP(hidden_sizes=[32, 16])).network), {})
    (own_run / NAMES[format]).write_bytes(b"old")
    before = set(own_run.iterdir())
    monkeypatch.setattr(export, write, lambda network, about: other)
    done = cli("export", "--format", format)
    assert_one_line(Ended(done.status, done.out, done.err), NAMES[format], "is not written", "differ", status=1)
    assert done.out == ""
    assert (own_run / NAMES[format]).read_bytes() == b"old"
    assert set(own_run.iterdir()) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_does_not_run_is_not_kept(format: str, own_run: Path, cli: Cli, monkeypatch: Any) -> None:
    write = {"onnx": "to_onnx", "torch_export": "to_pt2"}[format]
    good = getattr(export, write)
    monkeypatch.setattr(export, write, lambda network, about: good(network, about)[:-500])
    done = cli("export", "--format", format)
    assert_one_line(Ended(done.status, done.out, done.err), "is not written", "does not run", status=1)
    assert not list(own_run.glob("*model*"))


def test_an_exporter_that_fails_is_quoted_in_one_line(own_run: Path, cli: Cli, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named\n'onnxscript.of_the_future'")

    monkeypatch.setattr(torch.onnx, "export", fail)
    done = cli("export")
    assert_one_line(Ended(done.status, done.out, done.err), "--format onnx", "onnxscript.of_the_future", status=1)
    assert not list(own_run.glob("*model.*"))


@pytest.mark.parametrize("change", ["probability", "digit", "nan"])
def test_one_answer_that_differs_among_all_is_found(change: str) -> None:
    network = export.FromImages(Classifier(network=MLP(hidden_sizes=[32])).network)
    images = torch.randint(0, 256, (2500, 28, 28), dtype=torch.uint8)

    def model(batch: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, digit = network(batch)
        hit = (batch == images[1234]).all(dim=2).all(dim=1)
        if change == "digit":
            return probabilities, digit + hit.long()
        return probabilities + (float("nan") if change == "nan" else 2e-5) * hit[:, None], digit

    expected = export.answer_all(network, images)
    assert export.check(Path(), lambda _: network, images, expected) == 0
    if change == "nan":  # elsewhere it is 0 * nan, too
        model = lambda batch: (network(batch)[0] * float("nan"), network(batch)[1])  # noqa: E731
    with pytest.raises(export.ExportError, match=r"\A[^\n]+\Z"):
        export.check(Path(), lambda _: model, images, expected)


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_takes_no_more_leaves_the_old_file_whole(format: str, own_run: Path, tmp_path: Path) -> None:
    (own_run / NAMES[format]).write_bytes(b"old")
    before = set(own_run.iterdir())
    assert_one_line(run(tmp_path, "export", "--format", format, max_file=20_000), NAMES[format], status=1)
    assert (own_run / NAMES[format]).read_bytes() == b"old"
    assert set(own_run.iterdir()) == before


# What it says


@pytest.mark.parametrize(("format", "name"), NAMES.items())
def test_it_says_what_was_written_and_checked_and_nothing_else(format: str, name: str, exported: Path) -> None:
    size = (exported / name).stat().st_size
    loader = {"onnx": "onnxruntime.InferenceSession", "torch_export": "torch.export.load"}[format]
    first, second, third = (exported / f"{name}.out").read_text().splitlines()
    assert first == f"exported  {name}  ({size / 1000:,.0f} kB)"
    checked = r"checked   359 test images of digits \(accuracy 0\.\d{4}\): 359 of 359 digits equal PyTorch's, "
    assert re.fullmatch(checked + r"probabilities to (\de-\d\d|0)", second)
    assert third == f"load it   {loader}('{name}')"
    assert (exported / f"{name}.err").read_text() == ""


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, cli: Cli, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    done = cli("export", "--ckpt_path", "none.ckpt")
    assert_one_line(Ended(done.status, done.out, done.err), package, "pip install 'lit-mnist[export]'")


def test_torch_export_needs_none_of_these_packages(own_run: Path, cli: Cli, monkeypatch: Any) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    done = cli("export", "--format", "torch_export")
    assert (done.status, done.err) == (0, "")
    assert (own_run / "model.pt2").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "tflite"), ("--format", "tflite", "onnx, torch_export")),
        (("--output", "model.pt2"), ("--output", "model.pt2", ".onnx")),
        (("--output", "model.onnx", "--format", "torch_export"), ("--output", "model.onnx", ".pt2")),
        (("--output", "model"), ("--output", "model", ".onnx")),
        (("--output", "none/model.onnx"), ("--output", "none")),
        (("--output", "folder.onnx"), ("--output", "folder.onnx")),
        (("--ckpt_path", "none.ckpt"), ("none.ckpt",)),
        (("--ckpt_path", "text.ckpt"), ("text.ckpt", "no checkpoint")),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    options: tuple[str, ...], words: tuple[str, ...], own_run: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.ckpt").write_text("epoch,loss")
    done = cli("export", *options)
    assert_one_line(Ended(done.status, done.out, done.err), *words)
    assert not list(tmp_path.rglob("*model.*"))


def test_test_images_that_cannot_be_had_are_said_in_one_line(
    own_run: Path, tmp_path: Path, fashion_dir: Path, cli: Cli
) -> None:
    path = own_run / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    empty = tmp_path / "FashionMNIST" / "raw"
    empty.mkdir(parents=True, mode=0o500)
    saved["datamodule_hyper_parameters"] |= {"dataset": "fashion_mnist", "data_dir": str(tmp_path)}
    torch.save(saved, path)
    done = cli("export")
    assert_one_line(Ended(done.status, done.out, done.err), "FashionMNIST", "train-images")
    assert not list(own_run.glob("*model.*"))
    done = cli("export", "--data_dir", fashion_dir)
    assert done.status == 0, done.err
    assert "40 test images of fashion_mnist" in done.out


# What the documentation says


def test_the_documented_ways_to_load_a_file_work(exported: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(exported)
    ran: list[dict[str, Any]] = []
    for snippet in SNIPPETS[:-1]:
        ran.append({})
        exec(snippet, ran[-1])
    load_onnx, load_pt2, onnx_metadata, pt2_metadata = ran
    assert sum(map(bool, SNIPPETS[0].splitlines())) == 5
    wanted = answers(exported / "model.onnx", torch.from_numpy(load_onnx["images"]))
    assert np.array_equal(load_onnx["probabilities"], wanted[0])
    assert np.array_equal(load_onnx["digit"], wanted[1])
    assert torch.allclose(load_pt2["probabilities"], wanted[0], atol=1e-5)
    assert torch.equal(load_pt2["digit"], wanted[1])
    assert (
        onnx_metadata["metrics"] == pt2_metadata["metrics"] == json.loads(metadata(exported / "model.onnx")["metrics"])
    )


def test_the_documented_measurement_runs(exported: Path, own_run: Path, monkeypatch: Any, capsys: Any) -> None:
    for name in NAMES.values():
        shutil.copy(exported / name, own_run)
    monkeypatch.chdir(own_run)
    assert "repeat=20" in SNIPPETS[-1]
    exec(SNIPPETS[-1].replace("repeat=20", "repeat=1"), {})
    measured = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert measured == ["model.onnx", "model.pt2", "PyTorch"] * 2


def test_the_documentation_names_all_metadata(exported: Path) -> None:
    section = (ROOT / "docs" / "export.md").read_text().partition("## Where it comes from")[2].partition("## ")[0]
    for name in NAMES.values():
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(metadata(exported / name))
