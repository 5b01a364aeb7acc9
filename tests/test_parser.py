"""Commands without a Trainer take their options from signature and docstring."""

import inspect
from collections.abc import Callable

import pytest
from conftest import Result

from lit_mnist.parser import help_of
from lit_mnist.program import TOOLS

Cli = Callable[..., Result]


@pytest.mark.parametrize("name", TOOLS)
def test_help_explains_every_option(cli: Cli, name: str) -> None:
    result = cli(name, "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"usage: lit-mnist {name} [options]")
    said = " ".join(result.out.split())
    for argument in inspect.signature(TOOLS[name]).parameters:
        assert help_of(TOOLS[name], argument)
        assert " ".join(help_of(TOOLS[name], argument).split()) in said


@pytest.mark.parametrize("name", TOOLS)
def test_the_help_of_the_program_lists_every_command(cli: Cli, name: str) -> None:
    assert f" {name} " in cli("--help").out


@pytest.mark.parametrize("name", TOOLS)
def test_an_option_that_does_not_exist_is_named(cli: Cli, name: str) -> None:
    result = cli(name, "x.png", "--outptu", "y") if name in ("report", "predict") else cli(name, "--outptu", "y")
    assert result.status == 2
    assert result.err == "lit-mnist: error: --outptu: there is no such option; did you mean --output?\n" or (
        name == "demo" and result.err.startswith("lit-mnist: error: --outptu: there is no such option")
    )
