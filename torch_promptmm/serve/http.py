r"""What the service takes and answers, and what watches over each request.
Needs the extra :obj:`serve`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import anyio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The most that one request may ask for.
MAX_ROWS, MAX_K, MAX_IDS = 256, 1000, 10_000

Id = (Annotated[StrictInt, Field(ge=-2**63, le=2**63 - 1)]
      | Annotated[StrictStr, Field(max_length=512)])
Ids = Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)]
Rows = Annotated[list[Id], Field(min_length=1, max_length=MAX_ROWS)]
K = Annotated[StrictInt, Field(ge=1, le=MAX_K)]


class Body(BaseModel):
    r"""A request; what it does not know is an error."""
    model_config = ConfigDict(extra='forbid')
    k: K = 20


class RecommendBody(Body):
    r"""Which users, and what may be recommended to them."""
    users: Rows
    exclude_known: bool = Field(True, strict=True)
    candidates: Ids | None = Field(None, description='Only these items.')
    exclude: Ids | None = Field(None, description='None of these items.')


class SimilarBody(Body):
    r"""Which items."""
    items: Rows


class HistoryBody(Body):
    r"""The whole history of each user, who need not be known."""
    histories: Annotated[list[Ids],
                         Field(min_length=1, max_length=MAX_ROWS)]


class List(BaseModel):
    r"""At most k items, best first."""
    items: list[Id]
    scores: list[float]


class Answer(BaseModel):
    r"""A list for each row that was asked for, in that order."""
    version: str
    results: list[List]


class Health(BaseModel):
    r"""What is served; what is wrong with a version that is not."""
    status: str
    version: str
    loaded: float
    users: int
    items: int
    waiting: int
    error: str | None


class Problem(BaseModel):
    r"""Why there is no answer."""
    detail: str


class Metrics:
    r"""Counts and times of one app, as Prometheus text."""
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            'promptmm_requests', 'Requests.', ['path', 'status'],
            registry=self.registry)
        self.seconds = Histogram(
            'promptmm_request_seconds', 'Time of a request.', ['path'],
            registry=self.registry, buckets=(
                .001, .002, .003, .005, .01, .02, .05, .1, .25, .5, 1, 5))
        self.rows = Histogram(
            'promptmm_batch_requests', 'Requests computed together.',
            registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64, 128))

    def gauge(self, name: str, text: str, value: Any) -> None:
        r"""Adds a value that is read when it is asked for."""
        Gauge(f'promptmm_{name}', text,
              registry=self.registry).set_function(value)

    def text(self) -> bytes:
        r"""All of them."""
        return generate_latest(self.registry)


class Watch:
    r"""An ASGI middleware that counts requests, and ends one that takes too
    long, be it that its body does not come or that its answer does not.

    Args:
        app (callable): The app inside.
        metrics (Metrics): Where to count.
        seconds (float): The most that a request may take.
    """
    def __init__(self, app: ASGIApp, metrics: Metrics,
                 seconds: float) -> None:
        self.app, self.metrics, self.seconds = app, metrics, seconds

    async def __call__(self, scope: Scope, receive: Receive,
                       send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        start, status, whole = time.perf_counter(), 0, False

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get('status', status)
            await send(message)

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = not message.get('more_body', False)
            return message

        try:
            with anyio.fail_after(self.seconds):
                await self.app(scope, received, counted)
        except TimeoutError:
            if status == 0:
                what = 'answer' if whole else 'body'
                await JSONResponse(
                    {'detail': f'the {what} took longer than '
                               f'{self.seconds:g} s'},
                    503 if whole else 408, {'Connection': 'close'},
                )(scope, receive, counted)
        except Exception:
            status = status or 500  # As what is outside answers.
            raise
        finally:
            # Paths that nobody defined are one: their number is bounded.
            route = getattr(scope.get('route'), 'path', 'other')
            self.metrics.requests.labels(route, status or 499).inc()
            self.metrics.seconds.labels(route).observe(
                time.perf_counter() - start)
