"""Requests computed together: what is grouped, refused, cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from torch_promptmm.serve.batching import Batcher, QueueFull


class Compute:
    """Doubles values; notes each call, and waits while it is held up."""
    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, key, values):
        assert self.free.wait(10)
        self.calls.append((key, list(values)))
        if key == 'bad':
            raise ValueError('no')
        return [2 * x for x in values]


async def until(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError('it never came')


def test_requests_of_one_kind_are_computed_together() -> None:
    compute = Compute()

    async def main():
        async with Batcher(compute, max_wait=0.05) as batcher:
            return await asyncio.gather(*(
                batcher.submit('ab'[i % 2], i) for i in range(6)))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]
    assert compute.calls == [('a', [0, 2, 4]), ('b', [1, 3, 5])]


def test_a_batch_is_full_at_its_size() -> None:
    compute = Compute()

    async def main():
        async with Batcher(compute, max_batch=4, max_wait=0.05) as batcher:
            await asyncio.gather(*(batcher.submit('a', i, size=2)
                                   for i in range(5)))

    asyncio.run(main())
    assert [x for _, x in compute.calls] == [[0, 1], [2, 3], [4]]


def test_a_full_queue_refuses_at_once_and_loses_nothing() -> None:
    compute = Compute()

    async def main():
        async with Batcher(compute, max_wait=0, max_queue=2) as batcher:
            compute.free.clear()
            first = asyncio.create_task(batcher.submit('a', 0))
            await until(lambda: batcher._queue.empty() and batcher._task)
            await asyncio.sleep(0.01)  # It is computed.
            waiting = [asyncio.create_task(batcher.submit('a', i))
                       for i in (1, 2)]
            await until(lambda: batcher.waiting == 2)
            with pytest.raises(QueueFull, match='2 requests wait'):
                await batcher.submit('a', 3)
            compute.free.set()
            return await asyncio.gather(first, *waiting)

    assert asyncio.run(main()) == [0, 2, 4]


def test_an_error_is_that_of_its_own_kind() -> None:
    async def main():
        async with Batcher(Compute(), max_wait=0.02) as batcher:
            return await asyncio.gather(
                batcher.submit('bad', 1), batcher.submit('good', 2),
                return_exceptions=True)

    bad, good = asyncio.run(main())
    assert isinstance(bad, ValueError) and good == 4


def test_who_has_gone_is_not_computed_for() -> None:
    compute = Compute()

    async def main():
        async with Batcher(compute, max_wait=0) as batcher:
            compute.free.clear()
            first = asyncio.create_task(batcher.submit('a', 0))
            await asyncio.sleep(0.01)
            gone = asyncio.create_task(batcher.submit('a', 1))
            stays = asyncio.create_task(batcher.submit('a', 2))
            await until(lambda: batcher.waiting == 2)
            gone.cancel()
            await asyncio.sleep(0)
            compute.free.set()
            return await asyncio.gather(first, stays)

    assert asyncio.run(main()) == [0, 4]
    assert [x for _, x in compute.calls] == [[0], [2]]


def test_the_end_cancels_who_waits_and_the_thread_ends() -> None:
    compute = Compute()

    async def main():
        batcher = Batcher(compute, max_wait=0)
        async with batcher:
            compute.free.clear()
            tasks = [asyncio.create_task(batcher.submit('a', i))
                     for i in range(3)]
            await until(lambda: batcher.waiting == 0 or batcher.waiting == 2)
            await asyncio.sleep(0.01)
            threading.Timer(0.05, compute.free.set).start()
        out = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(x, asyncio.CancelledError) for x in out)
        with pytest.raises(RuntimeError, match='async with'):
            await batcher.submit('a', 1)

    asyncio.run(main())
    assert not [x for x in threading.enumerate()
                if x.name.startswith('recommend')]


@pytest.mark.parametrize('kwargs', [{'max_batch': 0}, {'max_queue': 0},
                                    {'max_wait': -1.0}])
def test_bad_arguments(kwargs: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Batcher(Compute(), **kwargs)
