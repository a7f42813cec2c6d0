"""A study's units on the machines of a Ray cluster, or in several processes of this one: plain actors, nothing else."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fsgen.backends import places
from fsgen.backends.remote.checkpoint import connected_urls
from fsgen.backends.remote.http import have_answered
from fsgen.study.machine import versions
from fsgen.study.parallel import Lost, Outcome, ParallelRunner, Raised, Ready, Stored, Writer
from fsgen.study.plan import Plan
from fsgen.study.progress import Reporter
from fsgen.study.store import Store
from fsgen.study.units import Step, Unit, make_steps

ANSWER = 5.0
"""Seconds in which a cluster has to answer."""
PATIENCE = 60.0
"""Seconds without a worker, after which it is said what is waited for."""
OBJECTS = 2**29
"""Bytes of the store that workers hand tables over in, of a cluster of this machine's own."""


@dataclass(frozen=True)
class Cluster:
    """Where a study runs its units.

    Attributes:
        address: `HOST:PORT` of a cluster that runs, `auto` for the one that this machine belongs to, `local` for
            processes of this machine alone, or None: what the variable `RAY_ADDRESS` names, or `local`.
        workers: how many at a time; None for one a machine, or one for each GPU.
        gpus: that each worker holds, all on one machine; None for as many as its models need.

    Raises:
        ValueError: no address, or less than one worker or GPU.
    """

    address: str | None = None
    workers: int | None = None
    gpus: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("gpus", self.gpus)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is impossible: at least 1")
        if self.address is not None:
            _check_address("address", self.address)

    def check(self, plan: Plan) -> None:
        """Raises ValueError where no cluster can run a study."""
        config = plan.config
        if config.repeats:
            raise ValueError(
                f"repeats: {config.repeats} compares times, which workers on several machines do not have alike: leave "
                "it out, and start the study again without --engine ray for them"
            )
        if ":" in config.device:
            raise ValueError(f"device={config.device!r} is a GPU of one machine: choose auto, cuda or cpu for Ray")

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Within it, the cluster is at hand: one of this process's own, or the one that it is connected to already.

        Raises:
            ValueError: Ray is not installed, or nobody answers at the address, or there is one and this process is
                connected already.
        """
        if importlib.util.find_spec("ray") is None:
            raise ValueError("the engine ray needs the package ray: pip install 'fsgen[ray]'")
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():  # in a notebook, say
            if self.address is not None:
                raise ValueError(f"address={self.address!r}: this process is connected to a Ray cluster already")
            yield Connection(self)
            return
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        _check_address("address" if self.address else "RAY_ADDRESS", address)
        own: dict[str, Any] = {}
        if address == "local":
            _require_token()
            own = {"include_dashboard": False, "object_store_memory": OBJECTS}
        elif address != "auto":
            _answers(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
        import ray

        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # Ray raises plain ones, too
            raise ValueError(f"the Ray cluster {address!r} cannot be used: {_line(error)}") from error
        try:
            yield Connection(self)
        finally:
            ray.shutdown()


def _check_address(name: str, value: str) -> None:
    """Raises ValueError for an address that none of a Ray cluster can be, by the name of what has it."""
    if value not in ("auto", "local") and not re.fullmatch(r"(\[[\da-fA-F:.]+\]|[^:/\s\[\]]+):\d+", value):
        raise ValueError(f"{name}={value!r} is none of a Ray cluster: write HOST:PORT, auto or local")


def _require_token() -> None:
    """Let only this process and its children into a cluster of its own: its ports are open to the network.

    Raises:
        ValueError: Ray is imported already, and has read that there is no token.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ValueError(
            "ray was imported without a token, so that anyone could reach a cluster of this process: call ray.init() "
            "first, or set RAY_AUTH_MODE before the import"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _answers(address: str) -> None:
    """Raises ValueError where nobody answers: Ray itself would try for long."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from error


class Connection:
    """A cluster that answers.

    Args:
        cluster: as it was asked for.
    """

    def __init__(self, cluster: Cluster) -> None:
        import ray

        self._cluster = cluster
        self._nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def check(self, plan: Plan) -> None:
        """Raises ValueError where this cluster, or any, cannot run a study."""
        self._cluster.check(plan)
        config, workers = plan.config, self._cluster.workers
        gpus, cpus = int(self._most("GPU", sum)), int(self._most("CPU", sum))
        if gpus and config.device == "auto" and places.on_cpu("auto"):
            raise ValueError(
                f"the cluster has {gpus} GPUs, and this machine has none that torch can use, which decides about the "
                "types of weights: start the study on a machine with a GPU, or set device: cpu"
            )
        if places.on_cpu(config.device):
            if self._cluster.gpus is not None:
                raise ValueError(f"gpus={self._cluster.gpus} is for a study on GPUs, and this one runs on CPUs")
            if workers is not None and workers > cpus:
                raise ValueError(f"workers={workers} are more than the CPUs of the cluster, {cpus}")
            return
        most = int(self._most("GPU", max))
        for step in make_steps(plan):
            if (needed := self._gpus(plan, step)) > most:
                raise ValueError(f"{step.cells[0].label} needs {needed} GPUs of one machine, and the most are {most}")

    def runner(self, plan: Plan, store: Store, reporter: Reporter) -> ParallelRunner:
        """What runs a plan that was checked."""
        on_cpu = places.on_cpu(plan.config.device)
        working = sum(node.get("CPU", 0) >= 1 for node in self._nodes)  # a head may have none
        usual = max(1, working if on_cpu else int(self._most("GPU", sum)))
        size = self._cluster.workers or usual
        pool = RayPool(size, self._cpus(size) if on_cpu else 1, reporter)
        return ParallelRunner(plan, store, reporter, pool, partial(self._gpus, plan))

    def _most(self, resource: str, of: Any) -> float:
        return float(of(node.get(resource, 0.0) for node in self._nodes))

    def _cpus(self, workers: int) -> int:
        """The CPUs of each of so many workers: as many as let all of them have a place."""
        nodes = [int(node.get("CPU", 0)) for node in self._nodes]
        fitting = (count for count in range(max(nodes), 1, -1) if sum(cpus // count for cpus in nodes) >= workers)
        return next(fitting, 1)

    def _gpus(self, plan: Plan, step: Step) -> int:
        """How many GPUs a worker needs for a step: to hold the weights of all its models, with room for texts."""
        if places.on_cpu(plan.config.device):
            return 0
        sizes = [plan.models[name].weight_bytes for name in {n for cell in step.cells for n in cell.members.values()}]
        if not any(size is None or size for size in sizes):
            return 0  # all of them behind servers
        if self._cluster.gpus is not None:
            return self._cluster.gpus
        room = torch.cuda.get_device_properties(0).total_memory
        return max(1, math.ceil(places.HEADROOM * sum(size or 0 for size in sizes) / room))


class Worker(Writer):
    """An actor: one process, on any machine of the cluster.

    Args:
        version: of fsgen, where the study was started.
        folder: where it was started; names of models and of data are read from there, where there is such a folder.
        gpus: that are its own.
        servers: that have answered where it was started, so that one that is just restarted is waited for.
    """

    def __init__(self, version: str, folder: str, gpus: int, servers: Sequence[str]) -> None:
        super().__init__()
        have_answered(servers)
        self._version, self._folder, self._gpus = version, folder, gpus

    def check(self) -> Ready:
        """Raises ValueError where this process would write something else than the one that started the study."""
        if Path(self._folder).is_dir():
            os.chdir(self._folder)
        if (found := versions()["fsgen"]) != self._version:
            raise ValueError(f"fsgen {found} is installed on {platform.node()}, and {self._version} here")
        if self._gpus and places.on_cpu("auto"):
            raise ValueError(f"torch sees no GPU on {platform.node()}, where Ray has some")
        return Ready()


@dataclass(eq=False)
class Place:
    """A worker of the pool: an actor, and the placement group that holds its CPUs and GPUs on one machine."""

    group: Any
    actor: Any


class RayPool:
    """Workers that are actors of Ray.

    Args:
        size: the most at a time.
        cpus: of each.
        reporter: hears when no machine has room for one.
    """

    def __init__(self, size: int, cpus: int, reporter: Reporter) -> None:
        self.size = size
        self._cpus, self._reporter = cpus, reporter
        self._running: dict[Any, Place] = {}
        self._said = False

    def start(self, gpus: int) -> Place:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        held = {"CPU": self._cpus, **({"GPU": gpus} if gpus else {})}
        group = placement_group([held], strategy="STRICT_PACK")
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        options = {"num_cpus": self._cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": where}
        about = versions()["fsgen"], os.getcwd(), gpus, connected_urls()  # noqa: PTH109
        actor = ray.remote(Worker).options(**options).remote(*about)
        place = Place(group, actor)
        self._running[actor.check.remote()] = place
        return place

    def submit(self, worker: Place, unit: Unit, stored: Stored | None) -> None:
        self._running[worker.actor.write.remote(unit, stored)] = worker

    def stop(self, worker: Place) -> None:
        import ray
        from ray.util.placement_group import remove_placement_group

        self._running = {call: each for call, each in self._running.items() if each is not worker}
        gone = suppress(ray.exceptions.RayError, ValueError)  # already, or with its cluster
        with gone:
            ray.kill(worker.actor, no_restart=True)
        with gone:
            remove_placement_group(worker.group)

    def wait(self) -> list[tuple[Place, Outcome]]:
        import ray

        ready, _ = ray.wait([*self._running], timeout=PATIENCE)
        if ready:
            self._said = False
        elif not self._said:
            self._said = True
            self._reporter.note(f"no unit has ended for {PATIENCE:.0f} s: it takes long, or no machine has room for it")
        return [(self._running.pop(call), _outcome(call)) for call in ready]


def _outcome(call: Any) -> Outcome:
    """What became of a call of an actor."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result: Outcome = ray.get(call)
    except RayTaskError as error:
        return Raised(error.cause if isinstance(error.cause, BaseException) else RuntimeError(_line(error)))
    except RayError as error:
        return Lost(_line(error))
    return result


def _line(error: BaseException) -> str:
    """An error in one line: Ray's own have many, and the reason of a worker that could not be made is in the last."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # colours
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "creation task" in lines[0] else 0].removesuffix(".")
