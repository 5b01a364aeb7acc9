"""Several processes and hosts: what torchrun and SLURM start, and a run with a name, which they resume."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import DIGITS, ROOT, Cli, run_command
from filelock import FileLock

from lit_mnist.errors import fail
from lit_mnist.launch import launched, trainer_options
from lit_mnist.runs.folder import read_metrics

QUICK = (*DIGITS, "--figures", "false", "--trainer.enable_model_summary", "false", "--trainer.logger", "false")
FIT = ("fit", *QUICK, "--trainer.accelerator", "cpu")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6", "RANK": "0", "LOCAL_RANK": "0"}
SRUN = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NAME": "my_run"}


def weights(run: Path) -> dict[str, Any]:
    """The weights of a run's last checkpoint."""
    saved: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return saved


def assert_equal(run: Path, other: Path, exact: bool = True) -> None:
    """Assert that two runs have the same weights, bit for bit or apart from rounding."""
    for (name, weight), (_, expected) in zip(weights(run).items(), weights(other).items(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=0 if exact else 2e-5, msg=name)


# What a launcher has started


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (1, 1)),
        (TORCHRUN, (2, 3)),
        (SRUN, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "my_run"}, (1, 1)),  # the batch script itself
        ({"SLURM_STEP_NUM_TASKS": "2"}, (2, 1)),
        (SRUN | {"SLURM_JOB_NAME": "bash"}, (1, 1)),  # an interactive shell
        (SRUN | TORCHRUN, (2, 3)),  # torchrun within a job
    ],
)
def test_the_launcher_says_how_many_processes_there_are(
    environ: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected


def test_options_that_are_given_are_not_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(accelerator="cpu", devices="auto", num_nodes=1, strategy="auto", plugins=None)
    assert trainer_options(nothing) == {}
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert trainer_options(nothing) == {"devices": 2, "num_nodes": 3, "strategy": "ddp"}
    given = SimpleNamespace(accelerator="cpu", devices=4, num_nodes=5, strategy="fsdp", plugins=None)
    assert trainer_options(given) == {"devices": 4, "num_nodes": 5, "strategy": "fsdp"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {"precision": "bf16-mixed"}),
        ({"wanted": False}, {}),
        ({"has": {"avx512_vnni": True, "amx_bf16": False}}, {}),
        ({"precision": "32-true"}, {}),
        ({"plugins": ["MixedPrecision"]}, {}),
        ({"accelerator": "gpu", "gpu": True}, {}),
        ({"accelerator": "auto", "gpu": True}, {}),
        ({"accelerator": "auto"}, {"precision": "bf16-mixed"}),
    ],
    ids=str,
)
def test_bf16_mixed_is_for_a_processor_that_has_bfloat16(
    changed: dict[str, Any], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"wanted": True, "has": {"avx512_bf16": True}, "gpu": False, "precision": None, "plugins": None} | changed
    given = SimpleNamespace(**{"accelerator": "cpu", "devices": "auto", "num_nodes": 1, "strategy": "auto"} | case)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: case["has"])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: case["gpu"])
    assert trainer_options(given, case["wanted"]) == expected


