"""Who gets the next free row: clients take turns, each in the order of its own requests."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from fsgen.serve.job import Job


class FairQueue:
    """Jobs that wait for a row. A client that sends a thousand delays another one by one."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        return (job for jobs in self._clients.values() for job in jobs)

    def add(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._clients.setdefault(job.client, deque()).append(job)
            self._count += 1

    def back(self, job: Job) -> None:
        """A job that was taken too early is its client's next one again."""
        self._clients.setdefault(job.client, deque()).appendleft(job)
        self._count += 1

    def next(self) -> Job:
        """Takes the next job of the client whose turn it is, who then waits for all others."""
        client, jobs = next(iter(self._clients.items()))
        job = jobs.popleft()
        self._count -= 1
        if jobs:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        return job

    def remove(self, job: Job) -> bool:
        """Takes a job out; whether it was there."""
        jobs = self._clients.get(job.client)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        self._count -= 1
        if not jobs:
            del self._clients[job.client]
        return True
