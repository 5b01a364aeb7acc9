"""Export: a checkpoint as one ONNX file, checked against PyTorch before it is kept."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_mnist import __version__
from lit_mnist.atomic import write_whole
from lit_mnist.classifier import Classifier, read_checkpoint
from lit_mnist.data import MNISTDataModule, rescale
from lit_mnist.errors import fail
from lit_mnist.runs.folder import find_checkpoint, run_of

TOLERANCE = 1e-5  # a probability may differ from PyTorch's by less than this


class FromImages(nn.Module):
    """What is exported: the network with the rescaling before it and the softmax after it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and classes of a batch: (N, 28, 28) uint8 -> (N, C) float32, (N,) int64."""
        probabilities = self.network(rescale(images)).softmax(dim=1)
        return probabilities, probabilities.argmax(dim=1)


def export(
    ckpt_path: str = "best",
    output: str | None = None,
    data_dir: str | None = None,
    network: nn.Module | None = None,
) -> None:
    """Write a checkpoint as one ONNX file that answers without this program.

    The file takes images (N, 28, 28) uint8, light on dark, for any N, and gives probabilities (N, C) float32 and class
    (N,) int64, the place of the most probable one in the names of the classes, which the metadata hold. It is kept only
    if it answers as PyTorch does on all test images of the checkpoint's data set.

    Args:
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        output: The file to write, which ends in .onnx. By default model.onnx in the run folder of the checkpoint, or
            beside a checkpoint that lies in none.
        data_dir: Folder of the test images, as for --data.data_dir.
        network: The network of the checkpoint, where it is one of your own, by its import path.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        fail(f"export needs {error.name}; install it with: pip install 'lit-mnist[export]'")
    checkpoint = find_checkpoint(ckpt_path)
    path = Path(output).expanduser() if output else (run_of(checkpoint) or checkpoint.parent) / "model.onnx"
    if path.suffix != ".onnx" or not path.parent.is_dir():
        fail(f"--output: {path} does not end in .onnx, or its folder does not exist")
    saved = read_checkpoint(checkpoint)
    model = FromImages(Classifier.load_from_checkpoint(checkpoint, network=network).network)
    dataset = saved["datamodule_hyper_parameters"].get("dataset", "mnist")
    data = MNISTDataModule(dataset, data_dir)
    data.prepare_data()
    data.setup("test")
    images, labels = data.splits["test"]
    with torch.inference_mode():
        expected = model(images)
    accuracy = (expected[1] == labels).float().mean().item()
    about = {
        "lit_mnist": __version__,
        "classes": json.dumps(saved.get("classes")),
        "test_accuracy": f"{accuracy:.4f} on {dataset}",
    }
    with write_whole(path) as part:
        write_onnx(model, part, about)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        answers = [session.run(None, {"images": batch.numpy()}) for batch in (images[:1], images[1:])]  # of any size
        probabilities, classes = (torch.from_numpy(np.concatenate(both)) for both in zip(*answers, strict=True))
        difference = (probabilities - expected[0]).abs().max().item()
        if not difference < TOLERANCE or not torch.equal(classes, expected[1]):
            fail(f"{path} is not written: its probabilities differ from PyTorch's by up to {difference:.1g}", status=1)
    print(f"exported  {os.path.relpath(path)}  ({path.stat().st_size / 1000:,.0f} kB)")
    print(
        f"checked   {len(images):,} test images of {dataset}, accuracy {accuracy:.4f}, as PyTorch to {difference:.1g}"
    )
    print(f"load it   onnxruntime.InferenceSession({os.path.relpath(path)!r})")


def write_onnx(model: FromImages, path: Path, about: dict[str, str]) -> None:
    """Write a model as an ONNX file with its weights inside; ``about`` becomes its metadata."""
    import onnx

    example = torch.zeros(2, 28, 28, dtype=torch.uint8)  # of 2, since a batch of 1 would be taken for a constant
    names: Any = {"input_names": ["images"], "output_names": ["probabilities", "class"]}
    size: Any = {"dynamic_shapes": {"images": {0: "N"}}}
    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, **names, **size)
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.node):
        part.ClearField("metadata_props")  # the exporter's notes, lines of source code and their files among them
    onnx.helper.set_model_props(proto, about)
    path.write_bytes(proto.SerializeToString())
