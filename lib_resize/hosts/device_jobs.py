"""The runtime of a job in a host: the CPU, and the host's device for what it does faster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..engine.runtime import Runtime, assisted_runtime, cpu_runtime
from ..progress import Progress
from .host import HostModel

_ENTRUSTED = ("cuda", "cpu:")
"""How the names of devices begin that get other jobs than norms: on others torch lacks float64 or eigenproblems.
``cpu:0`` is torch's own name of the CPU, with which tests run the device's code."""


@contextlib.contextmanager
def host_runtime(host: HostModel, progress: Progress) -> Iterator[Runtime]:
    """Open the workers of a job in a host. Its device is opened, and room on it asked for, when it gets a job."""
    device = host.device()
    if not device.startswith(_ENTRUSTED):
        with cpu_runtime(progress) as tools:
            yield tools
        return
    with contextlib.ExitStack() as stack:
        yield assisted_runtime(stack, progress, device, memory=_HostMemory(host))


class _HostMemory:
    """The memory of a host's device. A host that manages none is asked, and does nothing."""

    def __init__(self, host: HostModel) -> None:
        self._host = host

    def make_room(self, bytes: int) -> None:
        with self._host.lock():
            self._host.make_room(bytes)

    def tidy(self) -> None:
        self._host.tidy()
