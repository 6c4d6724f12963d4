"""The HTTP application: ``uvicorn --factory api.app:create_app``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from api import openapi, problems
from api.auth import Guarded
from api.batching import Batching
from api.limits import Limited
from api.metrics import Measured, Metrics
from api.middleware import CORRELATION_HEADER, HeadAsGet, LimitedBody, Observed
from api.routes import batches, events, jobs, legacy, page, service, webhooks
from api.service import Service
from api.submissions import SMALL_BODY_BYTES
from core.logs import configure_logging
from core.settings import Settings

_DESCRIPTION = """
Post a picture, get a job id at once; poll, or wait, for the answer: cat or dog, with calibrated scores.

Every refusal is a problem document (RFC 9457). Every answer carries `X-Correlation-ID`, which you may choose,
and that to a whole request `X-Process-Time-ms`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application. Without ``settings`` they come from the environment."""
    settings = settings or Settings()
    configure_logging("api", level=settings.log_level, form=settings.log_format)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(settings)
        app.state.batching = Batching(app.state.service)
        app.state.service.start()
        metrics.watch(app.state.service.database, silent_seconds=settings.silent_seconds)
        try:
            yield
        finally:
            app.state.batching.stop()
            await app.state.service.stop()

    metrics = Metrics()
    # The docs page's script comes from this server, so that it works where the internet does not reach.
    app = FastAPIOffline(
        title="Pawlens",
        version=version("pawlens"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # Where a slash too many would lead, Starlette takes from the request's Host, and from this server's
        # scheme, which is http behind a proxy that ends TLS: a body and a key would go there in the clear.
        redirect_slashes=False,
    )
    app.include_router(jobs.direct)
    for routes in (jobs, events, batches, webhooks, service, legacy, page):
        app.include_router(routes.router)

    app.state.metrics = metrics
    problems.install(app)
    openapi.complete(app)
    # The last one added is the outermost: what the others answer is observed as well.
    app.add_middleware(Limited, settings=settings)
    app.add_middleware(Guarded, settings=settings)
    app.add_middleware(
        LimitedBody,
        max_bytes=settings.max_body_bytes,
        others={
            ("POST", "/v1/batches"): settings.max_batch_bytes,
            ("POST", "/v1/webhooks"): SMALL_BODY_BYTES,
        },
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                *(CORRELATION_HEADER, "X-Process-Time-ms", "Location", "Retry-After", "ETag"),
                *("Idempotent-Replayed", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"),
            ],
        )
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Observed)
    return app
