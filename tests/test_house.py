"""The rooms of the package: a file imports only what stands above it, and what stands above works alone."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lit_mnist"
LEAVES = ("atomic", "errors", "checkpoint")  # which all may import
ROOMS = (
    "networks",
    "data",
    "classifier",
    "runs",
    "fast",
    "views",
    "use",
    "parser",
    "cli",
    "trials",
    "program",
    "__main__",
)
LONG = {  # more than 230 lines, and why
    "cli.py": "all that LightningCLI is given to do",
    "trials/study.py": "tables and sentences of one report",
    "views/figures.py": "one function per figure",
}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a module: lit_mnist.views.figures -> views."""
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"lit_mnist.{name.name}" for name in node.names} - {"lit_mnist.__version__"}
            found |= names if node.module == "lit_mnist" else {str(node.module)}
    return {module for module in found if module and module.startswith("lit_mnist.")}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the public names
    for module in imports(path):
        room = room_of(module)
        if own in LEAVES:
            assert room in LEAVES, f"{module} is no leaf"
        elif room != own:
            assert room in LEAVES or ROOMS.index(room) < ROOMS.index(own), f"{module} stands below"


def test_networks_know_torch_and_nothing_else_of_the_outside() -> None:
    for path in (SOURCE / "networks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module
                assert node.module.split(".")[0] in ("torch", "collections", "typing", "lit_mnist"), path


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_of_more_than_230_lines_has_a_reason(path: Path) -> None:
    long = len(path.read_text().splitlines()) > 230
    assert long == (str(path.relative_to(SOURCE)) in LONG)


def renamed_copy(folder: Path, rooms: tuple[str, ...] | None = None) -> dict[str, str]:
    """Copy the package, or some of its rooms, under another name; returns the environment to run it in."""
    shutil.copytree(SOURCE, folder / "my_digits", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "my_digits").iterdir():
        if rooms and path.stem not in rooms:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder / "my_digits").rglob("*.py"):
        path.write_text(path.read_text().replace("lit_mnist", "my_digits"))
    hidden = "import sys; sys.modules['lit_mnist'] = None"  # so that nothing is taken from what is installed
    (folder / "sitecustomize.py").write_text(f"{hidden}\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    return environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def run(folder: Path, environ: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


QUICK = ("--data.dataset", "digits", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu")


def test_without_what_stands_below_lightnings_own_command_line_fits_and_tests(tmp_path: Path) -> None:
    environ = renamed_copy(tmp_path, ("__init__", "networks", "data", "classifier", *LEAVES))
    (tmp_path / "main.py").write_text(
        "from lightning.pytorch.cli import LightningCLI\n"
        "from my_digits import Classifier, MNISTDataModule\n"
        "LightningCLI(Classifier, MNISTDataModule)\n"
    )
    run(tmp_path, environ, "main.py", "fit", *QUICK, "--model.network.dropout", "0.2")
    (checkpoint,) = tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    assert "test/accuracy" in run(tmp_path, environ, "main.py", "test", *QUICK, "--ckpt_path", str(checkpoint))


def test_a_copy_under_another_name_that_is_not_installed_fits_and_tests(tmp_path: Path) -> None:
    environ = renamed_copy(tmp_path)
    run(tmp_path, environ, "-m", "my_digits", "fit", *QUICK)
    assert "test_accuracy" in run(tmp_path, environ, "-m", "my_digits", "test")
    assert "exported" in run(tmp_path, environ, "-m", "my_digits", "export", "--format", "torch_export")
