"""A checkpoint from somebody else is data: it runs nothing, deletes nothing, and continues nothing by half."""

import contextlib
import copy
import io
import json
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, Trained
from PIL import Image
from reliability import Ended, assert_one_line, content, differences

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.runs.checkpoints import WholeCheckpointIO
from lit_mnist.runs.contradictions import DECISIVE

Cli = Callable[..., Result]
COMMANDS = ["fit", "validate", "test", "predict digit.png", "export", "demo --port 0"]


@pytest.fixture
def good(trained: Trained) -> dict[str, Any]:
    """The last checkpoint of a fit, to be changed and saved again."""
    return torch.load(trained.run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def path(own_run: Path) -> Path:
    """The checkpoint that every command takes, in a run of this test's own, beside an image to read."""
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save("digit.png")
    return own_run / "checkpoints" / "last.ckpt"


@pytest.fixture(autouse=True)
def _forget_imports() -> Iterator[None]:
    finders, modules, paths = list(sys.meta_path), set(sys.modules), list(sys.path)
    yield
    sys.meta_path[:], sys.path[:] = finders, paths
    for name in set(sys.modules) - modules:
        if name.startswith(("evil", "lightning_logs", "version_0")):
            del sys.modules[name]


def refused(done: Result, *words: str, status: int = 2) -> None:
    assert_one_line(Ended(done.status, done.out, done.err), *words, status=status)


def one_line(error: CheckpointError) -> None:
    assert "\n" not in str(error)


# Nothing that a checkpoint names is imported or made


def evil_module(folder: Path) -> Path:
    """A module that leaves a marker where it is imported, and one for each thing made of it."""
    marker = folder / "marker"
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nfrom lightning.pytorch.callbacks import Callback\nPath({str(marker)!r}).touch()\n"
        "class Thing(Callback):\n    def __init__(self, *args, **kwargs): pass\n"
    )
    return marker


HANDLER = {"class_path": "logging.FileHandler", "init_args": {"filename": "marker"}}
THING = {"class_path": "evil.Thing"}
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
SPELLINGS = {
    "class": lambda spec: spec,
    "class in a dict": lambda spec: {"a": {"b": spec}},
    "class in a list": lambda spec: [1, [spec]],
    "class in a text": lambda spec: str(spec),
    "class in a text in a dict": lambda spec: {"a": str(spec)},
}


def hide(good: dict[str, Any], place: str, spec: Any) -> None:
    spec = copy.deepcopy(spec)
    group, _, name = place.partition(".")
    if name:
        good[group][name] = spec if isinstance(spec, dict) else {"momentum": spec}
    else:
        good[group] = spec
    if name == "lr_scheduler_options":
        good[group]["lr_scheduler"] = "StepLR"


PLACES = ["hyper_parameters.optimizer_options", "hyper_parameters.lr_scheduler_options", "hyper_parameters.network"]
PLACES += ["datamodule_hyper_parameters.data_dir", "hyper_parameters", "datamodule_hyper_parameters"]


