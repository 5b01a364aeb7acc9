"""Several fits at once: one process of one thread for each."""

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
    """Run jobs, and give the place and the result of each once it has ended.

    Args:
        jobs: Functions that can be pickled; they share nothing.
        workers: Number of processes, each of one thread; None takes one for each core. One works in this process, with
            the threads that it has.
    """
    workers = min(workers or available_cores(), len(jobs))
    if workers <= 1:
        for place, job in enumerate(jobs):
            yield place, job()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit: Ctrl-C is for this process
        places = {pool.submit(job): place for place, job in enumerate(jobs)}
        signal.signal(signal.SIGINT, before)
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool:
            fail("a worker was killed, perhaps for want of memory; the same command resumes", status=1)
        except BaseException:  # of a job, or Ctrl-C; what the others have saved is resumed
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Called once in each worker."""
    set_up()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """Wait until the process that has started this one is gone, perhaps killed, and end at once."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
