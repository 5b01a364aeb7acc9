"""Kill fits at random moments, resume them, and count what did not survive: python tests/kills.py --kills 50"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from reliability import CHECKPOINTS, DIGITS, RUN, content, differences, rows, start

EPOCHS = 12
OPTIONS = (*DIGITS, "--trainer.max_epochs", EPOCHS, "--trainer.enable_model_summary", "false")
OTHER_DISK = Path("/dev/shm")


@dataclass
class Count:
    """What has happened so far."""

    kills: int = 0
    at_checkpoint: int = 0
    half_written: int = 0
    on_other_disk: int = 0
    fits: int = 0
    resumes: int = 0
    failed_resumes: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)  # fits that ended with other weights than one never killed

    def table(self) -> str:
        """One line for each figure."""
        lines = [
            ("kills", self.kills),
            ("  around a checkpoint", self.at_checkpoint),
            ("  that left one half written", self.half_written),
            ("  with TMPDIR on another disk", self.on_other_disk),
            ("resumed fits", self.resumes),
            ("finished fits", self.fits),
            ("unreadable files", len(self.unreadable)),
            ("failed resumes", len(self.failed_resumes)),
            ("fits unlike one never killed", len(self.unlike)),
        ]
        return "\n".join(f"{name:<34}{value:>5}" for name, value in lines)

    def failures(self) -> list[str]:
        """What must not happen, in words."""
        return [*self.unreadable, *self.failed_resumes, *self.unlike]


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of every file in the folder of the checkpoints."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(folder / CHECKPOINTS)]
    except FileNotFoundError:
        return {}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in entries}


def check(folder: Path, count: Count) -> None:
    """Read what a killed fit left."""
    for name in ("best.ckpt", "last.ckpt"):
        path = folder / CHECKPOINTS / name
        try:
            if path.exists() and "state_dict" not in content(path):
                raise ValueError("there are no weights in it")
        except Exception as error:
            count.unreadable.append(f"kill {count.kills}: {path}: {error!r}")
    try:
        numbers = [[float(value) for value in row.values()] for row in rows(folder / RUN)]
        if [row[0] for row in numbers] != list(range(1, len(numbers) + 1)):
            raise ValueError("it has other epochs than those so far")
    except Exception as error:
        count.unreadable.append(f"kill {count.kills}: {folder / RUN / 'metrics.csv'}: {error!r}")


def kill_until(kills: int, seed: int, folder: Path) -> Count:
    """Start fits, kill each again and again until it ends, and go on until there were so many kills."""
    chance, count = random.Random(seed), Count()
    start(folder / "never_killed", *OPTIONS).join()
    expected = content(folder / "never_killed" / CHECKPOINTS / "last.ckpt")
    seconds = sum_of_seconds(folder / "never_killed")
    while count.kills < kills:
        fit = folder / f"fit_{count.fits}_{count.kills}"
        environ = {}
        if count.fits % 2 and OTHER_DISK.is_dir():
            environ["TMPDIR"] = tempfile.mkdtemp(dir=OTHER_DISK)
        try:
            finished = _kill_one_fit(fit, kills, environ, chance, count, seconds)
        finally:
            if environ:
                shutil.rmtree(environ["TMPDIR"])
        if finished:
            count.fits += 1
            if found := differences(content(fit / CHECKPOINTS / "last.ckpt"), expected):
                count.unlike.append(f"{fit}: {found[0]}")
            if rows(fit / RUN) != rows(folder / "never_killed" / RUN):
                count.unlike.append(f"{fit}: metrics.csv")
    return count


def sum_of_seconds(folder: Path) -> float:
    """How long the epochs of a fit took together."""
    lines = (folder / RUN / "metrics.csv").read_text().splitlines()[1:]
    return sum(float(line.rsplit(",", 1)[1]) for line in lines)


def _kill_one_fit(
    fit: Path, kills: int, environ: dict[str, str], chance: random.Random, count: Count, seconds: float
) -> bool:
    """Start or resume one fit and kill it, until it ends by itself; returns whether it ended well."""
    while True:
        resume = (fit / CHECKPOINTS / "last.ckpt").exists()
        if not resume:
            shutil.rmtree(fit, ignore_errors=True)
        count.resumes += resume
        before = state(fit)
        process = start(fit, *(("fit", "--ckpt_path", "last") if resume else OPTIONS), environ=environ)
        at_checkpoint = chance.random() < 0.5
        if count.kills < kills and at_checkpoint:
            for _ in range(chance.randrange(1, 5)):  # of some changes, the last
                while process.is_alive() and state(fit) == before:
                    pass
                before = state(fit)
            time.sleep(chance.random() * chance.choice([0, 0.003]))
        elif count.kills < kills:
            process.join(0.6 + chance.random() * 0.7 * seconds)
        else:
            process.join()
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == -9:
            count.kills += 1
            half_written = any(name.endswith(".part") for name in state(fit))
            count.half_written += half_written
            count.at_checkpoint += half_written or at_checkpoint
            count.on_other_disk += bool(environ)
            check(fit, count)
        elif process.exitcode == 0:
            return True
        else:
            said = (fit / "err").read_text().strip()
            count.failed_resumes.append(f"{fit}: status {process.exitcode}: {said}")
            return False


def main() -> None:
    """Print the table; exit status 1 where anything did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = kill_until(args.kills, args.seed, Path(folder))
    print(count.table())
    for failure in count.failures():
        print(failure, file=sys.stderr)
    sys.exit(bool(count.failures()))


if __name__ == "__main__":
    main()
