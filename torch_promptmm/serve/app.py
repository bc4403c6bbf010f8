r"""The service: a recommender behind HTTP, for any ASGI server. Needs
:obj:`pip install torch_promptmm[serve]`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from torch_promptmm.checks import check_float
from torch_promptmm.serve.batching import Batcher, QueueFull
from torch_promptmm.serve.live import Ask, LiveModel, UnknownId
from torch_promptmm.serve.recommender import Recommender

try:
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from starlette.middleware.body_limit import RequestBodyLimitMiddleware

    from torch_promptmm.serve.http import (
        Answer,
        Health,
        HistoryBody,
        List,
        Metrics,
        Problem,
        RecommendBody,
        SimilarBody,
        Watch,
    )
except ImportError as error:
    raise ImportError(f"Serving over HTTP needs '{error.name}', which is not "
                      f"installed; run 'pip install torch_promptmm[serve]'"
                      ) from error

log = logging.getLogger('torch_promptmm.serve')
Credentials = Annotated[HTTPAuthorizationCredentials | None,
                        Depends(HTTPBearer(auto_error=False))]
TEXT = 'text/plain; version=0.0.4; charset=utf-8'


class Service:
    r"""What the routes share: the model, the batches, the counts."""
    def __init__(self, model: LiveModel, reload_every: float | None,
                 **kwargs: Any) -> None:
        self.model, self.reload_every = model, reload_every
        self.metrics = metrics = Metrics()
        self.batcher = Batcher(self._compute, **kwargs)
        metrics.gauge('waiting', 'Requests in the queue.',
                      lambda: self.batcher.waiting)
        metrics.gauge('model_loaded_seconds', 'When the model was loaded.',
                      lambda: self.model.current.loaded)
        metrics.gauge('model_failures', 'New versions that were damaged.',
                      lambda: self.model.failures)

    def _compute(self, ask: Ask, values: list[Any]) -> list[Any]:
        self.metrics.rows.observe(len(values))
        return ask.version.compute(ask, values)

    async def ask(self, method: str, k: int, value: Any,
                  options: dict[str, Any] | None = None) -> Answer:
        r"""Computes with other requests of the kind. :obj:`value` is given
        the version that it is for, and returns rows."""
        version = self.model.current
        most = version.recommender.num_items - (method == 'similar_items')
        try:
            rows = value(version)
            given = {
                name: tuple(version.rows('item', x).tolist())
                if isinstance(x, list) else x
                for name, x in (options or {}).items() if x is not None}
        except UnknownId as error:
            raise HTTPException(404, str(error)) from error
        try:
            lists = await self.batcher.submit(
                Ask(version, method, min(k, most), tuple(given.items())),
                rows, len(rows))
        except QueueFull as error:
            raise HTTPException(503, 'too many requests wait; try again',
                                {'Retry-After': '1'}) from error
        return Answer.model_construct(version=version.name, results=[
            List.model_construct(items=items, scores=scores)
            for items, scores in lists])

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        r"""Batches requests and watches the model while the app runs."""
        async with self.batcher:
            task = asyncio.create_task(self._watch())
            yield
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while self.model.path is not None and self.reload_every is not None:
            await asyncio.sleep(self.reload_every)
            error = self.model.error
            if await asyncio.to_thread(self.model.refresh):
                log.info('Serving version %s', self.model.current.name)
            elif self.model.error not in (None, error):
                log.error('A new version is damaged, the old one stays: %s',
                          self.model.error)


def create_app(
    model: str | os.PathLike | Recommender,
    token: str | None = None,
    max_queue: int = 1024,
    max_batch: int = 256,
    max_wait: float = 0.001,
    max_body: int = 2**20,
    timeout: float = 10.0,
    reload_every: float | None = 1.0,
    **kwargs: Any,
) -> FastAPI:
    r"""Returns the service of a model as an ASGI app.

    .. code-block:: python

        app = create_app('model/')      # uvicorn.run(app)

    Args:
        model (str or Recommender): A directory of :meth:`Recommender.save`,
            or a recommender.
        token (str, optional): What clients must send as a bearer token;
            :obj:`/health` needs none. (default: :obj:`None`)
        max_queue (int, optional): Requests that may wait; a further one is
            refused with 503. (default: :obj:`1024`)
        max_batch (int, optional): Users computed together.
            (default: :obj:`256`)
        max_wait (float, optional): Seconds that a batch gathers for.
            (default: :obj:`0.001`)
        max_body (int, optional): Bytes of a request at most.
            (default: :obj:`1048576`)
        timeout (float, optional): Seconds that a request may take.
            (default: :obj:`10.0`)
        reload_every (float, optional): Seconds between two looks for a new
            version in the directory, or :obj:`None` for never.
            (default: :obj:`1.0`)
        **kwargs (optional): Arguments of :meth:`Recommender.load`.
    """
    check_float('timeout', timeout, exclusive=True)
    if reload_every is not None:
        check_float('reload_every', reload_every, exclusive=True)
    if token is not None and not token.strip():
        raise ValueError("'token' must not be empty")
    service = Service(LiveModel(model, **kwargs), reload_every,
                      max_queue=max_queue, max_batch=max_batch,
                      max_wait=max_wait)
    app = FastAPI(title='torch_promptmm', lifespan=service.lifespan,
                  docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=max_body)
    app.add_middleware(Watch, metrics=service.metrics, seconds=timeout)
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(RequestValidationError, _refused)
    _add_routes(app, service, [] if token is None else
                [Depends(_check_token(token))])
    return app


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # Starlette logs it; the client learns nothing of the inside.
    return JSONResponse({'detail': 'internal error'}, 500)


async def _refused(request: Request, error: Any) -> JSONResponse:
    # Without what came in: it may be large, or a NaN, which JSON cannot hold.
    return JSONResponse({'detail': [
        {name: each[name] for name in ('type', 'loc', 'msg')}
        for each in error.errors()]}, 422)


def _check_token(token: str) -> Callable[..., Any]:
    wanted = token.encode()

    async def check(given: Credentials) -> None:
        if given is None or not secrets.compare_digest(
                given.credentials.encode(), wanted):
            raise HTTPException(401, 'a bearer token is needed',
                                {'WWW-Authenticate': 'Bearer'})

    return check


def _add_routes(app: FastAPI, service: Service, checks: list[Any]) -> None:
    codes = [400, 404, 408, 413, 500, 503] + [401] * bool(checks)
    shared: dict[str, Any] = {
        'dependencies': checks,
        'responses': {
            **{code: {'model': Problem} for code in codes},
            # Starlette's own, where the length says so beforehand.
            413: {'model': Problem,
                  'content': {'text/plain': {'schema': {'type': 'string'}}}},
        },
    }

    @app.post('/recommend', response_model=Answer, **shared)
    async def recommend(body: RecommendBody) -> Answer:
        r"""The best items of users, without what they have."""
        return await service.ask(
            'recommend', body.k, lambda x: x.rows('user', body.users),
            body.model_dump(include={'exclude_known', 'candidates',
                                     'exclude'}))

    @app.post('/similar', response_model=Answer, **shared)
    async def similar(body: SimilarBody) -> Answer:
        r"""The items that are most alike to each of some items."""
        return await service.ask('similar_items', body.k,
                                 lambda x: x.rows('item', body.items))

    @app.post('/history', response_model=Answer, **shared)
    async def history(body: HistoryBody) -> Answer:
        r"""The best items of users whom nobody has trained, from all that
        they have."""
        return await service.ask(
            'recommend_from_history', body.k,
            lambda x: [x.rows('item', each).tolist()
                       for each in body.histories])

    @app.get('/health')
    async def health() -> Health:
        r"""What is served, and what is wrong with a newer version."""
        current, model = service.model.current, service.model
        return Health(status='ok' if model.error is None else 'degraded',
                      version=current.name, loaded=current.loaded,
                      users=current.recommender.num_users,
                      items=current.recommender.num_items,
                      waiting=service.batcher.waiting, error=model.error)

    @app.get('/metrics', dependencies=checks, response_class=Response,
             responses={200: {'content': {TEXT: {
                 'schema': {'type': 'string'}}}},
                 **({401: {'model': Problem}} if checks else {})})
    async def metrics() -> Response:
        r"""Counts and times, as Prometheus text."""
        return Response(service.metrics.text(), media_type=TEXT)


def from_env() -> FastAPI:
    r"""Returns the app of the environment, for servers that start processes
    of their own: :obj:`PROMPTMM_MODEL` is the directory,
    :obj:`PROMPTMM_TOKEN` the token if there is one, :obj:`PROMPTMM_OPTIONS`
    other arguments of :func:`create_app` as JSON.

    .. code-block:: console

        $ export PROMPTMM_MODEL=model
        $ uvicorn --factory torch_promptmm.serve.app:from_env
    """
    if not os.environ.get('PROMPTMM_MODEL'):
        raise ValueError('PROMPTMM_MODEL is not set: it names the directory '
                         'of the model')
    return create_app(os.environ['PROMPTMM_MODEL'],
                      os.environ.get('PROMPTMM_TOKEN'),
                      **json.loads(os.environ.get('PROMPTMM_OPTIONS', '{}')))
