"""The report of runs: what it says follows from the numbers, and its page needs no other file."""

import json
import re
import shutil
from pathlib import Path

import pytest
from browser import chromium, visit
from conftest import Cli, Trained

from lit_mnist.views.report import overfitting, read_run, report


def rows(*losses: float) -> list[dict[str, float]]:
    return [
        {"epoch": i + 1.0, "val/loss": loss, "train/loss": 1 / (i + 1), "val/accuracy": 0.9, "train/accuracy": 0.95}
        for i, loss in enumerate(losses)
    ]


def test_a_val_loss_that_turned_is_called_overfitting_with_where_and_by_how_much() -> None:
    assert overfitting(rows(0.3, 0.2, 0.25, 0.3)) == (
        "It overfits after epoch 2: there val loss turned at 0.2000 and rose by 0.1000 (50%) to 0.3000 in epoch 4,"
        " while train loss fell from 0.5000 to 0.2500."
    )


@pytest.mark.parametrize("end", [0.19, 0.209])
def test_a_val_loss_that_still_falls_or_rises_a_little_is_not(end: float) -> None:
    assert overfitting(rows(0.3, 0.2, end)).startswith("No clear overfitting: val loss is lowest in epoch")


def test_without_validation_nothing_is_said_of_it() -> None:
    assert overfitting([{"epoch": 1.0, "train/loss": 0.3}]).startswith("Nothing was validated")


@pytest.fixture
def two_runs(cli: Cli, own_run: Path) -> Path:
    """The trained run, tested, and a copy of it with another seed, another dropout and other losses, untested."""
    cli("test").worked()
    other = shutil.copytree(own_run, own_run.parent / "version_10")
    config = (other / "config.yaml").read_text()
    config = config.replace("seed_everything: 7", "seed_everything: 8").replace("dropout: 0.1", "dropout: 0.25")
    (other / "config.yaml").write_text(config)
    (other / "metrics.csv").write_text(
        "epoch,train/loss,train/accuracy,val/loss,val/accuracy,lr,seconds\n"
        "1,0.5,0.80,0.30,0.90,0.001,1.5\n2,0.3,0.90,0.40,0.89,0.001,2.0\n"
    )
    for left in ("test.json", "confusion.png"):
        (other / left).unlink()
    return own_run.parent


def table_of(path: Path) -> dict[str, list[str]]:
    """The table of a report, its rows by their names."""
    rows = re.findall(r"<tr>(.*?)</tr>", path.read_text().partition("<details>")[0])
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return {name: values for name, *values in cells}


def test_runs_stand_side_by_side_with_their_differences_and_figures(cli: Cli, two_runs: Path, tmp_path: Path) -> None:
    result = cli("report", two_runs)
    assert (result.status, result.err, result.out) == (0, "", "2 runs in report.html\n")
    table = table_of(tmp_path / "report.html")
    assert table[""] == ["version_0", "version_10"]
    assert table["seed_everything"] == ["7", "8"]
    assert table["model.network.dropout"] == ["0.1", "0.25"]
    assert (table["data.dataset"], table["model.network"]) == (["digits", "digits"], ["MLP", "MLP"])
    assert next(iter(table.items())) == ("", ["version_0", "version_10"])
    assert [name.partition("/")[0] for name in list(table)[1:4]] == ["test"] * 3, "metrics first"
    rest = (tmp_path / "report.html").read_text().partition("<details>")[2]
    assert ">model.optimizer.lr<" in rest
    assert "model.optimizer.lr" not in table
    assert "data.data_dir" not in {*table, rest}
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", table["finished"][0])
    told = json.loads((two_runs / "version_0" / "test.json").read_text())
    assert table["test/accuracy"] == [f"{told['accuracy']:.4f}", "-"]
    assert table["test/checkpoint"][1] == "-"
    other = {name: values[1] for name, values in table.items()}
    assert (other["epochs"], other["seconds"], other["best epoch (lowest val/loss)"]) == ("2", "3.5", "1")
    assert (other["val/loss, best epoch"], other["val/loss, last epoch"]) == ("0.3000", "0.4000")


def test_the_page_holds_everything_itself(cli: Cli, two_runs: Path, tmp_path: Path) -> None:
    assert cli("report", two_runs, "--output", "all.html").status == 0
    page = (tmp_path / "all.html").read_text()
    references = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not re.search(r"<script|<link|@import|<!DOCTYPE svg", page)


