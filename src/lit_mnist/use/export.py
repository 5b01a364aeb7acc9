"""Export: a checkpoint as one ONNX or torch.export file, checked against PyTorch before it is kept."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from lit_mnist.atomic import write_whole
from lit_mnist.checkpoint import make, read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.data import MNISTDataModule, rescale
from lit_mnist.data.checksums import SHA256
from lit_mnist.errors import fail, printable
from lit_mnist.runs.folder import LOGS, find_checkpoint, run_of

TOLERANCE = 1e-5  # a probability may differ from PyTorch's by less than this
EXAMPLE = torch.zeros(2, 28, 28, dtype=torch.uint8)  # of 2, since the exporters take a batch of 1 for a constant

Answers = tuple[Tensor, Tensor]  # probabilities (N, 10) float32, digit (N,) int64
Model = Callable[[Tensor], Answers]  # of images (N, 28, 28) uint8


class ExportError(Exception):
    """An exported file does not answer as PyTorch does; the message is one line."""


class FromImages(nn.Module):
    """What is exported: the network with the rescaling before it and the softmax after it.

    Args:
        network: Logits of a batch, (N, 28, 28) float32 in [0, 1] -> (N, 10) float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Answers:
        """Answers for a batch: (N, 28, 28) uint8 -> (N, 10) float32, (N,) int64."""
        probabilities = self.network(rescale(images)).softmax(dim=1)
        return probabilities, probabilities.argmax(dim=1)


def export(
    ckpt_path: str = "best",
    format: Literal["onnx", "torch_export"] = "onnx",
    output: str | None = None,
    data_dir: str | None = None,
) -> None:
    """Write a checkpoint as one file that answers without this program.

    The file takes images (N, 28, 28) uint8, light on dark, for any N, and gives probabilities (N, 10) float32 and digit
    (N,) int64. It is kept only if it answers as PyTorch does on all test images of the checkpoint's data set.

    Args:
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        format: onnx, for ONNX Runtime and many others, or torch_export, for torch.export.load.
        output: The file to write, which ends in .onnx or .pt2. By default model.onnx or model.pt2 in the run folder of
            the checkpoint, or beside a checkpoint that lies in none.
        data_dir: Folder of the test images, by default the one that the checkpoint was trained from.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be used.
        DataError: The test images cannot be had.
        OSError: The file cannot be written.
    """
    if format == "onnx":
        require_onnx()
    write, reopen, suffix = (to_onnx, open_onnx, ".onnx") if format == "onnx" else (to_pt2, open_pt2, ".pt2")
    checkpoint = find_checkpoint(ckpt_path, Path(LOGS))
    path = Path(output) if output else (run_of(checkpoint) or checkpoint.parent) / f"model{suffix}"
    if path.suffix != suffix:
        fail(f"--output: {path} does not end in {suffix}, the suffix of --format {format}")
    if not path.parent.is_dir():
        fail(f"--output: {path.parent} is no folder")
    if path.is_dir():
        fail(f"--output: {path} is a folder")

    saved = read_checkpoint(checkpoint)
    network = FromImages(Classifier.load_from_checkpoint(checkpoint).network)
    other: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    data = make(MNISTDataModule, checkpoint, saved["datamodule_hyper_parameters"] | other)
    data.setup("test" if data.dataset == "mnist" else None)  # the digest of other sets needs all images
    images, labels = data.images("test")
    expected = answer_all(network, images)
    metrics = saved.get("metrics", {}) | {"test/accuracy": (expected[1] == labels).float().mean().item()}
    try:
        content = write(network, describe(saved, data, metrics))
    except Exception as error:  # whatever an exporter says, such as that a package is too old for this PyTorch
        fail(f"--format {format}: PyTorch could not export it: {type(error).__name__}: {error}", status=1)
    try:
        with write_whole(path) as part:
            part.write_bytes(content)
            difference = check(part, reopen, images, expected)
    except ExportError as error:
        fail(f"{path} is not written: {error}", status=1)

    shown, size, count = os.path.relpath(path), path.stat().st_size, f"{len(images):,}"
    print(f"exported  {printable(shown)}  ({size / 1000:,.0f} kB)")
    print(
        f"checked   {count} test images of {data.dataset} (accuracy {metrics['test/accuracy']:.4f}): {count} of {count}"
        f" digits equal PyTorch's, probabilities to {difference:.1g}"
    )
    print(f"load it   {'onnxruntime.InferenceSession' if format == 'onnx' else 'torch.export.load'}({shown!r})")


