r"""Requests that come at about the same time, computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from torch_promptmm.checks import check_float, check_int

Compute = Callable[[Any, list[Any]], Sequence[Any]]


class QueueFull(Exception):
    r"""As many requests wait as may."""


class _Job(NamedTuple):
    key: Hashable
    value: Any
    size: int
    answer: asyncio.Future


class Batcher:
    r"""Collects requests for a moment and computes those of one kind in one
    call, in a thread of its own, so that the event loop stays free.

    While a batch is computed the next one gathers. The queue is bounded: a
    request that finds it full is refused at once, so that the others keep
    their latency.

    .. code-block:: python

        async with Batcher(compute) as batcher:
            answer = await batcher.submit('kind', value)

    Args:
        compute (callable): From a kind and the values of several requests to
            an answer for each of them.
        max_batch (int, optional): The size at which a batch is full.
            (default: :obj:`256`)
        max_wait (float, optional): Seconds that a batch gathers for.
            (default: :obj:`0.001`)
        max_queue (int, optional): Requests that may wait.
            (default: :obj:`1024`)
    """
    def __init__(
        self,
        compute: Compute,
        max_batch: int = 256,
        max_wait: float = 0.001,
        max_queue: int = 1024,
    ) -> None:
        self.compute = compute
        self.max_batch = check_int('max_batch', max_batch, 1)
        self.max_wait = check_float('max_wait', max_wait)
        self.max_queue = check_int('max_queue', max_queue, 1)
        self._queue: asyncio.Queue[_Job] | None = None

    async def __aenter__(self) -> Batcher:
        self._queue = asyncio.Queue(self.max_queue)
        self._pool = ThreadPoolExecutor(1, 'recommend')
        self._task = asyncio.create_task(self._work(self._queue))
        return self

    async def __aexit__(self, *args: Any) -> None:
        queue, self._queue = self._queue, None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        while queue is not None and not queue.empty():
            queue.get_nowait().answer.cancel()
        self._pool.shutdown(wait=True)

    @property
    def waiting(self) -> int:
        r"""Requests in the queue."""
        return 0 if self._queue is None else self._queue.qsize()

    async def submit(self, key: Hashable, value: Any, size: int = 1) -> Any:
        r"""Returns the answer to a request.

        Args:
            key (Hashable): Its kind: values of one kind are computed
                together.
            value (Any): What :obj:`compute` is given of it.
            size (int, optional): What it adds to a batch.
                (default: :obj:`1`)

        Raises:
            QueueFull: If as many requests wait as may.
        """
        if self._queue is None:
            raise RuntimeError("'submit' is for the block of 'async with'")
        answer = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Job(key, value, size, answer))
        except asyncio.QueueFull as error:
            raise QueueFull(f'{self.max_queue} requests wait') from error
        return await answer

    async def _work(self, queue: asyncio.Queue[_Job]) -> None:
        while True:
            batch = [await queue.get()]
            if self.max_wait > 0 and queue.empty():
                await asyncio.sleep(self.max_wait)
            size = batch[0].size
            while size < self.max_batch and not queue.empty():
                batch.append(queue.get_nowait())
                size += batch[-1].size
            groups: dict[Hashable, list[_Job]] = {}
            for job in batch:
                if not job.answer.done():  # Nobody waits for it any more.
                    groups.setdefault(job.key, []).append(job)
            for key, jobs in groups.items():
                await self._answer(key, jobs)

    async def _answer(self, key: Hashable, jobs: list[_Job]) -> None:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                self._pool, self.compute, key, [job.value for job in jobs])
        except asyncio.CancelledError:
            for job in jobs:
                job.answer.cancel()
            raise
        except Exception as error:
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            if not job.answer.done():
                job.answer.set_result(answer)
