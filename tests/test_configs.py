"""Every configuration that is shipped."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

CONFIGS = sorted(Path(__file__).parent.parent.joinpath("configs").glob("*.yaml"))
DROPOUT = {"class_path": "MLP", "init_args": {"dropout": [0.4, 0.3]}}
EXPECTED: dict[str, dict[str, dict[str, Any]]] = {  # beside the defaults, the whole of the recipe's variants
    "mlp": {"trainer": {"max_epochs": 10}},
    "mlp_dropout": {"trainer": {"max_epochs": 10}, "model": {"network": DROPOUT}},
    "mlp_dropout_30": {"trainer": {"max_epochs": 30}, "model": {"network": DROPOUT}},
}

each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_tutorials_runs_are_shipped(name: str) -> None:
    (config,) = [path for path in CONFIGS if path.stem == name]
    assert yaml.safe_load(config.read_text()) == EXPECTED[name]


@each_config
def test_a_config_opens_with_its_own_command_and_what_it_shows(config: Path) -> None:
    contract = []
    for line in config.read_text().splitlines():
        if not line.startswith("# "):
            break
        contract.append(line.removeprefix("# "))
    assert contract, "no comment at the top"
    assert shlex.split(contract[0]) == ["python", "-m", "lit_mnist", "fit", "--config", f"configs/{config.name}"]
    assert contract[1:], "the command alone"


@each_config
def test_a_config_runs(config: Path, cli: Callable[..., Any], fashion_dir: Path, tmp_path: Path) -> None:
    data = ["--data.dataset", "fashion_mnist", "--data.data_dir", fashion_dir]
    short = [
        "--trainer.max_epochs",
        1,
        "--trainer.limit_train_batches",
        2,
        "--trainer.default_root_dir",
        tmp_path / "x",
    ]
    done = cli("fit", "--config", config, *data, *short, "--trainer.accelerator", "cpu")
    assert (done.status, done.err) == (0, "")
    checkpoint = torch.load(tmp_path / "x/lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    wanted = yaml.safe_load(config.read_text())
    network = wanted.get("model", {}).pop("network", "MLP")
    spec = network if isinstance(network, dict) else {"class_path": network, "init_args": {}}
    trained = checkpoint["hyper_parameters"]["network"]
    assert trained["class_path"].endswith(f".{spec['class_path']}")
    assert trained["init_args"] == trained["init_args"] | spec["init_args"]
    for group, saved in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters")):
        for key, value in wanted.get(group, {}).items():
            if key != "dataset":
                assert checkpoint[saved][key] == value
