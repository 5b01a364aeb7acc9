"""What torchrun or SLURM's srun has started: how many processes, and which of them speaks for its host."""

import os
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


def launched() -> tuple[int, int]:
    """Processes per host, and hosts, that the launcher of this process has started; (1, 1) without one."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:  # torchrun, also inside a SLURM job
        per_host = int(env["LOCAL_WORLD_SIZE"])
        return per_host, int(env["WORLD_SIZE"]) // per_host
    if "SLURM_STEP_NUM_TASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # srun
        hosts = int(env.get("SLURM_STEP_NUM_NODES", "1"))
        return int(env["SLURM_STEP_NUM_TASKS"]) // hosts, hosts
    return 1, 1


def trainer_options(given: Any) -> dict[str, Any]:
    """Options of the Trainer that follow from the launcher, unless they are given."""
    per_host, hosts = launched()
    options: dict[str, Any] = {}
    if per_host * hosts > 1:
        options["devices"] = per_host if given.devices == "auto" else given.devices
        options["num_nodes"] = hosts if given.num_nodes == 1 else given.num_nodes
        options["strategy"] = "ddp" if given.strategy == "auto" else given.strategy
    if "TORCHELASTIC_RUN_ID" not in os.environ and SLURMEnvironment.detect() and not given.plugins:
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # Lightning would resume inside an epoch
    return options


def speaks() -> bool:
    """Whether this process is the first of its host, which prints errors."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
