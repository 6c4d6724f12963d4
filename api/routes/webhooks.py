"""``/v1/webhooks`` and ``/v1/deliveries``: receivers, their secrets, and what became of each delivery."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from api import idempotency
from api.auth import OwnerDep
from api.bodies import media_type_of, parsed_json
from api.openapi import WEBHOOK_BODY, problems
from api.problems import from_validation
from api.schemas import Cursor, checked_cursor
from api.service import Service, ServiceDep
from api.submissions import check_receiver
from api.webhook_schemas import (
    DeliveryOut,
    DeliveryPage,
    SecretOut,
    WebhookList,
    WebhookOut,
    WebhookRequest,
    WebhookWithSecret,
)
from core.errors import UnsupportedMediaType
from core.jobs import delivery_log, webhook_secrets, webhooks
from core.jobs.ids import new_id
from core.jobs.states import Queue
from core.jobs.submit import Naming, name_request

router = APIRouter(prefix="/v1", tags=["webhooks"])

Limit = Annotated[int, Query(ge=1, le=100)]


async def _not_to_be_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


SHOWS_A_SECRET = [Depends(_not_to_be_stored)]


async def read_webhook(request: Request) -> WebhookRequest:
    """Read here, as all bodies are: FastAPI would answer one that is too large, or too slow, with 400."""
    if (kind := media_type_of(request)) != "application/json":
        said = kind[:100] or "of no declared type"
        raise UnsupportedMediaType(f"The body is {said}. Send application/json.")
    try:
        return WebhookRequest.model_validate(parsed_json(await request.body()))
    except ValidationError as error:
        raise from_validation(error) from error


@router.post(
    "/webhooks",
    status_code=201,
    response_model=WebhookWithSecret,
    dependencies=SHOWS_A_SECRET,
    openapi_extra=WEBHOOK_BODY,
    responses=problems(
        *(400, 408, 409, 413, 415, 422, 503),
        http_201={"description": "Registered.", "headers": idempotency.ANSWER_HEADERS},
    ),
)
def create_webhook(
    wanted: Annotated[WebhookRequest, Depends(read_webhook)],
    request: Request,
    response: Response,
    service: ServiceDep,
    owner: OwnerDep,
    _idempotency_key: idempotency.Key = None,
) -> WebhookWithSecret:
    """Register a receiver. Its secret is in this answer, and where the same request is repeated, alone."""
    url = check_receiver(wanted.url, service.settings)
    once = idempotency.of(request, [url, wanted.events])
    endpoint_id = new_id("whk")
    with service.database.write() as session:
        made = endpoint_id if once is None else name_request(session, Naming(endpoint_id, once, owner))
        if made == endpoint_id:
            endpoint = webhooks.create_endpoint(
                session, url, owner=owner, events=wanted.events, endpoint_id=endpoint_id
            )
        else:
            endpoint = webhooks.get_endpoint(session, made, owner=owner)
        created = WebhookWithSecret.of(endpoint)
    location = f"/v1/webhooks/{created.id}"
    response.headers.update(idempotency.headers_of(location, is_replayed=made != endpoint_id))
    return created


@router.get("/webhooks", response_model=WebhookList, responses=problems(503))
def list_webhooks(service: ServiceDep, owner: OwnerDep) -> WebhookList:
    """Every registered receiver, the newest first."""
    with service.database.read() as session:
        found = webhooks.endpoints(session, owner=owner)
        return WebhookList(webhooks=[WebhookOut.of(endpoint) for endpoint in found])


@router.get(
    "/webhooks/secret", response_model=SecretOut, dependencies=SHOWS_A_SECRET, responses=problems(503)
)
def get_secret(service: ServiceDep, owner: OwnerDep) -> SecretOut:
    """The secret that signs what is sent to the `webhook_url` of your jobs."""
    with service.database.write() as session:
        return SecretOut.of(webhook_secrets.own_secret(session, owner))


@router.post(
    "/webhooks/secret/rotate", response_model=SecretOut, dependencies=SHOWS_A_SECRET, responses=problems(503)
)
def rotate_secret(service: ServiceDep, owner: OwnerDep) -> SecretOut:
    """Renew the secret of your jobs' `webhook_url`; the old one signs beside it for 24 hours."""
    with service.database.write() as session:
        return SecretOut.of(webhook_secrets.own_secret(session, owner, renew=True))


