"""The rungs of the ladder: each has its parameters, and a fit of it can go on."""

from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from conftest import ROOT, Cli
from lightning.pytorch.callbacks import Callback

PARAMETERS = {
    "configs/ladder/3_one_cycle": 235_146,
    "configs/ladder/4_affine": 235_146,
    "configs/ladder/5_elastic": 235_146,
    "configs/ladder/6_cnn": 18_810,
    "configs/ladder/7_wide_cnn": 163_546,
    "docs/ladder/small": 7_698,
}
ENDS = (".weight", ".bias")  # of parameters; batch norm has other entries, too


class Stop(Callback):
    """Ctrl-C when the second epoch begins, while it is switched on."""

    on = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if Stop.on and trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_every_rung_is_counted() -> None:
    assert PARAMETERS.keys() == {str(path.relative_to(ROOT))[:-5] for path in ROOT.glob("*/ladder/*.yaml")}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_rung_continued_from_an_epoch_equals_one_that_never_stopped(name: str, cli: Cli, tmp_path: Path) -> None:
    config = ("--config", ROOT / f"{name}.yaml", "--data.dataset", "digits", "--figures", "false")
    short = ("--trainer.max_epochs", 2, "--trainer.limit_train_batches", 3, "--trainer.callbacks+", "test_ladder.Stop")
    states = []
    for folder, Stop.on in (("whole", False), ("halves", True)):
        root = ("--trainer.default_root_dir", tmp_path / folder)
        last = tmp_path / folder / "lightning_logs/version_0/checkpoints/last.ckpt"
        assert cli("fit", *config, *short, *root).status == (130 if Stop.on else 0)
        if Stop.on:
            Stop.on = False
            cli("fit", "--ckpt_path", last, *root).worked()
        states.append(torch.load(last, weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    weights = [value for key, value in states[0].items() if key.startswith("network.") and key.endswith(ENDS)]
    assert sum(weight.numel() for weight in weights) == PARAMETERS[name]
