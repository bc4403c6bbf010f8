"""The service on the loopback: requests a second, and how long they take.

    python benchmarks/serving_http.py                     # 500/s for 60 s
    python benchmarks/serving_http.py --rate 300 --seconds 10 --scale 0.1

A model of the paper's Electronics (random vectors: they cost the same) is
saved and served by `promptmm serve` in a process of its own. Requests for one
user each are sent at a fixed rate, whether or not the ones before have been
answered; the time of one runs from when it was due, so that a service that
stalls cannot hide it. Last, the rate is that of as many as it can answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import aiohttp
import torch

from torch_promptmm.serve import Recommender

USERS, ITEMS, EDGES, CHANNELS = 41_691, 21_479, 359_165, 64


def make_model(scale: float) -> Recommender:
    generator = torch.Generator().manual_seed(0)
    users, items, edges = (max(int(n * scale), 50)
                           for n in (USERS, ITEMS, EDGES))
    user, item = (torch.randn(n, CHANNELS, generator=generator)
                  for n in (users, items))
    known = torch.stack([torch.randint(n, (edges, ), generator=generator)
                         for n in (users, items)]).unique(dim=1)
    return Recommender(user, item, known)


class Load:
    """What was sent and what came back."""
    def __init__(self, url: str, users: int) -> None:
        self.url, self.users = url, users
        self.times: list[float] = []
        self.errors: dict[str, int] = {}

    async def ask(self, session: aiohttp.ClientSession, number: int,
                  due: float) -> None:
        body = {'users': [number * 7919 % self.users], 'k': 20}
        try:
            async with session.post(self.url, json=body) as reply:
                found = await reply.json()
                good = (reply.status == 200
                        and len(found['results'][0]['items']) == 20)
                what = '' if good else str(reply.status)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            what = type(error).__name__
        if what:
            self.errors[what] = self.errors.get(what, 0) + 1
        self.times.append(time.perf_counter() - due)

    async def at_rate(self, rate: float, seconds: float) -> float:
        """An open loop; returns how long it took."""
        async with self._session() as session:
            start, tasks = time.perf_counter(), []
            for number in range(int(rate * seconds)):
                due = start + number / rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.append(asyncio.create_task(
                    self.ask(session, number, due)))
            await asyncio.gather(*tasks)
            return time.perf_counter() - start

    async def at_most(self, clients: int, seconds: float) -> float:
        """A closed loop of so many clients."""
        async with self._session() as session:
            start = time.perf_counter()

            async def client(number: int) -> None:
                while (now := time.perf_counter()) < start + seconds:
                    await self.ask(session, number, now)
                    number += clients

            await asyncio.gather(*map(client, range(clients)))
            return time.perf_counter() - start

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64),
            timeout=aiohttp.ClientTimeout(30))

    def row(self, name: str, seconds: float) -> dict[str, Any]:
        found = torch.tensor(self.times, dtype=torch.double) * 1e3
        p50, p99 = found.quantile(torch.tensor([.5, .99]).double()).tolist()
        return {'load': name, 'requests': len(found),
                'per_second': round(len(found) / seconds, 1),
                'p50_ms': round(p50, 2), 'p99_ms': round(p99, 2),
                'max_ms': round(float(found.max()), 2),
                'errors': self.errors}


def serve(folder: str, port: int) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, '-m', 'torch_promptmm.cli', 'serve', folder,
         '--port', str(port)], stderr=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)) == 0:
                return process
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise SystemExit('the service did not start: run `promptmm serve` on a '
                     'saved model to see why')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rate', type=float, default=500.0)
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--clients', type=int, default=32)
    parser.add_argument('--scale', type=float, default=1.0)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    model, url = make_model(args.scale), f'http://127.0.0.1:{port}/recommend'
    errors = 0
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        process = serve(folder, port)
        try:
            asyncio.run(Load(url, model.num_users).at_most(4, 1.0))  # Warm.
            load = Load(url, model.num_users)
            took = asyncio.run(load.at_rate(args.rate, args.seconds))
            print(json.dumps(load.row(f'{args.rate:g}/s', took)), flush=True)
            errors += sum(load.errors.values())
            load = Load(url, model.num_users)
            took = asyncio.run(load.at_most(args.clients,
                                            min(args.seconds, 10.0)))
            print(json.dumps(load.row(f'{args.clients} clients', took)))
            errors += sum(load.errors.values())
        finally:
            process.terminate()
            process.wait()
    return int(errors > 0)


if __name__ == '__main__':
    sys.exit(main())