def require_onnx() -> None:
    """End with one line where the packages that make and check an ONNX file are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        fail(f"--format onnx needs {error.name}; install it with: pip install 'lit-mnist[export]'")


def describe(saved: dict[str, Any], data: MNISTDataModule, metrics: dict[str, float]) -> dict[str, str]:
    """Where a model comes from: version, training options, metrics and data digest, all but the version as JSON."""
    options = {name: value for name, value in saved["datamodule_hyper_parameters"].items() if name != "data_dir"}
    return {
        "lit_mnist": saved["lit_mnist"],
        "model": json.dumps(saved["hyper_parameters"]),
        "data": json.dumps(options),
        "metrics": json.dumps(metrics),
        "data_sha256": json.dumps(digest(data)),
    }


def digest(data: MNISTDataModule) -> dict[str, str]:
    """SHA-256 of the data: of its files, as every load verifies them, or of each split of the embedded digits."""
    if data.dataset in SHA256:
        return SHA256[data.dataset]
    content = {split: [part.numpy().tobytes() for part in data.images(split)] for split in ("train", "val", "test")}
    return {split: hashlib.sha256(b"".join(parts)).hexdigest() for split, parts in content.items()}


def to_onnx(network: FromImages, about: dict[str, str]) -> bytes:
    """A network as an ONNX model with its weights inside; ``about`` becomes its metadata."""
    import onnx

    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities", "digit"]}
    shapes = {"images": {0: "N"}}
    exported = torch.onnx.export(network, (EXAMPLE,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    for part in (graph, *graph.input, *graph.output, *graph.value_info, *graph.node):
        part.ClearField("metadata_props")  # the exporter's notes, lines of source code and their files among them
    onnx.helper.set_model_props(model, about)
    content: bytes = model.SerializeToString()
    return content


def open_onnx(path: Path) -> Model:
    """An ONNX file as a function, run by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def model(images: Tensor) -> Answers:
        probabilities, digit = session.run(["probabilities", "digit"], {"images": images.numpy()})
        return torch.from_numpy(probabilities), torch.from_numpy(digit)

    return model


def to_pt2(network: FromImages, about: dict[str, str]) -> bytes:
    """A network as a file of torch.export; ``about`` becomes its extra files."""
    program = torch.export.export(network, (EXAMPLE,), dynamic_shapes={"images": {0: Dim("N")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source code and their files
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=about)
    return content.getvalue()


def open_pt2(path: Path) -> Model:
    """A file of torch.export as a function."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it would log, with a traceback, what it raises, too
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def answer_all(model: Model, images: Tensor) -> Answers:
    """Answers for one image and then for up to 1,000 at a time, which shows that batches of any size work."""
    probabilities, digits = zip(*map(model, (images[:1], *images[1:].split(1000))), strict=True)
    return torch.cat(probabilities), torch.cat(digits)


def check(path: Path, reopen: Callable[[Path], Model], images: Tensor, expected: Answers) -> float:
    """Compare what a file answers with what PyTorch does.

    Args:
        path: The exported file.
        reopen: What makes a function of it.
        images: All test images, (N, 28, 28) uint8.
        expected: PyTorch's answers.

    Returns:
        The largest difference of a probability.

    Raises:
        ExportError: The file cannot be run, a probability differs by TOLERANCE or more, or a digit differs.
    """
    try:
        probabilities, digits = answer_all(reopen(path), images)
    except Exception as error:  # whatever a runtime says of a file that it cannot run, such as one of a newer format
        raise ExportError(f"it does not run: {' '.join(str(error).split())}") from error
    difference = (probabilities - expected[0]).abs().max().item()
    equal = int((digits == expected[1]).sum())
    if equal < len(images) or not difference < TOLERANCE:  # a difference may be NaN
        raise ExportError(
            f"its probabilities differ from PyTorch's by up to {difference:.1g}, and {equal:,} of {len(images):,}"
            " digits are equal"
        )
    return difference
