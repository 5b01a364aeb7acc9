"""The commands that need no Trainer: each is a function whose signature and docstring are its command line."""

import inspect
from collections.abc import Callable
from typing import Any

from lit_mnist.demo import demo
from lit_mnist.errors import Parser
from lit_mnist.export import export
from lit_mnist.predict import predict
from lit_mnist.report import report
from lit_mnist.reproduce import reproduce

TOOLS: dict[str, Callable[..., None]] = {tool.__name__: tool for tool in (predict, export, demo, report, reproduce)}


def add_tools(subcommands: Any) -> None:
    """Add each command to the subcommands of a parser; a first parameter that is a list becomes its positionals."""
    for name, tool in TOOLS.items():
        summary = (inspect.getdoc(tool) or name).partition("\n")[0]  # python -OO leaves no docstrings
        parser = Parser(description=summary, usage=f"lit-mnist {name} [options]", allow_abbrev=False)
        first, parameter = next(iter(inspect.signature(tool).parameters.items()))
        skip: set[str | int] = set()
        if parameter.annotation == list[str]:
            skip.add(first)
            parser.usage = f"{parser.usage} {first.upper()} ..."
            parser.add_argument(first, nargs="+", metavar=first.upper(), help=help_of(tool, first))
        parser.add_function_arguments(tool, as_group=False, skip=skip)
        subcommands.add_subcommand(name, parser, help=summary)


def help_of(tool: Callable[..., None], argument: str) -> str:
    """What the docstring of a command says of an argument."""
    from docstring_parser import parse  # jsonargparse reads docstrings with it

    return next((one.description or "" for one in parse(tool.__doc__ or "").params if one.arg_name == argument), "")