def test_options_that_contradict_the_launcher_are_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (TORCHRUN | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    cli(*FIT, "--trainer.devices", 1).refused("--trainer: You set `devices=1`", "does not match the world size (6)")


def test_what_lightning_asks_of_slurm_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    cli(*FIT).refused("Use `--ntasks-per-node=2` instead")


def test_the_first_process_of_every_host_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for local_rank, said in (("0", "lit-mnist: error: no data\n"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        monkeypatch.setenv("RANK", str(2 + int(local_rank)))
        with pytest.raises(SystemExit):
            fail("no data")
        assert capsys.readouterr().err == said


def test_a_checkpoint_that_lightning_left_under_slurm_is_never_resumed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of another job")
    (tmp_path / "lightning_logs").mkdir()
    shutil.copy("hpc_ckpt_1.ckpt", "lightning_logs")
    one = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in (one | {"SLURM_NODEID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "my_run"}).items():
        monkeypatch.setenv(name, value)
    cli(*FIT, "--trainer.max_epochs", 1).worked()
    cli("test").worked()
    cli(*FIT, "--trainer.fast_dev_run", "true").worked()
    assert len(read_metrics(tmp_path / "lightning_logs/version_0")) == 1


# A run with a name


def test_the_same_command_starts_a_named_run_or_resumes_it(cli: Cli, tmp_path: Path) -> None:
    logs = tmp_path / "lightning_logs"
    cli(*FIT, "--name", "mine", "--trainer.max_epochs", 1).worked()
    cli(*FIT, "--trainer.max_epochs", 3).worked()
    cli(*FIT, "--name", "mine", "--trainer.max_epochs", 3).worked()
    assert_equal(logs / "mine", logs / "version_0")
    assert [row["epoch"] for row in read_metrics(logs / "mine")] == [1, 2, 3]
    assert "the fit was already complete" in cli(*FIT, "--name", "mine", "--trainer.max_epochs", 3).worked().out
    assert "lightning_logs/mine/checkpoints/best.ckpt" in cli("test").worked().out, "the run that was resumed last"
    assert sorted(path.name for path in logs.iterdir()) == ["mine", "version_0"]


def test_a_name_is_one_word_on_the_command_line_without_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    for name in ("a/b", "..", ".hidden", "", " ", "two words"):
        cli(*FIT, "--name", name).refused(f"--name: {name!r} is not a word of letters, digits, _, - and .")
    cli(*FIT, "--name", "--other").refused("--name: expected one argument")
    cli(*FIT, "--name", "a", "--trainer.enable_checkpointing", "false").refused("--name: a named run needs checkpoints")
    cli(*FIT, "--name", "a", "--ckpt_path", "last").refused("--name: a named run resumes from its own checkpoint")
    Path("named.yaml").write_text("name: mine\n")
    cli(*FIT, "--config", "named.yaml").refused("--name: it belongs on the command line, not in a file")
    cli(*FIT, "--name", "mine", "--trainer.max_epochs", 1).worked()
    cli(*FIT, "--name", "mine", "--model.network.dropout", 0.5).refused("--model.network.dropout: 0.5 differs from 0.0")
    cli("test", "--name", "mine").refused("--name")


def test_the_same_command_gives_the_same_callbacks_and_a_dry_run_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    command = (*FIT, "--name", "mine", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss")
    for epochs in (1, 2, 3):
        cli(*command, "--trainer.max_epochs", epochs).worked()
    config = (tmp_path / "lightning_logs/mine/config.yaml").read_text()
    assert config.count("EarlyStopping") == 1
    cli(*command, "--trainer.max_epochs", 4, "--trainer.fast_dev_run", "true").worked()
    assert len(read_metrics(tmp_path / "lightning_logs/mine")) == 3


def test_a_folder_that_another_made_is_never_removed(cli: Cli, tmp_path: Path) -> None:
    notes = tmp_path / "lightning_logs" / "notes" / "mine.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("hi")
    cli(*FIT, "--name", "notes", "--trainer.strategy", "bogus").refused("--trainer: ")
    assert notes.read_text() == "hi"
    cli(*FIT, "--name", "new", "--trainer.strategy", "bogus").refused("--trainer: ")
    assert not (tmp_path / "lightning_logs" / "new").exists()


def test_two_fits_in_one_run_are_refused(cli: Cli, tmp_path: Path) -> None:
    cli(*FIT, "--name", "mine", "--trainer.max_epochs", 1).worked()
    with FileLock(tmp_path / "lightning_logs/mine/.lock"):
        cli(*FIT, "--name", "mine", "--trainer.max_epochs", 2).refused("mine: another fit is running in this folder")
    cli(*FIT, "--name", "mine", "--trainer.max_epochs", 2).worked()


# torchrun


def torchrun(folder: Path, *words: Any) -> "subprocess.Popen[str]":
    """Start torchrun in a folder, each process on one thread."""
    folder.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PL_")} | {"OMP_NUM_THREADS": "1"}
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # or restarted workers may meet addresses of those before
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, start_new_session=True, **streams)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, list[str]]:
    """Wait for a process: its exit status, its output, and our own lines on stderr."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    ours = [line for line in err.splitlines() if line.startswith(("lit-mnist: ", "stopped by"))]
    return process.returncode, out, ours or ([] if process.returncode == 0 else err.splitlines())


DIE_ONCE = """
import os, signal
from pathlib import Path
from lightning.pytorch.callbacks import Callback


class DieOnce(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2 and trainer.global_rank == 1 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_killed_is_restarted_and_the_named_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "my_callbacks.py").write_text(DIE_ONCE)
    words = ("-m", "lit_mnist", *FIT, "--name", "mine", "--trainer.max_epochs", 4)
    restart = ("--standalone", "--nproc_per_node", 2, "--max_restarts", 1)
    process = torchrun(tmp_path, *restart, *words, "--trainer.callbacks+=my_callbacks.DieOnce")
    status, _, errors = finish(process)
    assert status == 0, errors
    assert (tmp_path / "died").exists()
    run = tmp_path / "lightning_logs" / "mine"
    assert [row["epoch"] for row in read_metrics(run)] == [1, 2, 3, 4]
    status, _, errors = finish(torchrun(tmp_path / "whole", "--standalone", "--nproc_per_node", 2, *words))
    assert status == 0, errors
    assert_equal(run, tmp_path / "whole" / "lightning_logs" / "mine")


def test_two_hosts_equal_one_process_and_need_the_same_run_folder(cli: Cli, tmp_path: Path) -> None:
    def both(*words: Any) -> list[tuple[int, str, list[str]]]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        hosts = ("--nnodes", 2, "--nproc_per_node", 1, "--rdzv_backend", "c10d", "--rdzv_id", port)
        started = [
            torchrun(tmp_path / name, *hosts, "--rdzv_endpoint", f"localhost:{port}", "-m", "lit_mnist", *FIT, *words)
            for name in ("first", "second")
        ]
        return [finish(process) for process in started]

    for status, _, errors in both("--name", "mine", "--trainer.max_epochs", 2):
        assert status == 0, errors
    cli(*FIT, "--trainer.max_epochs", 2).worked()
    (run,) = tmp_path.glob("*/lightning_logs/mine/config.yaml")  # that of the first process
    assert_equal(run.parent, tmp_path / "lightning_logs" / "version_0", exact=False)
    for status, _, errors in both("--name", "mine", "--trainer.max_epochs", 3):
        assert status != 0
        assert any("all hosts need the same run folder" in line or "was lost" in line for line in errors), errors


# A real SLURM, of one host


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SLURM that runs on this machine, as root and without systemd; the environment that its commands need."""
    if shutil.which("slurmd") is None or shutil.which("munged") is None or os.geteuid() != 0:
        pytest.skip("needs slurmd and munged (apt-get install slurm-wlm munge), and root")
    host = socket.gethostname()
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    Path("/run/munge").chmod(0o755)
    subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged --force"], check=True)
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    config = tmp_path / "slurm.conf"
    config.write_text(f"""
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={tmp_path}/state
SlurmdSpoolDir={tmp_path}/spool
SlurmctldPidFile={tmp_path}/ctld.pid
SlurmdPidFile={tmp_path}/d.pid
SlurmctldLogFile={tmp_path}/ctld.log
SlurmdLogFile={tmp_path}/d.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=20
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
""")
    environ = {"SLURM_CONF": str(config), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    daemons = [["slurmctld", "-D", "-f", config], ["slurmd", "-D", "-f", config, "-N", host]]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # they have log files
    started = [subprocess.Popen(list(map(str, words)), env=os.environ | environ, **quiet) for words in daemons]
    try:
        wait_until(lambda: "idle" in run_command("sinfo", "-h", "-o", "%T", cwd=tmp_path, **environ).stdout)
        yield environ
    finally:
        for process in started:
            process.terminate()
            process.wait(30)


def wait_until(holds: Any, seconds: int = 90) -> None:
    for _ in range(2 * seconds):
        if holds():
            return
        time.sleep(0.5)
    raise AssertionError("it did not come")


SLOW = """
import time
from lightning.pytorch.callbacks import Callback


class Slow(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        time.sleep(0.5)
"""


def test_a_slurm_job_that_is_requeued_equals_an_uninterrupted_fit(slurm: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "my_callbacks.py").write_text(SLOW)
    words = (*FIT[1:], "--trainer.max_epochs", 10)

    def tell(*command: Any) -> str:
        done = run_command(*command, cwd=tmp_path, **slurm)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state() -> str:
        return tell("scontrol", "--oneliner", "show", "job", job)

    batch = ("sbatch", "--parsable", "--job-name", "my_run", "--output", "job.log", ROOT / "scripts" / "slurm.sbatch")
    job = tell(*batch, *words, "--trainer.callbacks+=my_callbacks.Slow").strip()
    run = tmp_path / "lightning_logs" / "my_run"
    try:
        wait_until(lambda: (run / "checkpoints" / "last.ckpt").exists() and len(read_metrics(run)) >= 2)
        tell("scancel", "--signal=USR1", "--batch", job)
        wait_until(lambda: "JobState=PENDING" in state())
        before = len(read_metrics(run))
        tell("scontrol", "update", f"job={job}", "StartTime=now")
        wait_until(lambda: "JobState=COMPLETED" in state())
    finally:
        print((tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else "no log", state())
    assert 2 <= before < 10
    assert "Restarts=1" in state()
    assert [row["epoch"] for row in read_metrics(run)] == list(range(1, 11))
    assert sorted(path.name for path in run.parent.iterdir()) == ["my_run"]
    whole = torchrun(tmp_path / "whole", "--standalone", "--nproc_per_node", 2, "-m", "lit_mnist", "fit", *words)
    status, _, errors = finish(whole)
    assert status == 0, errors
    assert_equal(run, tmp_path / "whole" / "lightning_logs" / "version_0")
