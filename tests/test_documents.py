"""Every command and snippet of README.md and of the pages on parts and own images runs, in the order given."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from conftest import ROOT, Cli
from PIL import Image
from test_house import SOURCE, STARTER

from lit_mnist import MNISTDataModule

README = (ROOT / "README.md").read_text()
SHORT = ("--trainer.enable_model_summary", "false", "--trainer.max_epochs", 2)
SLOW = ("demo", "--trainer.devices", "reproduce", "tune")  # which have tests of their own


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def run(cli: Cli, command: str) -> None:
    """Run a command of the program in this process, a fit for a moment."""
    words: list[Any] = shlex.split(command)[3:]
    if words[0] == "fit" and not any(word.endswith(".help") for word in words):
        words += SHORT if "--ckpt_path" not in words else SHORT[:2]
        words += ["--data.dataset", "digits"] if not {"--data", "--ckpt_path", "pets.yaml"} & {*words} else []
    done = cli(*words)
    assert done.status == 0, f"{command}\n{done.err}"


def write_snippets(text: str, folder: Path) -> None:
    for name, code in re.findall(r"```(?:python|yaml)\n# (\w+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(code)
        sys.modules.pop(name.partition(".")[0], None)  # that of another page


def test_every_command_of_the_readme_works_in_the_order_given(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_own_images(tmp_path)
    (tmp_path / "scans").mkdir()
    data = MNISTDataModule("digits")
    data.setup("test")
    for name, image in zip(("photo.jpg", "scans/1.png", "scans/2.png"), data.splits["test"][0], strict=False):
        Image.fromarray(image.numpy()).save(tmp_path / name)
    found = [command for command in commands(README) if command.startswith("python -m lit_mnist")]
    assert len(found) >= 10
    for command in found:
        if not any(word in command for word in SLOW):
            run(cli, command)


def write_own_images(folder: Path) -> None:
    """Data that the page on own images assumes: a folder of two classes, and tables of pixels."""
    data = MNISTDataModule("digits")
    data.setup()
    (images, labels), (others, _) = data.splits["train"], data.splits["test"]
    for label, name in enumerate(("cat", "dog")):
        (folder / "pets" / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == label][:40]):
            Image.fromarray(image.numpy()).convert("RGB").save(folder / "pets" / name / f"{i}.png")
    rows = np.column_stack([labels[:300], images[:300].flatten(1)])
    np.savetxt(folder / "train.csv", rows, "%d", ",", header="label,pixels", comments="")
    np.savetxt(folder / "test.csv", others[:20].flatten(1), "%d", ",", header="pixels", comments="")


@pytest.mark.filterwarnings("ignore:.*recommended number of samples")
@pytest.mark.parametrize("page", ["parts", "own_images", "scaling", "pretrained"])
def test_every_snippet_and_command_of_the_page_works(
    page: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    write_own_images(tmp_path)
    write_snippets(text, tmp_path)
    for command in commands(text):
        if command.startswith("python -m lit_mnist"):
            run(cli, command)
        else:
            script, *arguments = shlex.split(command)[1:]
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(str(tmp_path / script), run_name="__main__")
    if page == "own_images":
        ids, classes = np.loadtxt(tmp_path / "submission.csv", int, delimiter=",", skiprows=1, unpack=True)
        assert ids.tolist() == list(range(1, 21))
        data = MNISTDataModule("digits")
        data.setup("test")
        assert (classes == data.splits["test"][1][:20].numpy()).mean() > 0.5


def test_the_tables_of_the_ladder_are_those_of_its_results() -> None:
    ladder = runpy.run_path(str(ROOT / "docs/ladder/ladder.py"))
    for page, table in (("docs/ladder.md", "table"), ("README.md", "short_table")):
        assert "\n".join(ladder[table](ladder["read"]())) in (ROOT / page).read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_page_for_readers_of_keras_and_its_notebook_run_and_print_what_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = ROOT / "docs" / "from_keras.ipynb"
    builder, kept = runpy.run_path(str(ROOT / "docs" / "notebook.py")), nbformat.read(path, as_version=4)
    made = builder["run"](builder["notebook"]())
    assert [cell.source for cell in made.cells] == [cell.source for cell in kept.cells], "make it: docs/notebook.py"
    page = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", path.with_suffix(".md").read_text(), re.DOTALL)
    printed = {code.rstrip(): text for code, text in page}
    number = r" *\d[\d,]*\.?\d*"
    for new, old in zip(made.cells, kept.cells, strict=True):
        if new.cell_type == "code":
            out, before = ("".join(one.get("text", "") for one in cell.outputs) for cell in (new, old))
            for text in (before, printed.get(new.source, "")):
                assert re.sub(number, " #", out) == re.sub(number, " #", text), new.source


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


def test_the_page_of_the_reproduction_says_what_its_results_say() -> None:
    folder = ROOT / "docs" / "reproduction"
    assert (folder / "README.md").read_text().endswith(runpy.run_path(str(folder / "published.py"))["text"]())
    assert runpy.run_path(str(folder / "differences.py"))["table"]() in (ROOT / "docs" / "from_keras.md").read_text()


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "\n".join(commands(README)), re.MULTILINE))
def test_every_make_target_in_the_readme_exists(target: str) -> None:
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_readme_counts_the_lines_of_the_core() -> None:
    files = [SOURCE / "augment.py", *(path for room in STARTER for path in SOURCE.glob(f"{room}*"))]
    files = [path for part in files for path in ([part] if part.is_file() else part.glob("*.py"))]
    count = sum(len(path.read_text().splitlines()) for path in files)
    (claimed,) = re.findall(r"a core of (\d+) lines", README)
    assert int(claimed) == round(count, -1)
    assert len(README.splitlines()) <= 130
