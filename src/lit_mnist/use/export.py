"""Export of a checkpoint as one ONNX file, which is checked against PyTorch."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_mnist import __version__
from lit_mnist.atomic import write_whole
from lit_mnist.classifier import Classifier
from lit_mnist.data import MNISTDataModule, rescale
from lit_mnist.errors import fail
from lit_mnist.runs.folder import run_of
from lit_mnist.runs.parts import NAMES, data_of, load_classifier
from lit_mnist.use.predict import batches

TOLERANCE = 1e-5  # a probability must differ from PyTorch's by less


class FromImages(nn.Module):
    """The exported module: rescaling, network and softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and classes of a batch: (N, *image_shape) uint8 -> (N, C) float32, (N,) int64."""
        probabilities = self.network(rescale(images)).softmax(dim=1)
        return probabilities, probabilities.argmax(dim=1)


def export(
    ckpt_path: str = "best",
    output: str | None = None,
    data_dir: str | None = None,
    network: nn.Module | None = None,
) -> None:
    """Write a checkpoint as one ONNX file that needs no PyTorch.

    The file takes images (N, *image_shape) uint8 for any N, like those in training. It returns probabilities (N, C)
    float32 and class (N,) int64, the index of the predicted class. The metadata contain the names of the classes. The
    file is kept only if it agrees with PyTorch on all test images or, if they are not available, on noise.

    Args:
        ckpt_path: A checkpoint: its path, best or last of the newest run, or pretrained.
        output: Output file, which ends in .onnx. By default model.onnx in the run folder of the checkpoint, or beside a
            checkpoint that is in none.
        data_dir: Folder of the test images of MNIST or a similar data set, as for --data.data_dir.
        network: Import path of your own network, needed if ckpt_path is the path of one of its checkpoints.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        fail(f"export needs {error.name}; install it with: pip install onnx onnxruntime onnxscript")
    classifier, checkpoint = load_classifier(ckpt_path, network)
    path = Path(output).expanduser() if output else (run_of(checkpoint) or checkpoint.parent) / "model.onnx"
    if path.suffix != ".onnx" or not path.parent.is_dir():
        fail(f"--output: {path} does not end in .onnx, or its folder does not exist")
    model, shape = FromImages(classifier.network), classifier.image_shape
    images, labels = test_images(classifier, run_of(checkpoint) if ckpt_path in NAMES else None, data_dir)
    what = f"{len(images):,} {f'test images of {classifier.dataset}' if len(labels) else 'images of noise'}"
    with torch.inference_mode():
        expected = [torch.cat(part) for part in zip(*map(model, batches(images)), strict=True)]  # (N, C), (N,)
    about = {"lit_mnist": __version__, "classes": json.dumps(classifier.classes)}
    if len(labels):
        accuracy = f"{(expected[1] == labels).float().mean():.4f}"
        about["test_accuracy"] = f"{accuracy} on {classifier.dataset}"
        what += f", accuracy {accuracy}"
    with write_whole(path) as part:
        write_onnx(model, shape, part, about)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        answers = [session.run(None, {"images": batch.numpy()}) for batch in (images[:1], *batches(images[1:]))]
        probabilities, classes = (torch.from_numpy(np.concatenate(both)) for both in zip(*answers, strict=True))
        difference = (probabilities - expected[0]).abs().max().item()
        if not difference < TOLERANCE or not torch.equal(classes, expected[1]):
            fail(f"{path} is not written: its probabilities differ from PyTorch's by up to {difference:.1g}", status=1)
    print(f"exported  {os.path.relpath(path)}  ({path.stat().st_size / 1000:,.0f} kB)")
    print(f"checked   {what}, within {difference:.1g} of PyTorch")
    print(f"load it   onnxruntime.InferenceSession({os.path.relpath(path)!r})")


def test_images(classifier: Classifier, run: Path | None, data_dir: str | None) -> tuple[Tensor, Tensor]:
    """The test images of the data set and their labels or, if they are not available, noise without labels.

    Args:
        classifier: A classifier, which has the name of its data set.
        run: Run folder whose config.yaml names the data; None for a data set that is known by name.
        data_dir: Folder of a data set that is known by name.
    """
    try:
        data: Any = data_of(run) if run and not data_dir else MNISTDataModule(classifier.dataset, data_dir)  # type: ignore[arg-type]
        data.setup("test")
        images, labels = data.splits["test"]
        if list(images.shape[1:]) == list(classifier.image_shape):
            return images, labels
    except (ValueError, OSError, AttributeError):  # AttributeError: a data module of another kind
        pass
    noise = torch.randint(256, (1000, *classifier.image_shape), generator=torch.Generator().manual_seed(0))
    return noise.to(torch.uint8), torch.empty(0)


def write_onnx(model: FromImages, shape: Sequence[int], path: Path, about: dict[str, str]) -> None:
    """Write a model as an ONNX file with its weights inside; ``about`` becomes its metadata."""
    import onnx

    example = torch.zeros(2, *shape, dtype=torch.uint8)  # of 2, since a batch of 1 would be taken for a constant
    names: Any = {"input_names": ["images"], "output_names": ["probabilities", "class"]}
    size: Any = {"dynamic_shapes": {"images": {0: "N"}}}
    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, **names, **size)
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.node):
        part.ClearField("metadata_props")  # the exporter's notes, such as lines of source code and their paths
    onnx.helper.set_model_props(proto, about)
    path.write_bytes(proto.SerializeToString())
