"""One fit and two fits at once on the same cores: seconds of an epoch, by threads and by how OpenMP's threads wait."""

import statistics
from concurrent.futures import ThreadPoolExecutor

from bench import HERE, fix_data_dir, processor, write_table
from fits import CONFIGS, epochs_of

ROUNDS = 3
CASES = [  # fits at once, threads of each, OMP_WAIT_POLICY
    (1, 1, ""),
    (1, 2, ""),
    (2, 1, ""),
    (2, 2, ""),
    (1, 2, "PASSIVE"),
    (2, 2, "PASSIVE"),
]


def main() -> None:
    fix_data_dir()
    seconds: dict[tuple[int, int, str], list[float]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        for case in CASES:
            fits, threads, policy = case
            environment = {"OMP_NUM_THREADS": str(threads)} | ({"OMP_WAIT_POLICY": policy} if policy else {})
            with ThreadPoolExecutor(fits) as pool:
                for epochs in pool.map(
                    lambda environ: epochs_of([CONFIGS / "mlp.yaml"], environ), [environment] * fits
                ):
                    seconds[case].append(statistics.median(epochs))
            print(case, [round(one, 2) for one in seconds[case]], flush=True)
    write_table(
        HERE / "results" / f"{processor()}-side_by_side.md",
        "Fits side by side",
        f"`python benchmarks/side_by_side.py`: epochs of configs/mlp.yaml, {ROUNDS} rounds, each case once per round.",
        ["fits at once", "threads of each", "OMP_WAIT_POLICY", "median s an epoch", "min..max s"],
        [
            [*case[:2], case[2] or "default", f"{statistics.median(found):.1f}", f"{min(found):.1f}..{max(found):.1f}"]
            for case, found in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
