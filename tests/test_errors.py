"""Bad input in one line."""

import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from lightning.pytorch.utilities import rank_zero_only

from lit_mnist.errors import OneLine, fail, printable, quoted
from lit_mnist.parser import Parser, explain, readable


@pytest.fixture
def parser() -> Parser:
    parser = Parser()
    parser.add_argument("--model.network.dropout", type=float)
    parser.add_argument("--model.kind", type=Literal["a", "b"])
    return parser


def test_fail_says_one_line_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        fail("--model.lr: fast\n    is   not a number\n")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "lit-mnist: error: --model.lr: fast is not a number\n")


def test_fail_exits_with_another_status_where_the_input_is_not_to_blame() -> None:
    with pytest.raises(SystemExit) as end:
        fail("the disk is full", status=1)
    assert end.value.code == 1


def test_of_several_processes_the_first_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.raises(SystemExit) as end:
        fail("seen once")
    assert end.value.code == 2
    assert capsys.readouterr().err == ""


def test_a_process_can_speak_for_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.raises(SystemExit):
        fail("seen from each", once=False)
    assert capsys.readouterr().err == "lit-mnist: error: seen from each\n"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--model.dropuot", "1"], "--model.dropuot: there is no such option; did you mean --model.network.dropout?"),
        (["--model.dropuot=1"], "--model.dropuot: there is no such option; did you mean --model.network.dropout?"),
        (["--xyzzy", "1"], "--xyzzy: there is no such option; see --help"),
        (["--model.network.dropout", "much"], "--model.network.dropout: much is not of type float"),
        (["--model.kind", "c"], "--model.kind: c is not one of a, b"),
    ],
)
def test_the_parser_names_option_value_and_what_is_allowed(
    parser: Parser, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parser.parse_args(args)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"lit-mnist: error: {line}\n")


def test_a_message_of_another_kind_is_passed_on(parser: Parser) -> None:
    assert explain("something else", parser) == "something else"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "of type int"),
        (Literal["epoch", "step"], "one of epoch, step"),
        (float | Sequence[float], "of type float | Sequence[float]"),
    ],
)
def test_a_type_is_said_in_words(hint: object, words: str) -> None:
    assert readable(hint) == words


ODD = "a\x1b[31m\x9b\u202e\u2066\u200b\x7f\r\b\u2028\udcffé数.png"


def test_what_would_steer_a_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(ODD) == "a\\x1b[31m\\x9b\\u202e\\u2066\\u200b\\x7f\\r\\x08\\u2028\\udcffé数.png"
    with pytest.raises(SystemExit):
        fail(f"{ODD}:\n {ODD}")
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.isprintable()


def test_a_line_of_a_log_is_escaped_too() -> None:
    record = logging.LogRecord("name", logging.INFO, "path", 1, "failed, %s", (f"HTTP\n {ODD}",), (None, None, None))
    assert OneLine().format(record).isprintable()
    assert OneLine().format(record).startswith("failed, HTTP a\\x1b[31m")


@pytest.mark.parametrize(
    "path",
    ["a/b.ckpt", "a b", "a'b", "$(touch x)", "`touch x`", "a;b", "-a", "*", "~", "", "é", ODD, "a\n'\\x", "\\'\x07"],
)
def test_a_path_in_a_command_is_one_word_for_a_shell_and_safe_to_print(path: str, tmp_path: Path) -> None:
    word = quoted(path)
    assert word.isprintable()
    command = ["bash", "-c", f"printf %s {word}"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert os.fsdecode(shown) == ("./" * path.startswith("-")) + path
    assert not list(tmp_path.iterdir())
