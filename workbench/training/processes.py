"""Several processes that train one run: start them, tell them apart, let them agree.

Each process runs the same command and knows its rank, as torchrun sets it. The first one writes the run folder and
evaluates; the others wait for it. They agree over a gloo group of their own, so that nothing waits for a GPU. In a
single process all of this does nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from workbench.errors import RecipeError, TrainingError

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=7)
"""How long processes wait for another, which may be evaluating a large collection. One that dies ends all at once."""


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together.

    >>> world_size({}), world_size({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    (1, 4)
    """
    return int(environment["WORLD_SIZE"]) if _is_launched(environment) else 1


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process, from 0."""
    return int(environment["RANK"]) if _is_launched(environment) else 0


def _is_launched(environment: Mapping[str, str]) -> bool:
    return all(environment.get(name, "").isdigit() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def is_first() -> bool:
    """Whether this process writes, evaluates and prints."""
    return rank() == 0


def launch(arguments: Sequence[str], processes: int, program: Sequence[str] = ("-m", "workbench")) -> None:
    """Run `workbench ARGUMENTS` as `processes` processes, by torchrun's own starter, and exit with the first's code.

    Returns at once for one process, and in a process that `launch` or torchrun started. `program`: the Python program
    that takes the arguments. SIGINT and SIGTERM reach every process once.

    Raises RecipeError for a number of processes that this machine cannot run, TrainingError where another process than
    the first failed.
    """
    if processes < 1:
        raise RecipeError(f"expected at least one process, found {processes}.")
    if processes == 1 or world_size() > 1:
        return
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    devices = torch.cuda.device_count()
    if 0 < devices < processes:
        raise RecipeError(
            f"expected a GPU for each of {processes} processes, found {devices}; use --processes {devices}, or "
            "CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": threads}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with tempfile.TemporaryDirectory() as logs:
        workers = start_processes(
            name="workbench",
            entrypoint=sys.executable,
            args=dict.fromkeys(range(processes), (*program, *arguments)),
            envs={number: {**shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(processes)},
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        received, result = None, None
        while result is None:
            try:
                if received is not None:
                    workers.close(received, int(LONGEST_WAIT.total_seconds()))
                result = workers.wait(period=0.1)
            except SignalException as signal:  # a second one while the processes stop reaches them too
                received = signal.sigval
    failure = next(iter(result.failures.values()), None)  # the first that failed; the others were ended after it
    if failure is not None and failure.local_rank != 0:
        raise TrainingError(
            f"expected {processes} processes that train to the end, found that process {failure.local_rank} ended with "
            f"exit code {failure.exitcode} and the others waited for it; resume the run."
        )
    sys.exit(0 if failure is None else failure.exitcode)


def let_first_fail(seconds: float = 15.0) -> None:
    """In another process than the first: wait, since the failure that ends this one is usually the first's too, and
    the process that fails first ends the others before they have said why."""
    if not is_first():
        time.sleep(seconds)


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


_group: list[Any] = []  # the gloo group, once there is one


@contextmanager
def joined_processes() -> Iterator[None]:
    """The processes can communicate inside the block; with CUDA each uses a GPU of its own.

    They join once in the life of a process: joining again at the same address fails now and then.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
    if not _group:
        _group.append(dist.new_group(backend="gloo", timeout=LONGEST_WAIT))
        atexit.register(_leave)
    yield
    wait()


def _leave() -> None:
    """Leave the group, or the libraries warn; a process that ends by an error must not wait for the others here."""
    import torch.distributed as dist

    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def wait() -> None:
    """Return when every process has come here."""
    if _group:
        import torch.distributed as dist

        dist.barrier(group=_group[0])


def from_first(value: Value) -> Value:
    """The first process's value; those of the others are ignored."""
    if not _group:
        return value
    import torch.distributed as dist

    given = [value]
    dist.broadcast_object_list(given, src=0, group=_group[0])
    return given[0]


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Each flag, true where any process raises it."""
    if not _group:
        return list(flags)
    import torch
    import torch.distributed as dist

    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=_group[0])
    return [bool(flag) for flag in raised.tolist()]


def mean_of(values: Any) -> Any:
    """The mean over processes of a float32 tensor on the CPU, as the trainer averages its loss."""
    if not _group:
        return values
    import torch
    import torch.distributed as dist

    given = [torch.zeros_like(values) for _ in range(world_size())]
    dist.all_gather(given, values, group=_group[0])
    return torch.stack(given).mean(dim=0)
