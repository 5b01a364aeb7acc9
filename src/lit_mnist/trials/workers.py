"""Several fits at once, each in a process with one thread."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from lit_mnist.errors import fail
from lit_mnist.launch import set_up

Result = TypeVar("Result")


def run_all(jobs: Sequence[Callable[[], Result]], workers: int | None) -> Iterator[tuple[int, Result]]:
    """Run jobs, and yield the index and the result of each as it ends.

    Args:
        jobs: Functions that can be pickled; they share no state.
        workers: Number of processes with one thread each; None is one per core. With 1, the jobs run in this process,
            with all its threads.
    """
    workers = min(workers or available_cores(), len(jobs))
    if workers <= 1:
        for place, job in enumerate(jobs):
            yield place, job()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the workers: only this process handles Ctrl-C
        places = {pool.submit(job): place for place, job in enumerate(jobs)}
        signal.signal(signal.SIGINT, before)
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool:
            fail("a worker was killed, perhaps because memory ran out; the same command resumes", status=1)
        except BaseException:  # an error of a job, or Ctrl-C; the other jobs can be resumed
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Called once in every worker."""
    set_up()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """End this process as soon as its parent has ended, even if that was killed."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
