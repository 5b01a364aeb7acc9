"""The convolutional network, and that it works wherever the other does."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from PIL import Image

from lit_mnist import CNN, MLP, Classifier

Cli = Callable[..., Result]


def test_it_has_few_parameters_and_gives_a_logit_for_each_class() -> None:
    network = CNN()
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_442
    assert network(torch.rand(3, 28, 28)).shape == (3, 10)
    assert CNN(channels=2, num_classes=5)(torch.rand(1, 28, 28)).shape == (1, 5)


def test_in_evaluation_an_image_alone_gets_the_answer_that_it_gets_among_others() -> None:
    network, images = CNN().eval(), torch.rand(7, 28, 28)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels: 0 is not at least 1"),
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        ({"num_classes": 0}, "num_classes: 0 is not at least 1"),
    ],
)
def test_an_argument_out_of_range_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        CNN(**options)  # type: ignore[arg-type]


def test_every_command_takes_it_by_its_name(cli: Cli, tmp_path: Path) -> None:
    data = ("--data.dataset", "digits", "--data.batch_size", 32)
    network = ("--model.network", "CNN", "--model.network.channels", 4)
    fit = cli("fit", *data, *network, "--trainer.max_epochs", 2, "--trainer.accelerator", "cpu")
    assert (fit.status, fit.err) == (0, "")
    assert "Conv2d" in fit.out
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save("digit.png")
    for command in ("validate", "test", "predict digit.png", "export", "export --format torch_export", "report ."):
        done = cli(*command.split())
        assert done.status == 0, (command, done.err)
    more = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert (more.status, more.err) == (0, "")
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "history.png").exists()
    assert not (run / "weights.png").exists(), "no unit sees whole images"
    classifier = Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert isinstance(classifier.network, CNN)
    assert classifier.network.channels == 4
    other = cli("test", "--model.network", "CNN", "--model.network.channels", 8)
    assert other.status == 2
    assert "--model.network.channels: 8 contradicts" in other.err
    assert "trained with 4" in other.err


def test_an_option_of_a_network_is_explained_and_one_that_it_lacks_is_refused(cli: Cli) -> None:
    assert "doubles them" in cli("fit", "--model.network.help", "CNN").out
    done = cli("fit", "--model.network", "CNN", "--model.network.hidden_sizes", "[3]")
    assert done.status == 2
    assert done.err.startswith("lit-mnist: error: ")
    assert done.err.count("\n") == 1


def test_a_network_of_ones_own_is_named_by_its_import_path(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import Tensor, nn\n\n\n"
        "class Linear(nn.Module):\n"
        "    def __init__(self, bias: bool = True) -> None:\n"
        "        super().__init__()\n"
        "        self.bias = bias\n"
        "        self.layer = nn.Linear(784, 10, bias=bias)\n\n"
        "    def forward(self, images: Tensor) -> Tensor:\n"
        "        return self.layer(images.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ("--model.network", "my_networks.Linear", "--model.network.bias", "false")
    done = cli("fit", "--data.dataset", "digits", *own, "--trainer.max_epochs", 1, "--trainer.accelerator", "cpu")
    assert (done.status, done.err) == (0, "")
    assert cli("test", *own).status == 0
    path = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    import my_networks  # type: ignore[import-not-found]

    assert isinstance(Classifier.load_from_checkpoint(path).network, my_networks.Linear)
    monkeypatch.delitem(sys.modules, "my_networks")  # as in another process, which has not named it
    unknown = cli("test")
    assert unknown.status == 2
    assert "name it by --model.network" in unknown.err
    assert "my_networks" not in sys.modules


def test_from_python_a_checkpoint_knows_its_network() -> None:
    described = Classifier(network=MLP(hidden_sizes=(8,), dropout=0.25)).hparams["network"]
    init_args = {"hidden_sizes": [8], "dropout": 0.25, "num_classes": 10}
    assert described == {"class_path": "lit_mnist.networks.mlp.MLP", "init_args": init_args}
