"""The convolutional network, and that it works wherever the other does."""

from pathlib import Path

import pytest
import torch
from conftest import Cli
from PIL import Image

from lit_mnist import CNN, Classifier


@pytest.mark.parametrize(("channels", "count"), [(16, 18_810), (64, 289_482)])
def test_its_channels_decide_how_many_parameters_it_has(channels: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in CNN(channels).parameters()) == count


def test_its_layers_halve_the_image_twice_and_drop_features_before_the_logits() -> None:
    network, shapes = CNN(channels=4, dropout=0.3, num_classes=5), []
    for layer in network.layers:
        layer.register_forward_hook(lambda layer, _, out: shapes.append((type(layer).__name__, *out.shape[1:])))
    assert network(torch.rand(3, 28, 28)).shape == (3, 5)
    sizes = [(4, 14, 14), (4, 14, 14), (6, 7, 7), (6, 7, 7), (8, 7, 7)]
    convolved = [(name, *size) for size in sizes for name in ("Conv2d", "BatchNorm2d", "ReLU")]
    assert shapes == [*convolved, ("AdaptiveAvgPool2d", 8, 1, 1), ("Flatten", 8), ("Dropout", 8), ("Linear", 5)]
    assert network.layers[-2].p == 0.3


def test_in_evaluation_an_image_alone_gets_the_answer_that_it_gets_among_others() -> None:
    network, images = CNN().eval(), torch.rand(7, 28, 28)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 1}, "channels: 1 is not at least 2"),
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
    cli("fit", *data, *network, "--trainer.max_epochs", 2).worked()
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save("digit.png")
    for command in ("validate", "test", "predict digit.png", "export", "report ."):
        assert cli(*command.split()).status == 0, command
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3).worked()
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "history.png").exists()
    classifier = Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert isinstance(classifier.network, CNN)
    assert classifier.network.channels == 4
    cli("test", "--model.network.channels", 8).refused("its weights are of")


def test_an_option_of_a_network_is_explained_and_one_that_it_lacks_is_refused(cli: Cli) -> None:
    assert "the last 2 times as many" in cli("fit", "--model.network.help", "CNN").out
    cli("fit", "--model.network", "CNN", "--model.network.hidden_sizes", "[3]").refused(
        "--model.network", "hidden_sizes"
    )


def test_images_with_one_channel_give_the_same_logits() -> None:
    network, images = CNN(2).eval(), torch.rand(3, 28, 28)
    torch.testing.assert_close(network(images[:, None]), network(images))


@pytest.mark.parametrize("shape", [(3, 32, 20), (1, 8, 8), (5, 5)])
def test_it_takes_images_of_any_shape(shape: tuple[int, ...]) -> None:
    network = CNN(channels=4, num_classes=7, image_shape=shape)
    assert network(torch.rand(6, *shape)).shape == (6, 7)
