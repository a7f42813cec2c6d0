"""What is true of every test (no network, one thread, no progress bars), and fixtures that several of them use."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

# Set before torch and transformers are imported, which read them once.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are so small that more threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """A test that reaches for another machine fails, whatever its code does with errors."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_here(address[0]):
            pytest.fail(f"a test reached for the network: {address!r}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Finished(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Runs `fsgen` with these arguments, in this process."""
    from fsgen.cli import main

    # The command hides bars before transformers is imported, which in this process may have happened.
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)

    def run(*arguments: str) -> Finished:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Finished(end.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to load weights fails the test."""

    def fail(*arguments: object, **options: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    monkeypatch.setattr("fsgen.backends.cpu.checkpoint.CpuCheckpoint.load", fail)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Whatever else is set: one thread, in which sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
