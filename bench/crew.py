"""Keeps a fixed number of requests in flight."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Job = Callable[[], Awaitable[None]]


class Crew:
    """Workers that take jobs in order, urgent ones first.

    Urgent are the jobs that end what an earlier one began: without them a pod that runs would wait
    until every other pod has been created.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._urgent: deque[Job] = deque()
        self._waiting = asyncio.Semaphore(0)  # counts the jobs in both queues

    @classmethod
    @asynccontextmanager
    async def of(cls, size: int) -> AsyncIterator["Crew"]:
        """Yield a crew of `size`; the end of the block drops what has not begun.

        Raises:
            ExceptionGroup: a job failed; the block is cancelled at once.
        """
        crew = cls()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(crew._work()) for _ in range(size)]
            yield crew
            for worker in workers:
                worker.cancel()

    def add(self, job: Job, *, urgent: bool = False) -> None:
        """Queue a job."""
        (self._urgent if urgent else self._jobs).append(job)
        self._waiting.release()

    async def _work(self) -> None:
        while True:
            await self._waiting.acquire()
            job = (self._urgent or self._jobs).popleft()
            await job()
