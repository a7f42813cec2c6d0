"""Both ways of isolation."""

from typing import Literal

import pytest

from fsgen.tasks import _sandbox_process, sandbox

Mode = Literal["namespaces", "landlock"]


def _works(mode: Mode) -> bool:
    try:
        return _sandbox_process.start("pass", (), mode, 30, 256, 4, 1 << 16, 16).passed
    except sandbox.SandboxUnavailable:
        return False


@pytest.fixture(params=["namespaces", "landlock"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mode:
    chosen: Mode = request.param
    if not _works(chosen):
        pytest.skip(f"no {chosen} on this machine")
    monkeypatch.setattr(sandbox, "isolation", lambda: chosen)
    return chosen