@pytest.mark.parametrize("instantiator", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("spec", [HANDLER, THING], ids=["handler", "module"])
def test_nothing_that_options_name_is_imported_or_made_by_any_command(
    spec: Any, spelling: str, instantiator: bool, good: dict[str, Any], path: Path, cli: Cli, monkeypatch: Any
) -> None:
    marker = evil_module(Path.cwd())
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for place in PLACES:
        bad = copy.deepcopy(good)
        hide(bad, place, SPELLINGS[spelling](spec))
        if instantiator and isinstance(bad[place.partition(".")[0]], dict):
            bad[place.partition(".")[0]]["_instantiator"] = INSTANTIATOR
        torch.save(bad, path)
        for load in (Classifier.load_from_checkpoint, MNISTDataModule.load_from_checkpoint):
            with contextlib.suppress(Exception):
                load(path)
        every = place == PLACES[0] and "text" not in spelling  # all of them read a checkpoint in the same place
        for command in COMMANDS if every else ("test", "predict digit.png"):
            done = cli(*command.split(), "--ckpt_path", "last")
            if done.status or "text" not in spelling:  # a text is data, also where it is nonsense
                refused(done)
            assert not marker.exists(), (place, command)


def in_torchs_linear(device: Any) -> dict[str, Any]:
    return {"class_path": "torch.nn.Linear", "init_args": {"in_features": 784, "out_features": 10, "device": device}}


NO_NETWORKS = {
    **{spelling: in_torchs_linear(spell(HANDLER)) for spelling, spell in SPELLINGS.items()},
    "escaped": in_torchs_linear(json.dumps(HANDLER).replace(".", "\\u002e")),
    "a function": in_torchs_linear("evil.Thing"),
    "more than a spec": {**in_torchs_linear("cpu"), "dict_kwargs": HANDLER},
    "no module": HANDLER,
    "not imported": THING,
    "a metric": {"class_path": "torchmetrics.MeanMetric"},
    "the classifier": {"class_path": "lightning.pytorch.LightningModule"},
    "a text": "torch.nn.Linear",
    "a list": [THING],
    "no class": {"init_args": {}},
    "a number": {"class_path": 3},
}


@pytest.mark.parametrize("spec", NO_NETWORKS.values(), ids=NO_NETWORKS)
def test_nothing_is_made_for_a_network_but_networks(
    spec: Any, good: dict[str, Any], path: Path, cli: Cli, monkeypatch: Any
) -> None:
    marker = evil_module(Path.cwd())
    monkeypatch.syspath_prepend(str(Path.cwd()))
    good["hyper_parameters"]["network"] = spec
    torch.save(good, path)
    with pytest.raises(CheckpointError):
        Classifier.load_from_checkpoint(path)
    for command in COMMANDS:
        refused(cli(*command.split(), "--ckpt_path", "last"))
        assert not marker.exists(), command


@pytest.mark.parametrize("spec", [HANDLER, THING], ids=["handler", "module"])
@pytest.mark.parametrize("where", ["resume", "callbacks", "loops", "lr_schedulers", "optimizer_states", "state_dict"])
def test_nothing_that_the_state_names_is_imported_or_made(
    spec: Any, where: str, good: dict[str, Any], path: Path, cli: Cli, monkeypatch: Any
) -> None:
    marker = evil_module(Path.cwd())
    monkeypatch.syspath_prepend(str(Path.cwd()))
    if isinstance(good[where], dict):
        good[where] |= {"callbacks": [spec], "options": {"trainer": {"logger": spec, "callbacks": [spec]}}, **spec}
    else:
        good[where].append(spec)
    torch.save(good, path)
    for command in COMMANDS[:-1]:
        cli(*command.split(), "--ckpt_path", "last")
        assert not marker.exists(), command


@pytest.mark.parametrize("option", [*DECISIVE, "logger", "profiler", "plugins", "strategy"])
def test_nothing_that_the_options_of_a_checkpoint_away_from_its_run_name_is_imported(
    option: str, good: dict[str, Any], cli: Cli, monkeypatch: Any
) -> None:
    marker = evil_module(Path.cwd())
    monkeypatch.syspath_prepend(str(Path.cwd()))
    options = good["resume"]["options"]
    for spec in ("evil.Thing", THING, [THING], str(THING), ["evil.Thing"]):
        torch.save(good | {"resume": good["resume"] | {"options": with_option(options, option, spec)}}, "alone.ckpt")
        refused(cli("fit", "--ckpt_path", "alone.ckpt", "--trainer.max_epochs", 3))
        assert not marker.exists(), spec


def with_option(options: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Options with another value of the Trainer's option of that name."""
    return options | {"trainer": options["trainer"] | {name: value}}


@pytest.mark.parametrize("option", ["callbacks", "logger", "profiler", "plugins", "strategy"])
@pytest.mark.parametrize("module", ["lightning_logs.version_0.evil", "version_0.evil", "evil"])
def test_a_fit_that_is_continued_imports_nothing_from_its_run_folder(
    module: str, option: str, path: Path, cli: Cli, monkeypatch: Any
) -> None:
    run = path.parent.parent
    marker = evil_module(run)
    monkeypatch.syspath_prepend(str(run if module == "evil" else run.parent if module == "version_0.evil" else Path()))
    config = run / "config.yaml"
    spec = f"{{class_path: {module}.Thing}}"
    old = next(line for line in config.read_text().splitlines() if line.startswith(f"  {option}:"))
    config.write_text(config.read_text().replace(old, f"  {option}: {f'[{spec}]' if option == 'callbacks' else spec}"))
    refused(cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3))
    assert not marker.exists()


# Nothing that a checkpoint names is deleted or written


@pytest.mark.parametrize("dirpath", [None, "checkpoints", "elsewhere"])
def test_a_fit_that_is_continued_deletes_and_writes_nothing_that_a_checkpoint_names(
    dirpath: str | None, good: dict[str, Any], path: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = (path.parent if dirpath == "checkpoints" else tmp_path / "elsewhere").resolve()
    victims = [tmp_path / "home" / "letter.txt", tmp_path / "home.ckpt", folder / "folder" / "letter.txt"]
    victims += [tmp_path / "elsewhere" / "other.ckpt"]
    for victim in victims:
        victim.parent.mkdir(parents=True, exist_ok=True)
        victim.write_text("dear")
    callback = "{class_path: ModelCheckpoint, init_args: {monitor: val/loss, mode: max, save_top_k: 1, dirpath: D}}"
    options = ["--trainer.callbacks", f"[{callback.replace('D', str(folder))}]"] if dirpath else []
    assert cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, *options).status == 0
    good = torch.load(path, weights_only=True)
    for named in (tmp_path / "home", tmp_path / "home.ckpt", folder / "folder", tmp_path / "elsewhere" / "other.ckpt"):
        for state in good["callbacks"].values():
            if "best_model_path" in state or "best_score" in state:
                state |= {"dirpath": state.get("dirpath"), "monitor": state.get("monitor"), "current_score": None}
                state |= {"best_model_score": torch.tensor(9.0), "kth_value": torch.tensor(9.0)}
                state |= {"best_k_models": {str(named): torch.tensor(-9.0)}, "kth_best_model_path": str(named)}
                state |= {"best_model_path": str(named), "last_model_path": str(named)}
        torch.save(good, path)
        for epochs in (4, 5):
            done = cli("fit", "--ckpt_path", path, "--trainer.max_epochs", epochs, *options)
            assert done.status in (0, 2), done.err
            assert all(victim.read_text() == "dear" for victim in victims), named


def test_only_checkpoints_of_the_run_are_removed(good: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    io_plugin = WholeCheckpointIO(folder)
    own, written = folder / "own.ckpt", tmp_path / "other" / "written.ckpt"
    for checkpoint in (own, written):
        io_plugin.save_checkpoint(good, checkpoint)
    before = WholeCheckpointIO(folder)  # of a process that continues
    foreign = tmp_path / "other" / "foreign.ckpt"
    foreign.touch()
    (folder / "note.txt").touch()
    (folder / "folder.ckpt").mkdir()
    (folder / "link.ckpt").symlink_to(foreign)
    for name in (foreign, written, folder, folder / "note.txt", folder / "folder.ckpt", folder / "link.ckpt"):
        before.remove_checkpoint(name)
        before.remove_checkpoint(folder / ".." / ".." / "run" / ".." / "other" / "foreign.ckpt")
        assert name.exists()
    assert foreign.exists()
    before.remove_checkpoint(own)
    io_plugin.remove_checkpoint(written)
    assert not own.exists()
    assert not written.exists()


# What is wrong but can be loaded is refused in one line


def variants(good: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoints with one thing missing, emptied, or of another type, each with a word for it."""
    for name in good:
        for wrong in (None, [], {}, "x", 10**12, [[1]], {"a": None}):
            yield f"{name}={wrong}", {**good, name: wrong}
        yield f"without {name}", {key: value for key, value in good.items() if key != name}
    for group in ("hyper_parameters", "datamodule_hyper_parameters", "resume", "loops", "callbacks"):
        for name in good[group]:
            for wrong in (10**12, -1, float("nan"), "x", [None], {"a": 1}):
                yield f"{group}.{name}={wrong}", {**good, group: {**good[group], name: wrong}}
            if group in ("resume", "loops", "callbacks"):
                shorter = {key: value for key, value in good[group].items() if key != name}
                yield f"{group} without {name}", {**good, group: shorter}
    for sizes in ([10**12], [10**18], [10**12] * 20, [0], [-5], ["a"], [2.5], [32, 16, 8], []):
        network = {"class_path": "lit_mnist.networks.mlp.MLP", "init_args": {"hidden_sizes": sizes}}
        yield (
            f"hyper_parameters: {sizes}",
            {**good, "hyper_parameters": {**good["hyper_parameters"], "network": network}},
        )
    for name, weight in good["state_dict"].items():
        for wrong in (weight[:1], weight.T.contiguous(), weight.double()[..., None], None, 3, torch.tensor(1.0)):
            yield f"state_dict.{name}", {**good, "state_dict": {**good["state_dict"], name: wrong}}
        expanded = torch.zeros(1).expand(weight.shape)
        yield f"state_dict.{name} expanded", {**good, "state_dict": {**good["state_dict"], name: expanded}}
    state = good["optimizer_states"][0]
    for wrong in ({}, {"state": {}}, {**state, "state": {}}, {**state, "param_groups": []}, {**state, "state": [1]}):
        yield f"optimizer_states={list(wrong)}", {**good, "optimizer_states": [wrong]}
    yield "two optimizers", {**good, "optimizer_states": [state, state]}
    yield "a scheduler more", {**good, "lr_schedulers": [{"last_epoch": 1}]}


def test_a_wrong_checkpoint_is_refused_in_one_line_from_python(good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "wrong.ckpt"
    for what, wrong in variants(good):
        torch.save(wrong, path)
        try:
            classifier = Classifier.load_from_checkpoint(path)
        except CheckpointError as error:
            one_line(error)
        else:  # what is wrong is nothing that a classifier is made of
            assert differences(dict(classifier.state_dict()), dict(good["state_dict"])) == [], what


def test_a_wrong_checkpoint_is_continued_whole_or_refused_in_one_line(
    good: dict[str, Any], path: Path, cli: Cli, tmp_path: Path
) -> None:
    run = path.parent.parent
    shutil.copytree(run, tmp_path / "before")
    resume = ("fit", "--ckpt_path", path, "--trainer.max_epochs", 3, "--skip", "[history,samples,weights,graph]")
    assert cli(*resume).status == 0
    expected = content(path)["state_dict"]
    counts = {0: 0, 2: 0}
    for what, wrong in variants(good):
        if "state_dict" in what.partition("=")[0] or "hyper_parameters" in what:
            continue  # the same code as from Python reads these
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "before", run)
        torch.save(wrong, path)
        done = cli(*resume)
        counts[done.status] += 1
        if done.status:
            refused(done)
            assert "Traceback" not in done.err
        else:
            assert differences(content(path)["state_dict"], expected) == [], what
    assert counts[2] > counts[0], counts


def test_a_checkpoint_of_a_fit_from_python_can_be_used_and_says_what_it_lacks_to_be_continued(
    digits: MNISTDataModule, quiet: Callable[..., Any], path: Path, cli: Cli
) -> None:
    trainer = quiet(max_epochs=1)
    trainer.fit(Classifier(network=MLP(hidden_sizes=[16])), digits)
    trainer.save_checkpoint(path)
    for command in ("validate", "test", "predict digit.png", "export --format torch_export"):
        assert cli(*command.split(), "--ckpt_path", "last").status == 0, command
    refused(cli("fit", "--ckpt_path", path), "last.ckpt", "lacks resume")


# Damage


def test_a_flipped_byte_is_noticed_or_changes_nothing(good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "flipped.ckpt"
    torch.save(good, path)
    whole = path.read_bytes()
    chance = random.Random(0)
    directory = whole.index(b"PK\x01\x02")
    pickled = whole.index(b"data.pkl")
    places = [chance.randrange(len(whole)) for _ in range(200)]  # nearly all of them in tensors
    places += [chance.randrange(directory, len(whole)) for _ in range(300)]
    places += [chance.randrange(pickled, pickled + 4000) for _ in range(300)]
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            assert differences(read_checkpoint(path), good) == [], place
        except CheckpointError as error:
            one_line(error)
            noticed += 1
    assert noticed > 400, noticed


def test_a_file_that_unpacks_to_more_than_it_holds_is_refused(good: dict[str, Any], tmp_path: Path) -> None:
    packed, stored = io.BytesIO(), tmp_path / "stored.ckpt"
    torch.save({**good, "filler": torch.zeros(50_000_000)}, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    bomb = tmp_path / "bomb.ckpt"
    bomb.write_bytes(packed.getvalue())
    assert bomb.stat().st_size < 2_000_000
    with pytest.raises(CheckpointError, match="unpacks to more than its own size"):
        read_checkpoint(bomb)
    names = {name: torch.zeros(1).expand(10**6, 10**6) for name in good["state_dict"]}
    torch.save({**good, "state_dict": names}, bomb)
    with pytest.raises(CheckpointError, match="more than its own size"):
        read_checkpoint(bomb)


# Weights that are no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_no_numbers_are_refused_by_every_command(
    command: str, value: float, good: dict[str, Any], path: Path, cli: Cli
) -> None:
    good["state_dict"]["network.layers.0.weight"][3, 5] = value
    torch.save(good, path)
    refused(cli(*command.split(), "--ckpt_path", "last"), "last.ckpt", "infinite or not a number")


@pytest.mark.parametrize("options", [(), ("--trainer.limit_val_batches", "0")])
def test_a_fit_whose_last_step_diverges_fails_and_leaves_no_checkpoint_of_it(
    options: tuple[str, ...], cli: Cli
) -> None:
    steps = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1)
    done = cli("fit", "--data.dataset", "digits", "--model.lr", "1e38", *steps, *options)
    refused(done, "epoch 1, step 1", "try a lower --model.lr", status=1)
    assert not list(Path("lightning_logs").rglob("*.ckpt"))


def test_answers_that_are_no_numbers_are_refused(good: dict[str, Any], path: Path, cli: Cli) -> None:
    for weight in good["state_dict"].values():
        weight.fill_(1e30)
    torch.save(good, path)
    for command in ("validate", "test", "predict digit.png"):
        refused(cli(*command.split(), "--ckpt_path", "last"), "number")
    assert not (path.parent.parent / "test.json").exists()