@router.get("/webhooks/{webhook_id}", response_model=WebhookOut, responses=problems(404, 422, 503))
def get_webhook(webhook_id: str, service: ServiceDep, owner: OwnerDep) -> WebhookOut:
    """One receiver, and whether it works."""
    with service.database.read() as session:
        return WebhookOut.of(webhooks.get_endpoint(session, webhook_id, owner=owner))


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=problems(404, 422, 503))
def delete_webhook(webhook_id: str, service: ServiceDep, owner: OwnerDep) -> None:
    """Remove a receiver, with what still waits for it and with its log."""
    with service.database.write() as session:
        webhooks.delete_endpoint(session, webhook_id, owner=owner)


@router.post(
    "/webhooks/{webhook_id}/rotate",
    response_model=WebhookWithSecret,
    dependencies=SHOWS_A_SECRET,
    responses=problems(404, 422, 503),
)
def rotate_webhook(webhook_id: str, service: ServiceDep, owner: OwnerDep) -> WebhookWithSecret:
    """Give it a new secret, shown once; the old one signs beside it for 24 hours."""
    with service.database.write() as session:
        return WebhookWithSecret.of(webhook_secrets.rotate(session, webhook_id, owner=owner))


@router.post("/webhooks/{webhook_id}/enable", response_model=WebhookOut, responses=problems(404, 422, 503))
def enable_webhook(webhook_id: str, service: ServiceDep, owner: OwnerDep) -> WebhookOut:
    """Send to a disabled receiver again what ends from now on. What it missed can be redelivered."""
    with service.database.write() as session:
        return WebhookOut.of(webhooks.enable_endpoint(session, webhook_id, owner=owner))


@router.post(
    "/webhooks/{webhook_id}/test",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems(404, 409, 422, 503),
)
def test_webhook(webhook_id: str, service: ServiceDep, owner: OwnerDep) -> DeliveryOut:
    """Send it an event of the type `webhook.test`, whatever its filter."""
    with service.database.write() as session:
        delivery_id = delivery_log.ping(session, webhook_id, owner=owner)
    service.hints.note(Queue.IO)
    return _delivery(service, delivery_id)


@router.get(
    "/webhooks/{webhook_id}/deliveries", response_model=DeliveryPage, responses=problems(404, 422, 503)
)
def list_webhook_deliveries(
    webhook_id: str, service: ServiceDep, owner: OwnerDep, limit: Limit = 20, cursor: Cursor = None
) -> DeliveryPage:
    """What was and will be sent to it, the newest first, with every attempt."""
    with service.database.read() as session:
        webhooks.get_endpoint(session, webhook_id, owner=owner)
        records = delivery_log.list_deliveries(
            session,
            owner=owner,
            endpoint_id=webhook_id,
            before=checked_cursor(cursor, "msg"),
            limit=limit + 1,
        )
    return _page(records, limit)


@router.get("/deliveries", response_model=DeliveryPage, responses=problems(422, 503))
def list_deliveries(
    service: ServiceDep,
    owner: OwnerDep,
    job_id: Annotated[str | None, Query(max_length=48)] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> DeliveryPage:
    """Deliveries to all receivers, also to the `webhook_url` of jobs; of one job, if you say which."""
    with service.database.read() as session:
        records = delivery_log.list_deliveries(
            session, owner=owner, subject_id=job_id, before=checked_cursor(cursor, "msg"), limit=limit + 1
        )
    return _page(records, limit)


@router.get("/deliveries/{delivery_id}", response_model=DeliveryOut, responses=problems(404, 422, 503))
def get_delivery(delivery_id: str, service: ServiceDep, owner: OwnerDep) -> DeliveryOut:
    """One delivery with every attempt."""
    with service.database.read() as session:
        return DeliveryOut.of(delivery_log.get_delivery(session, delivery_id, owner=owner))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems(404, 409, 422, 503),
)
def redeliver(delivery_id: str, service: ServiceDep, owner: OwnerDep) -> DeliveryOut:
    """Send it again now, with the same `webhook-id` and body, whatever became of it before."""
    with service.database.write() as session:
        delivery_log.redeliver(session, delivery_id, owner=owner)
    service.hints.note(Queue.IO)
    return _delivery(service, delivery_id)


def _delivery(service: Service, delivery_id: str) -> DeliveryOut:
    with service.database.read() as session:
        return DeliveryOut.of(delivery_log.get_delivery(session, delivery_id))


def _page(records: list[delivery_log.DeliveryRecord], limit: int) -> DeliveryPage:
    shown = [DeliveryOut.of(record) for record in records[:limit]]
    return DeliveryPage(deliveries=shown, next_cursor=shown[-1].id if len(records) > limit else None)
