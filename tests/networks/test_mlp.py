"""The network."""

import ast
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from lit_mnist import MLP
from lit_mnist.networks import mlp


def linears(network: MLP) -> list[nn.Linear]:
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]


def kinds(network: MLP) -> list[str]:
    return [type(layer).__name__ for layer in network.layers]


def test_the_layers_are_the_recipes() -> None:
    network = MLP()
    assert kinds(network) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in linears(network)] == [
        (784, 256),
        (256, 128),
        (128, 10),
    ]


def test_dropout_follows_each_hidden_activation() -> None:
    network = MLP(dropout=(0.4, 0.3))
    assert kinds(network) == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [layer.p for layer in network.layers if isinstance(layer, nn.Dropout)] == [0.4, 0.3]


def test_one_dropout_share_holds_for_all_hidden_layers() -> None:
    assert [layer.p for layer in MLP(dropout=0.2).layers if isinstance(layer, nn.Dropout)] == [0.2, 0.2]


def test_batch_norm_stands_between_each_hidden_layer_and_its_activation() -> None:
    network = MLP([8, 4], dropout=0.1, batch_norm=True)
    assert kinds(network) == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert repr(network.layers[1]) == repr(nn.BatchNorm1d(8))
    assert sum(parameter.numel() for parameter in MLP(batch_norm=True).parameters()) == 235_146 + 2 * (256 + 128)


def test_a_dropout_of_zero_adds_no_layer() -> None:
    assert kinds(MLP(dropout=(0.0, 0.3))) == ["Linear", "ReLU", "Linear", "ReLU", "Dropout", "Linear"]


def test_the_parameter_counts_are_the_recipes() -> None:
    network = MLP()
    counts = [sum(p.numel() for p in layer.parameters()) for layer in linears(network)]
    assert counts == [200_960, 32_896, 1_290]
    assert sum(p.numel() for p in network.parameters()) == 235_146


def test_weights_start_glorot_uniform() -> None:
    for layer in linears(MLP()):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        size = layer.weight.detach().abs()
        assert size.max() <= bound
        assert size.max() > 0.99 * bound
        # of a uniform distribution, so that neither a normal nor a narrower one passes
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert size.mean().item() == pytest.approx(bound / 2, rel=0.05)


def test_biases_start_at_zero() -> None:
    assert all((layer.bias == 0).all() for layer in linears(MLP()))


def test_the_torch_seed_decides_the_start() -> None:
    def start(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return MLP().layers[0].weight

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_the_logits_equal_those_computed_by_hand() -> None:
    network = MLP(dropout=0.5).eval()
    for layer in linears(network):
        nn.init.normal_(layer.bias)
    pixels = torch.rand(5, 28, 28)
    values = pixels.flatten(1).double().numpy()
    for layer in linears(network):
        values = values @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if layer.out_features != 10:
            values = np.maximum(values, 0)
    assert (values < 0).any(), "logits below zero show that nothing cuts them off"
    np.testing.assert_allclose(network(pixels).detach().numpy(), values, rtol=1e-4, atol=1e-5)


def test_dropout_drops_its_share_in_training_and_none_in_evaluation() -> None:
    network = MLP(hidden_sizes=[4000], dropout=0.4)
    nn.init.constant_(network.layers[0].weight, 1 / 784)
    hidden = network.layers[:3]
    dropped = hidden.train()(torch.ones(1, 784))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    torch.testing.assert_close(dropped[dropped != 0], torch.full_like(dropped[dropped != 0], 1 / 0.6))
    torch.testing.assert_close(hidden.eval()(torch.ones(1, 784)), torch.ones(1, 4000))


def test_no_hidden_layer_makes_a_linear_classifier() -> None:
    network = MLP(hidden_sizes=[])
    assert kinds(network) == ["Linear"]
    assert network(torch.zeros(3, 28, 28)).shape == (3, 10)


def test_other_numbers_of_classes_fit() -> None:
    assert MLP(hidden_sizes=[5], num_classes=3)(torch.zeros(2, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout: -0.1 is not in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout: nan is not in \[0, 1\)"),
        ({"dropout": [0.4, 1.5]}, r"dropout: 1.5 is not in \[0, 1\)"),
        ({"dropout": [0.4]}, r"dropout: \[0.4\] has 1 values, not one for each of \[256, 128\]"),
        ({"dropout": [0.4, 0.3, 0.2]}, r"dropout: \[0.4, 0.3, 0.2\] has 3 values, not one for each"),
        ({"hidden_sizes": [256, 0]}, "hidden_sizes: 0 is not at least 1"),
        ({"hidden_sizes": [-3]}, "hidden_sizes: -3 is not at least 1"),
    ],
)
def test_an_argument_outside_its_range_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        MLP(**options)


def test_the_network_imports_torch_alone() -> None:
    tree = ast.parse(inspect.getsource(mlp))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"collections.abc", "math", "torch"}


def test_images_with_one_channel_give_the_same_logits() -> None:
    network, images = MLP([8]).eval(), torch.rand(3, 28, 28)
    torch.testing.assert_close(network(images[:, None]), network(images))


@pytest.mark.parametrize("shape", [(3, 32, 20), (1, 8, 8), (5, 5)])
def test_it_takes_images_of_any_shape(shape: tuple[int, ...]) -> None:
    assert MLP([4], num_classes=7, image_shape=shape)(torch.rand(6, *shape)).shape == (6, 7)
