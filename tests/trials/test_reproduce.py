"""reproduce: the same fit over several seeds, continued where it was stopped."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Cli

from lit_mnist.trials import reproduce as module
from lit_mnist.trials import results

SHORT = {"trainer": {"max_epochs": 2}, "data": {"dataset": "digits", "batch_size": 64}}


@pytest.fixture
def configs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    paths[0].write_text(yaml.safe_dump(SHORT))
    paths[1].write_text(
        yaml.safe_dump(SHORT | {"model": {"network": {"class_path": "CNN", "init_args": {"channels": 2}}}})
    )
    return paths


def test_every_config_is_fitted_and_tested_with_every_seed(
    cli: Cli, configs: list[Path], tmp_path: Path, one_thread: None
) -> None:
    layer = ROOT / "configs/keras_loss.yaml"
    cli("reproduce", *configs, "--seeds", 3, "--layer", layer, "--output", "out", "--workers", 2).worked()
    with Path("out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["config"], row["seed"], row["epoch"]) for row in rows[:4]] == [
        ("first", "0", "1.0"),
        ("first", "0", "2.0"),
        ("second", "0", "1.0"),
        ("second", "0", "2.0"),
    ]
    text = Path("out/README.md").read_text()
    for config in ("first", "second"):
        losses = [float(row["test/loss"]) for row in rows if row["config"] == config and row["test/loss"]]
        assert len(losses) == len(set(losses)) == 3
        assert f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}" in text
        assert len([row for row in rows if row["config"] == config and row["test/keras_loss"]]) == 3
    answers = [np.load(f"out/runs/first/seed_{seed}/lightning_logs/version_0/probabilities.npz") for seed in range(3)]
    mean = sum(one["probabilities"].astype(float) for one in answers)
    assert f"| {np.mean(mean.argmax(1) == answers[0]['labels']):.4f} |" in text, "the seeds together"
    assert Path("out/curves.png").stat().st_size > 10_000
    cli("fit", "--config", configs[0], "--seed_everything", 2).worked()
    paths = [tmp_path, Path("out/runs/first/seed_2")]
    states = [torch.load(path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True) for path in paths]
    weights, others = (state["state_dict"].values() for state in states)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True)), "the same as fit in one thread"
    assert "| test/loss | `second` |" in text


def test_a_call_that_was_stopped_continues(cli: Cli, configs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []
    run_command = module.run_command

    def stop_after_three(args: list[str], **study: object) -> object:
        if "--print_config" in args[-1]:
            return run_command(args, **study)
        done.append(args)
        if len(done) == 4:
            raise KeyboardInterrupt
        return run_command(args, **study)

    monkeypatch.setattr(module, "run_command", stop_after_three)
    stopped = cli("reproduce", configs[0], "--seeds", 2, "--workers", 1)
    assert stopped.status == 130
    assert stopped.err.endswith(f"reproduce {configs[0]} --seeds 2 --workers 1\n")
    assert [args[0] for args in done] == ["fit", "test", "fit", "test"]
    done[:] = [[]] * 10
    cli("reproduce", configs[0], "--seeds", 2, "--workers", 1).worked()
    assert [args[0] for args in done[10:]] == ["fit", "test"]
    assert "--ckpt_path" in done[10]


def test_fits_of_different_length_are_compared_by_their_last_epochs(cli: Cli) -> None:
    Path("a.0.yaml").write_text(yaml.safe_dump(SHORT))
    Path("a.1.yaml").write_text(yaml.safe_dump(SHORT | {"trainer": {"max_epochs": 3}}))
    cli("reproduce", "a.0.yaml", "a.1.yaml", "--seeds", 2, "--workers", 1, "--output", "out").worked()
    rows = results.read_run(Path("out/runs/a.1/seed_1/lightning_logs/version_0"))
    assert len(rows) == 3
    text = Path("out/README.md").read_text()
    assert "| `a.0` | 2 |" in text
    assert "| test/loss | `a.1` |" in text
    rows = [{"config": "a", "seed": seed, "val/loss": loss} for seed, loss in ((0, 3), (0, 0), (1, 1))]
    assert np.array_equal(results.curves_of(rows, "a", "val/loss"), [[3, 0], [1, np.nan]], equal_nan=True)
    assert results.summary(rows)[0][1] == ["`a`", "2", "0.5000 ± 0.7071"]


def test_bad_input_gets_one_line(cli: Cli) -> None:
    cli("reproduce", ROOT / "configs/mlp.yaml", "--seeds", 1).refused("--seeds: 1 is not at least 2")
    cli("reproduce", ROOT / "configs/mlp.yaml", "--workers", 0).refused("--workers: 0 is not at least 1")
    cli("reproduce", "missing.yaml").refused("missing.yaml: there is no such config")
    cli("reproduce").refused("configs")


def test_results_of_another_config_are_never_reported(cli: Cli, configs: list[Path]) -> None:
    first = ("reproduce", configs[0], "--seeds", 2, "--output", "out", "--workers", 1)
    cli(*first).worked()
    cli(*first).worked()
    configs[0].write_text(
        "# the same in another order\n" + yaml.safe_dump(dict(reversed(SHORT.items())), sort_keys=False)
    )
    cli(*first).worked()
    Path("out/runs/first/seed_1/lightning_logs/version_0/probabilities.npz").unlink()
    cli(*first).worked()
    assert Path("out/README.md").read_text().count("| - |") == 1, "seeds that were not all saved are not put together"
    configs[0].write_text("data: {dataset: digitz}")
    assert cli(*first).err.endswith("digitz is not a valid value; did you mean digits?\n")
    configs[0].write_text("data: [1,")
    cli(*first).refused("first.yaml: while parsing")
    configs[0].write_text("model: {network: {class_path: MLP, init_args: {dropuot: 0.1}}}")
    cli(*first).refused(f"{configs[0]}: --model.network.dropuot", "did you mean --model.network.dropout?")
    configs[0].write_text(yaml.safe_dump(SHORT | {"model": {"optimizer": {"init_args": {"lr": 0.5}}}}))
    cli(*first).refused("--output", "first/seed_0 has a fit whose options differ from those of")
    configs[0].write_text(yaml.safe_dump(SHORT))
    cli(*first, "--layer", ROOT / "configs/keras_loss.yaml").refused(
        "has a fit whose options differ from those of", "keras_loss.yaml"
    )
    (configs[0].parent / "other").mkdir()
    same_name = configs[0].parent / "other/first.yaml"
    same_name.write_text(yaml.safe_dump(SHORT))
    cli(*first[:2], same_name, *first[2:]).refused("two configs have the same name")


def test_data_and_model_are_those_that_the_config_names(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own_parts.py").write_text(
        "from lit_mnist import Classifier, MNISTDataModule\n"
        "class Inverted(MNISTDataModule):\n"
        "    def load(self, split):\n"
        "        images, labels = super().load(split)\n"
        "        return 255 - images, labels\n"
        "class Own(Classifier):\n"
        "    def __init__(self, number: int = 1, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    data = {"class_path": "own_parts.Inverted", "init_args": {"dataset": "digits"}}
    model = {"class_path": "own_parts.Own", "init_args": {"number": 2}}
    Path("own.yaml").write_text(yaml.safe_dump({"data": data, "model": model, "trainer": {"max_epochs": 1}}))
    cli("reproduce", "own.yaml", "--seeds", 2, "--output", "out", "--workers", 1).worked()
    run = Path("out/runs/own/seed_1/lightning_logs/version_0")
    assert json.loads((run / "test.json").read_text())["dataset"] == "Inverted"
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["class_path"] == "own_parts.Own"
