"""Start of a process: options set by the launcher and the processor, and settings of libraries."""

import logging
import os
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


def launched() -> tuple[int, int]:
    """Number of processes per host, and of hosts, that torchrun or srun has started; (1, 1) without a launcher."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:  # torchrun, also inside a SLURM job
        per_host = int(env["LOCAL_WORLD_SIZE"])
        return per_host, int(env["WORLD_SIZE"]) // per_host
    if "SLURM_STEP_NUM_TASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # srun
        hosts = int(env.get("SLURM_STEP_NUM_NODES", "1"))
        return int(env["SLURM_STEP_NUM_TASKS"]) // hosts, hosts
    return 1, 1


def trainer_options(given: Any, bfloat16: bool = False) -> dict[str, Any]:
    """Trainer options that follow from the launcher and the processor, except those that the user gives."""
    per_host, hosts = launched()
    options: dict[str, Any] = {}
    on_cpu = given.accelerator == "cpu" or not torch.accelerator.is_available()
    if bfloat16 and on_cpu and has_bfloat16() and not (given.precision or given.plugins):
        options["precision"] = "bf16-mixed"
    if per_host * hosts > 1:
        options["devices"] = per_host if given.devices == "auto" else given.devices
        options["num_nodes"] = hosts if given.num_nodes == 1 else given.num_nodes
        options["strategy"] = "ddp" if given.strategy == "auto" else given.strategy
    if "TORCHELASTIC_RUN_ID" not in os.environ and SLURMEnvironment.detect() and not given.plugins:
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # Lightning would resume inside an epoch
    return options


def has_bfloat16() -> bool:
    """Whether the processor has bfloat16 instructions; without them, mixed precision is slower than float32."""
    return any("bf16" in name and found for name, found in torch.cpu.get_capabilities().items())


def speaks() -> bool:
    """Whether this process is the first on its host: only that one prints errors."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def set_up() -> None:
    """Silence messages that need no action, and configure PyTorch and matplotlib for this process."""
    if str(Path.cwd()) not in sys.path:  # as with python -m, so that --data my_data.Halves is found
        sys.path.insert(0, str(Path.cwd()))
    os.environ["MPLBACKEND"] = "agg"  # figures are files
    if not torch.cuda.is_available():  # Lightning sets 1, with which every optimizer step looks for a driver
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_flush_denormal(True)  # averages of zero gradients decay to denormal numbers, which are slow on a CPU
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips, no list of absent accelerators
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for name in ("profilers.profiler", "callbacks.timer"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)  # their output was requested
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_str(str(value.value)))
    for text in (
        "smaller than the logging interval",  # one value per epoch is logged
        "torch.jit.trace",  # TensorBoard's graph
        "LeafSpec",  # Lightning's use of PyTorch
        "exists and is not empty",  # the folder of a resumed run
        "could not find the monitored key",  # no validation yet, nothing to compare
        "Unable to serialize instance",  # a device in the options of a callback
        "trying to `self.log",  # with --trainer.barebones
        "`srun` command is available",  # on a login node
        "not supported by the model summary",  # bf16-mixed, for which it estimates the size
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