def test_a_person_sees_table_curves_and_pictures_without_a_network(cli: Cli, two_runs: Path, tmp_path: Path) -> None:
    assert cli("report", two_runs).status == 0
    address = (tmp_path / "report.html").as_uri()
    with chromium() as browser, visit(browser, address) as seen:
        assert seen.page.locator("thead th").all_inner_texts()[:2] == ["version_0", "version_10"]
        assert seen.page.get_by_role("img", name="Loss and accuracy of each run").is_visible()
        assert "version_10: seed_everything 8, dropout 0.25" in seen.page.locator("svg").inner_html()
        assert seen.page.get_by_text("It overfits after epoch 1").is_visible()
        assert seen.page.locator("h2 + svg").bounding_box()["width"] > 500
        pictures = seen.page.locator("img")
        assert pictures.count() == 7  # four of the first run, three of the second
        assert pictures.evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 300)")
        assert [url for url in seen.requested if not url.startswith(("file:", "data:"))] == []
        assert seen.errors == []


def test_a_name_is_text_in_the_page_whatever_it_holds(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    odd = own_run.rename(own_run.with_name("<b>a|b&c"))
    assert cli("report", odd).status == 0
    assert "&lt;b&gt;a|b&amp;c" in (tmp_path / "report.html").read_text()
    assert "<b>" not in (tmp_path / "report.html").read_text()


def test_runs_of_the_same_name_are_told_apart(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    shutil.copytree(own_run.parent, tmp_path / "other")
    assert cli("report", own_run, "other").status == 0
    assert table_of(tmp_path / "report.html")[""] == ["lightning_logs/version_0", "other/version_0"]


def test_a_run_that_is_named_twice_is_shown_once(cli: Cli, own_run: Path) -> None:
    assert cli("report", own_run, own_run.parent).out.startswith("1 run in")


def test_what_is_no_run_is_refused(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cli("report", own_run, "empty").refused("empty contains no run; fit creates run folders")
    cli("report", own_run, "--output", "a.pdf").refused("--output: a.pdf does not end in .html")
    cli("report", own_run, "--output", "no/a.html").refused(
        "--output: no/a.html does not end in .html, or its folder does not exist"
    )
    cli("report").refused("runs")
    (own_run / "metrics.csv").write_text("epoch,train/loss,lr,seconds\n")
    done = cli("report", own_run)
    assert (done.status, done.err.count("\n")) == (2, 2)
    assert not list(tmp_path.glob("report*"))


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "test.json"])
def test_a_damaged_run_is_left_out_with_a_line(cli: Cli, own_run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(own_run, own_run.parent / "version_1")
    (own_run / name).write_text("epoch\n{[not: a number")
    cli("report", own_run.parent).refused(f"{own_run} is skipped", status=1)
    assert table_of(tmp_path / "report.html")[""] == ["version_1"]


def test_from_python_the_report_is_a_function(trained: Trained, tmp_path: Path) -> None:
    report([str(trained.run)], str(tmp_path / "one.html"))
    run = read_run(trained.run, "one")
    assert len(run.rows) == 2
    assert run.options["model.network.hidden_sizes"] == [32, 16]


def test_a_noisy_fit_whose_train_loss_rose_as_well_is_unsteady_and_does_not_overfit() -> None:
    noisy = rows(0.3, 0.2, 0.4)
    noisy[2]["train/loss"] = 0.6
    assert overfitting(noisy).startswith("Not overfitting but unsteady: val loss is lowest in epoch 2 at 0.2000")


def test_a_csv_of_another_logger_beside_the_runs_is_no_run(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    csv = tmp_path / "csv/lightning_logs/version_0/metrics.csv"
    csv.parent.mkdir(parents=True)
    csv.write_text("train/loss,step,epoch\n0.5,10,0\n")
    assert "1 run in" in cli("report", ".").worked().out


def test_a_test_of_an_epoch_that_is_no_longer_the_best_is_marked(own_run: Path, tmp_path: Path) -> None:
    best = read_run(own_run, "x").rows[-1]["epoch"]
    for epoch, marked in ((int(best), False), (int(best) - 1, True)):
        (own_run / "test.json").write_text(json.dumps({"checkpoint": "last.ckpt", "epoch": epoch, "accuracy": 0.5}))
        report([str(own_run)], str(tmp_path / "report.html"))
        told = f"Test results and figures are of epoch {epoch}; last.ckpt is now of epoch {best:.0f}."
        assert (told in (tmp_path / "report.html").read_text()) == marked
