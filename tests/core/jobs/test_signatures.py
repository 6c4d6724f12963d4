"""Against the specification's own example, and against its reference implementation."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.jobs.signatures import headers, new_secret, sign

BODY = '{"type":"job.succeeded","data":{"name":"Mieze, schwarz-weiß"}}'.encode()


def test_the_example_of_the_specification() -> None:
    assert (
        sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_secrets_are_as_long_as_the_specification_asks_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(20)}
    assert len(secrets) == 20
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


def test_what_is_signed_is_verified_with_either_secret_of_a_rotation() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    sent = headers([new, old], "msg_1", int(time.time()), BODY)
    for secret in (new, old):
        assert Webhook(secret).verify(BODY, sent)["type"] == "job.succeeded"
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(BODY, sent)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_can_be_changed_on_the_way(changed: str) -> None:
    secret, now = new_secret(), int(time.time())
    sent, body = headers([secret], "msg_1", now, BODY), BODY
    if changed == "body":
        body = BODY.replace(b"succeeded", b"failed")
    else:
        sent[changed] = "msg_2" if changed == "webhook-id" else str(now + 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, sent)
