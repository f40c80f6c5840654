"""Several processes that train one run: who writes, how they agree, and the command that starts them.

`launch`, or torchrun, gives every process the same command and tells it its number. The first process writes the run
folder and evaluates; the others wait for it. What they have to agree on goes through a group of its own, over the CPU,
so that nothing waits for a GPU. In a process that stands alone all of this costs nothing and does nothing.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from workbench.errors import RecipeError, TrainingError

Value = TypeVar("Value")

EVERY = 0.1  # seconds between two looks at the processes
PATIENCE = 15.0  # seconds that the others have to end by themselves when one has failed

LONGEST_WAIT = timedelta(days=7)
"""How long processes wait for another, which may be measuring a large collection. One that dies ends all at once."""


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together.

    >>> world_size({}), world_size({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    (1, 4)
    """
    return int(environment["WORLD_SIZE"]) if _launched(environment) else 1


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process, from 0."""
    return int(environment["RANK"]) if _launched(environment) else 0


def _launched(environment: Mapping[str, str]) -> bool:
    return all(environment.get(name, "").isdigit() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def is_first() -> bool:
    """Whether this is the process that writes, evaluates and speaks."""
    return rank() == 0


# --- starting them -------------------------------------------------------------------------------------------------


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run `workbench ARGUMENTS` as `processes` processes and end as they end; this process only waits for them.

    Returns at once where there is one process to start, or where this one was started so already, by `launch` or by
    torchrun. Why not torchrun itself: it ends in a page of its own about each process, and hides the sentence that
    says what was wrong.

    Raises RecipeError for a number of processes that this machine cannot run, TrainingError where one ended alone.
    """
    if processes < 1:
        raise RecipeError(f"expected at least one process, found {processes}.")
    if processes == 1 or world_size() > 1:
        return
    import torch

    devices = torch.cuda.device_count()
    if 0 < devices < processes:
        raise RecipeError(
            f"expected a GPU for each of {processes} processes, found {devices}; use --processes {devices}, or "
            "CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    # A session of their own: Ctrl-C reaches them once, through this process, and not from the terminal too.
    children = [
        subprocess.Popen(
            words(arguments),
            env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
            start_new_session=True,
        )
        for number in range(processes)
    ]
    sys.exit(_end_of(children))


def words(arguments: Sequence[str]) -> list[str]:
    """The command of each process.

    >>> words(["train", "porsche-mxbai"])[1:]
    ['-m', 'workbench.cli', 'train', 'porsche-mxbai']
    """
    return [sys.executable, "-m", "workbench.cli", *arguments]


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _end_of(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all of them, hand signals on, and give the exit code: that of the first, which speaks for all.

    Where one fails the others have a while to end by themselves; then they are ended. Raises TrainingError where the
    first was ended so.
    """

    def hand_on(number: int, frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    was = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    failed: tuple[int, int] | None = None  # the process that failed first, and its exit code
    waited = 0.0
    try:
        while any(child.poll() is None for child in children):
            time.sleep(EVERY)
            codes = [child.poll() for child in children]
            if failed is None:
                failed = next(((number, code) for number, code in enumerate(codes) if code), None)
                continue
            waited += EVERY
            if waited > PATIENCE:
                for child in children:
                    child.kill() if waited > 2 * PATIENCE else child.terminate()
    finally:
        for child in children:
            child.kill()  # of those that have ended, nothing
        for number, handler in was.items():
            signal.signal(number, handler)
    if failed is not None and failed[0] != 0 and waited > PATIENCE:
        raise TrainingError(
            f"expected {len(children)} processes that train to the end, found that process {failed[0]} ended with exit "
            f"code {failed[1]} and the others waited for it; resume the run."
        )
    ends = [child.wait() for child in children]
    return ends[0] or max(ends, key=abs)


# --- while they run ------------------------------------------------------------------------------------------------


_group: list[Any] = []  # the group over the CPU, once there is one


@contextmanager
def together() -> Iterator[None]:
    """The processes can speak to one another inside the block; with CUDA each has a GPU of its own.

    They are brought together once in the life of a process: meeting again at the same place fails now and then.
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
        atexit.register(_part)
    yield
    wait()


def _part() -> None:
    """Leave the others, so that the libraries do not complain; whoever ends by an error just ends."""
    import torch.distributed as dist

    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def wait() -> None:
    """Go on when every process has come here."""
    if _group:
        import torch.distributed as dist

        dist.barrier(group=_group[0])


def from_first(value: Value) -> Value:
    """What the first process gave; the others' values are not read."""
    if not _group:
        return value
    import torch.distributed as dist

    given = [value]
    dist.broadcast_object_list(given, src=0, group=_group[0])
    return given[0]


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Each flag, raised where any process raises it."""
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
