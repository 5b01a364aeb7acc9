"""The rooms of the package: a file imports only what stands above it, and each room keeps to its lines."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

SOURCE = ROOT / "src" / "lit_mnist"
LEAVES = ("atomic", "launch", "errors")  # which all below the starter may import
STARTER = ("__init__", "networks", "data", "metrics", "optim", "checkpoint", "classifier")
ROOMS = ("augment", *STARTER[1:], "image_files", "folder", "runs", "fast")
ROOMS += ("views", "use", "cli", "trials", "program", "__main__")
LINES = {  # at most, of all files of a room together
    STARTER: 760,
    ("augment",): 84,
    ("image_files", "folder"): 240,
    ("runs",): 528,
    ("fast",): 93,
    ("views",): 617,
    ("use",): 573,
    ("cli",): 415,
    ("trials",): 793,
    ("__main__",): 44,
    ("program",): 73,
    LEAVES: 261,
}
LONG = {"cli.py": "all that LightningCLI is given to do"}  # beyond 230


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lit_mnist"):
            names = {f"lit_mnist.{name.name}" for name in node.names} - {"lit_mnist.__version__"}
            found |= names if node.module == "lit_mnist" else {str(node.module)}
    return {module.split(".")[1] for module in found}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    own = room_of(path)
    if own == "__init__":
        return  # the public names
    for room in imports(path) - {own}:
        if own in STARTER:
            assert room in ROOMS[: ROOMS.index(own)], f"{room} stands below"
        else:
            assert room in LEAVES or (own in ROOMS and room in ROOMS[: ROOMS.index(own)]), f"{room} stands below"


def test_networks_know_torch_and_nothing_else_of_the_outside() -> None:
    for path in (SOURCE / "networks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert str(name).split(".")[0] in ("torch", "collections", "inspect", "math", "typing", "lit_mnist"), (
                    path
                )


@pytest.mark.parametrize("rooms", LINES, ids=", ".join)
def test_a_room_keeps_to_its_lines(rooms: tuple[str, ...]) -> None:
    lines = {path: len(path.read_text().splitlines()) for path in files() if room_of(path) in rooms}
    assert sum(lines.values()) <= LINES[rooms], lines
    assert {str(path.relative_to(SOURCE)) for path, count in lines.items() if count > 230} <= set(LONG)


def test_every_room_is_counted() -> None:
    assert {room_of(path) for path in files()} == {room for rooms in LINES for room in rooms}


def test_nothing_of_another_library_that_begins_with_an_underscore_is_used() -> None:
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert isinstance(node.value, ast.Name), f"{path}:{node.lineno}"
                assert node.value.id in ("self", "cls"), f"{path}:{node.lineno} {node.attr}"
            if isinstance(node, ast.ImportFrom):
                assert not any(part.startswith("_") for part in str(node.module).split(".") if part != "__main__")
        assert "fit_loop" not in path.read_text()


def test_private_names_of_ours_hide_none_of_a_base_class() -> None:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningCLI

    from lit_mnist.cli import CLI
    from lit_mnist.fast import FastClassifier
    from lit_mnist.runs.callbacks import RunCheckpoint

    for ours, base in ((CLI, LightningCLI), (FastClassifier, L.LightningModule), (RunCheckpoint, ModelCheckpoint)):
        mine = {name for kind in ours.__mro__ if kind.__module__.startswith("lit_mnist") for name in vars(kind)}
        hidden = {name for name in mine if name.startswith("_") and not name.startswith("__") and hasattr(base, name)}
        assert hidden <= {"_abc_impl"}
