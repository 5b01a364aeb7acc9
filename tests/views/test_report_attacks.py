"""The report of run folders from elsewhere: damaged, made to break it, or with names and links that mislead."""

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from markdown_it import MarkdownIt
from test_report import rows

from lit_mnist.views.report import overfitting

Cli = Callable[..., Result]
HEADER = "epoch,train/loss,train/accuracy,val/loss,val/accuracy,lr,seconds\n"
ROW = "1,0.5,0.80,0.30,0.90,0.001,1.5\n"


def test_a_val_loss_of_zero_has_no_percentage() -> None:
    assert overfitting(rows(0.3, 0, 0.1)).startswith(
        "It overfits after epoch 2: there val loss turned at 0.0000 and rose by 0.1000 to 0.1000 in epoch 3"
    )
    assert overfitting(rows(0.3, 0, 0)) == (
        "No clear overfitting: val loss is lowest in epoch 2 at 0.0000 and ends only 0.0000 above it."
    )


DAMAGE = {
    "half a row": ("metrics.csv", HEADER + ROW + "2,0.3,0."),
    "a longer row": ("metrics.csv", HEADER + ROW.replace("\n", ",7\n")),
    "another column": ("metrics.csv", HEADER.replace("seconds", "minutes") + ROW),
    "a column of words": ("metrics.csv", HEADER.replace("\n", ",note\n") + ROW.replace("\n", ",good\n")),
    "no column": ("metrics.csv", "\n\n\n"),
    "no text": ("metrics.csv", b"\xff\xfe\x00"),
    "an epoch that is no number": ("metrics.csv", HEADER + ROW.replace("1,", "nan,", 1)),
    "a huge epoch": ("metrics.csv", HEADER + ROW.replace("1,", "1e300,", 1)),
    "epochs that fall": ("metrics.csv", HEADER + ROW + ROW),
    "a huge loss": ("metrics.csv", HEADER + ROW.replace("0.30", "1e308")),
    "a large table": ("metrics.csv", HEADER + ROW * 100_000),
    "half of JSON": ("test.json", '{"loss": 0.1, "acc'),
    "a list": ("test.json", "[1, 2]"),
    "a word for a number": ("test.json", '{"dataset": "digits", "images": 360, "loss": "low"}'),
    "a huge number": ("test.json", '{"dataset": "digits", "images": 360, "loss": 1' + "0" * 400 + "}"),
    "a number of too many digits": ("test.json", '{"loss": 1' + "0" * 5000 + "}"),
    "deep JSON": ("test.json", "[" * 100_000),
    "half of YAML": ("config.yaml", "model:\n  lr: [0.1"),
    "a word": ("config.yaml", "model"),
    "nothing": ("config.yaml", ""),
    "code": ("config.yaml", "a: !!python/object/apply:os.system ['touch pwned']"),
    "laughs": ("config.yaml", "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 30))),
    "merges": (
        "config.yaml",
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1},' * 9}]}}\n" for i in range(1, 30)),
    ),
    "deep lists": ("config.yaml", "a: " + "[" * 90_000),
    "deep dicts": ("config.yaml", "".join(f"{' ' * i}a:\n" for i in range(300))),
    "a huge option": ("config.yaml", "a: 0x" + "f" * 90_000),
    "a large file": ("config.yaml", "a: " + "b" * 2_000_000),
    "no day": ("config.yaml", "a: 2001-99-99"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_gets_a_line_and_the_others_are_reported(
    damage: str, cli: Cli, own_run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(own_run, own_run.with_name("version_1"))
    name, content = DAMAGE[damage]
    (other / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    result = cli("report", own_run.parent)
    assert (result.status, result.out) == (1, "1 run in report.html and report.md\n")
    assert result.err.startswith(f"lit-mnist: error: {other}: "), result.err[:1000]
    assert result.err.count("\n") == 1
    assert len(result.err) < 2000
    assert "version_0" in (tmp_path / "report.html").read_text()
    assert "version_1" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "pwned").exists()


def test_each_damaged_run_gets_a_line_and_without_a_good_one_there_is_no_report(
    cli: Cli, own_run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(own_run, own_run.with_name("version_1"))
    (own_run / "test.json").write_text("[")
    (other / "metrics.csv").unlink()
    result = cli("report", own_run, other)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 2)
    assert not list(tmp_path.glob("report*"))


ODD_NAMES = (
    "<script>alert(1)</script>",
    "![a](http:evil.example)",
    "[a](evil.example)",
    "a|b",
    "`a``b`",
    "*a*",
    "_a_",
    "__a",
    "&lt;",
    "~~a~~",
    "a\\",
    "a\\|b",
    "$\\frac$",
    "$x$",
    "%",
    "1²3",
    "a\nb\n# c",
    "\x1b[31mred",
    "a\u202egnp.exe",
    "数字",
    os.fsdecode(b"\xff"),
)


def test_runs_of_odd_names_are_reported_as_what_they_are(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    names = [name.replace("/", "_") for name in ODD_NAMES]
    for name in names:
        other = shutil.copytree(own_run, own_run.with_name(name))
        config = (other / "config.yaml").read_text() + f"odd: {json.dumps(name, ensure_ascii=True)}\n"
        (other / "config.yaml").write_text(config)
    result = cli("report", own_run.parent)
    assert (result.status, result.err) == (0, "")
    markdown = (tmp_path / "report.md").read_text()
    assert all(letter.isprintable() or letter == "\n" for letter in markdown)
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown)
    inline = [child for token in tokens for child in token.children or [] if child.type != "text"]
    assert {token.type for token in inline} <= {"strong_open", "strong_close"}
    assert not [token for token in tokens if token.type.startswith(("html", "heading_open")) and token.tag != "h1"]
    shown = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    for name in names:
        escaped = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
        assert shown.count(escaped) == 2  # the name and the option
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert not [letter for letter in "\x1b\u202e\udcff" if letter in page]


def test_only_pictures_of_the_run_folder_are_shown(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    secret, picture = tmp_path / "secret", tmp_path / "picture.png"
    secret.write_text("a secret")
    shutil.copy(own_run / "history.png", picture)
    for name, make in {
        "a link to a text": lambda path: path.symlink_to(secret),
        "a link to a picture": lambda path: path.symlink_to(picture),
        "a link to nothing": lambda path: path.symlink_to(tmp_path / "none"),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a text": lambda path: path.write_text("a secret"),
        "a page": lambda path: path.write_text("<svg onload=alert(1)>"),
        "half a picture": lambda path: path.write_bytes(picture.read_bytes()[:500]),
        "a picture and much more": lambda path: path.write_bytes(picture.read_bytes() + bytes(2_000_000)),
        "a pipe": lambda path: os.mkfifo(path),
        "a folder": lambda path: path.mkdir(),
    }.items():
        (own_run / "confusion.png").unlink(missing_ok=True)
        make(own_run / "confusion.png")
        result = cli("report", own_run)
        assert (result.status, result.err.count("\n")) == (1, 1), name
        assert result.err.startswith(f"lit-mnist: error: {own_run / 'confusion.png'}: "), name
        page = (tmp_path / "report.html").read_text()
        assert page.count("<img") == 1, name  # history.png
        assert b64encode(b"a secret").decode()[:-2] not in page
        if (own_run / "confusion.png").is_dir():
            break


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "test.json"])
def test_a_link_out_of_the_run_folder_is_not_followed(name: str, cli: Cli, own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret\nanother\n")
    (own_run / name).unlink(missing_ok=True)
    (own_run / name).symlink_to(tmp_path / "secret")
    result = cli("report", own_run)
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert f"{name} is a link" in result.err
    assert "secret" not in result.err
