"""Commands that are functions, and what the command line says of what it cannot parse."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NoReturn, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser

from lit_mnist import networks
from lit_mnist.errors import fail


class Parser(LightningArgumentParser):
    """Reports what it cannot parse in one line."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            fail(f"--config: {path} is not text in UTF-8: {error.reason} at byte {error.start}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if message.startswith(("Problems parsing config", "Unexpected config")):
            files = [file for option, file in pairwise(sys.argv) if option in ("-c", "--config")]
            message = f"--config: {', '.join(files)}: {message}"
        fail(explain(message, getattr(ex, "subcommand_parser", None) or self))


def explain(message: str, parser: LightningArgumentParser) -> str:
    """Turn a message of jsonargparse into one that names the option, the value and what is allowed."""
    options = {action.dest: action for action in parser._actions}
    if found := re.search(r"nrecognized arguments: (?:--)?([^\s=]*)|does not accept option '([^']*)'", message):
        name = found[1] or found[2]
        parts = [getattr(networks, part) for part in networks.__all__]
        nested = [f"model.network.{option}" for part in parts for option in inspect.signature(part).parameters]
        near = difflib.get_close_matches(name, [*options, *nested], n=1)
        return f"--{name}: there is no such option; " + (f"did you mean --{near[0]}?" if near else "see --help")
    if found := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        return f"{found[1].upper()} is missing; see --help"
    if not (found := re.search(r'Parser key "([^"]*)":(.*)', message, re.DOTALL)):
        return message
    name, reason = found[1], found[2]
    value = re.search(r"(?:Got|Given) value: (.*)", reason)
    hint = getattr(options.get(name), "_typehint", None)
    return f"--{name}: {value[1]} is not {readable(hint)}" if value and hint else f"--{name}: {reason}"


def readable(hint: Any) -> str:
    """A type hint in words: Literal['a', 'b'] -> 'one of a, b', int -> 'of type int'."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is list and get_origin(inner := get_args(hint)[0]) is Literal:
        names = get_args(inner)
        return f"a list of any of {', '.join(names)}, such as [{names[0]}]"
    words = str(hint).replace("jsonargparse.NonNegativeInt", "int of 0 or above")
    return "of type " + re.sub(r"typing\.|collections\.abc\.|<class '|'>", "", words)


def add_tools(subcommands: Any, tools: dict[str, Callable[..., None]]) -> None:
    """Add each command to the subcommands of a parser; a first parameter that is a list becomes its positionals."""
    for name, tool in tools.items():
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
