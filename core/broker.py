"""Celery over Redis: how a worker learns that there is work.

A message carries nothing but the name of a queue. It is a hint: jobs live in the database, and a hint
that is lost, late or doubled changes nothing but how soon a worker looks.
"""

from __future__ import annotations

import logging
from functools import cache

import redis
from celery import Celery
from kombu.entity import Queue as Channel
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.jobs.states import Queue
from core.settings import Settings

logger = logging.getLogger(__name__)

KEY_PREFIX = "pawlens:"
TASKS: dict[Queue, str] = {queue: f"pawlens.{queue}" for queue in Queue}
TASK_SECONDS = 600
"""Longest time for one task, far above any lease; only a native call that hangs ever reaches it."""


JOBS_PER_HINT = 16
"""A predict worker takes a micro-batch for each hint, so there is no need of a hint for each job."""

MAX_HINTS = 1000
"""In a queue. Where so many lie, no worker is idle; each takes about a kilobyte of Redis."""


class BrokerUnavailable(Exception):
    """Redis does not answer. The dispatcher will hint again; nobody needs to wait for it."""


class _HintsInHand(redis_transport.QoS):
    """The messages that a worker has taken and not yet given back, of which it may have so many.

    kombu leaves a message among them when Redis could not be told that it is done. A worker that may have one
    would then never take another, though its connection is whole again and its heart beats: seen when Redis
    stood still for some seconds. Redis gives such a message out once more after the visibility timeout, which
    for a hint does no harm.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]


redis_transport.Channel.QoS = _HintsInHand


@cache
def celery_app(redis_url: str) -> Celery:
    """The Celery application, with settings that were tried against killed workers and lost brokers."""
    app = Celery("pawlens", broker=redis_url.replace("unix://", "redis+socket://", 1))
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],  # a pickled message is refused, never executed
        task_ignore_result=True,
        result_backend=None,
        task_queues=[Channel(queue) for queue in Queue],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        task_acks_late=True,
        # A job that kills its worker must not come back through the message; the lease counts its attempts.
        task_reject_on_worker_lost=False,
        task_soft_time_limit=TASK_SECONDS,
        task_time_limit=TASK_SECONDS + 60,
        task_publish_retry=False,
        worker_pool_start_method="spawn",  # CUDA cannot be used in a forked process
        worker_proc_alive_timeout=120,  # the child loads the network before it reports in
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a Redis restart must not kill a job
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "health_check_interval": 10,
            "max_retries": 0,  # a hint is not worth waiting for; kombu would try for 6 s before it says so
            "global_keyprefix": KEY_PREFIX,
        },
    )
    return app


def hints_for(queue: Queue, jobs: int) -> int:
    """How many hints so many ready jobs call for."""
    return min(-(-jobs // JOBS_PER_HINT) if queue is Queue.PREDICT else jobs, MAX_HINTS)


def publish(settings: Settings, queue: Queue, count: int = 1) -> None:
    """Send ``count`` hints to the workers of a queue, or as many as are missing there from :data:`MAX_HINTS`.

    Raises:
        BrokerUnavailable: Redis does not answer within its timeouts, or all connections wait for that.
    """
    app = celery_app(settings.redis)
    try:
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            waiting = producer.channel.client.llen(queue)  # which adds the prefix itself
            for _ in range(min(count, MAX_HINTS - waiting)):
                app.send_task(TASKS[queue], queue=str(queue), producer=producer, retry=False)
    except (OperationalError, LimitExceeded, redis.RedisError, OSError) as error:
        raise BrokerUnavailable(str(error)) from error


class BrokerProbe:
    """Reads the broker directly: how many hints wait, and whether it answers at all."""

    def __init__(self, settings: Settings) -> None:
        self._client = redis.Redis.from_url(
            settings.redis,
            socket_timeout=2,
            socket_connect_timeout=1,
            health_check_interval=10,
            retry=Retry(NoBackoff(), 0),  # who asks wants to know now
        )

    def hints_waiting(self, queue: Queue) -> int:
        try:
            return int(self._client.llen(KEY_PREFIX + queue))
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailable(str(error)) from error

    def ping(self) -> None:
        try:
            self._client.ping()
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailable(str(error)) from error

    def close(self) -> None:
        self._client.close()
