"""Requests to addresses that strangers chose: picture URLs and webhooks.

Three layers, each usable and tested alone: :mod:`~core.network.urls` refuses a URL by its text, at the
door and without DNS; :mod:`~core.network.addresses` says which addresses belong to the public internet;
:mod:`~core.network.guard` resolves, checks and connects in one step, which is the layer that counts.
"""

from core.network.addresses import is_public
from core.network.guard import GuardedTransport, HostNotFound, Resolve, system_resolver
from core.network.urls import check_url

__all__ = [
    "GuardedTransport",
    "HostNotFound",
    "Resolve",
    "check_url",
    "is_public",
    "system_resolver",
]
