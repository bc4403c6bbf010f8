"""A model to serve, and the service in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import torch

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import Recommender

USERS, ITEMS = 40, 60


def make_model(seed: int = 0, ids: bool = True) -> Recommender:
    generator = torch.Generator().manual_seed(seed)
    user, item = (torch.randn(n, 8, generator=generator)
                  for n in (USERS, ITEMS))
    known = torch.stack([torch.arange(USERS).repeat_interleave(3),
                         torch.randint(ITEMS, (3 * USERS, ),
                                       generator=generator)])
    maps = {'user': IdMap([f'u{i}' for i in range(USERS)]),
            'item': IdMap(range(100, 100 + ITEMS))} if ids else None
    return Recommender(user, item, known.unique(dim=1), maps)


def talk(app: Any, story: Callable[[Any], Awaitable[Any]],
         **kwargs: Any) -> Any:
    """Runs a story with a client of an app that has started."""
    import httpx

    async def main() -> Any:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport,
                                         base_url='http://test',
                                         **kwargs) as client:
                return await story(client)

    return asyncio.run(main())
