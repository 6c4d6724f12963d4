"""From a request's body, in any of its forms, to a submission."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from anyio import to_thread
from pydantic import ValidationError
from starlette.requests import Request

from api.bodies import body_of, media_type_of, parsed_json, refuse_texts, values_of
from api.forms import FileHead, InMemory, Limits, read_multipart, read_urlencoded
from api.job_fields import JobFields, JobForm, JobRequest
from api.problems import from_validation
from api.values import cleaned
from core.errors import BadRequest, InvalidRequest, PayloadTooLarge, UnsupportedMediaType, UrlBlocked
from core.explain.methods import METHODS
from core.jobs.blobs import Picture
from core.jobs.submit import Submission
from core.logs import correlation_id
from core.network.urls import check_url
from core.settings import Settings
from core.vision import images

LIMITS = Limits(files=1, fields=20, field_bytes=64 * 1024)
SMALL_BODY_BYTES = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """A request that was read and not yet checked: the picture's bytes are still only bytes."""

    fields: JobFields
    data: bytes | None
    url: str | None
    name: str | None


async def read_job(request: Request, settings: Settings) -> Asked:
    """Read ``POST /v1/jobs`` in whichever form it came.

    Raises:
        BadRequest: the body does not parse.
        InvalidRequest: a field is unknown or has an impossible value, or there is not exactly one picture.
        PayloadTooLarge: the picture is over the limit.
        UnsupportedMediaType: the body is neither a form nor JSON.
    """
    kind = media_type_of(request)
    try:
        if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            asked = await _read_form(request, settings)
        elif kind == "application/json":
            body = await body_of(request)
            # In a thread when it may take long: a million fields keep a core busy for seconds.
            is_small = len(body) <= SMALL_BODY_BYTES
            asked = _from_json(body) if is_small else await to_thread.run_sync(_from_json, body)
        else:
            raise UnsupportedMediaType(
                f"The body is {kind[:100] or 'of no declared type'}. Send multipart/form-data with a field "
                "'file' or 'url', or application/json with 'image'."
            )
    except ValidationError as error:
        raise from_validation(error) from error
    if asked.url is not None:
        check_url(asked.url, allow_private=settings.allow_private_network)
    return asked


def asked_methods(methods: list[str]) -> tuple[str, ...]:
    """The methods in the order asked for, each once; ``all`` stands for every one."""
    unknown = [name[:40] for name in methods if name not in METHODS and name != "all"]
    if unknown:
        raise InvalidRequest(
            f"methods: there is no method {', '.join(map(repr, unknown))}. "
            f"The methods are {', '.join(METHODS)}, and all."
        )
    named = [known for name in methods for known in (METHODS if name == "all" else [name])]
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class Form:
    """What a form says: its texts in their order, and its one file, if it has one."""

    texts: list[tuple[str, str]]
    file: tuple[FileHead, bytes] | None

    def text(self, name: str) -> str | None:
        """The last value of a field, as with HTML forms; None without one."""
        return dict(self.texts).get(name)


async def read_form(request: Request) -> Form:
    """Read a form in either of its encodings.

    Raises:
        BadRequest: it does not parse, or has more than one file, or too much text.
    """
    if not media_type_of(request).startswith("multipart/"):
        return Form(await read_urlencoded(request, LIMITS), None)
    given = InMemory()
    too_many = BadRequest("The form has more than one file. Send many pictures to /v1/batches.")
    texts = await read_multipart(request, given, LIMITS, too_many_files=too_many)
    return Form(texts, given.files[0] if given.files else None)


def picture_of(form: Form, settings: Settings) -> tuple[bytes | None, str | None]:
    """The bytes and the name of the file in the field ``file``, if there is one.

    Raises:
        PayloadTooLarge: it is over the limit.
    """
    if form.file is None or form.file[0].field != "file":
        return None, None
    head, data = form.file
    _check_length(data, settings)
    return data, _plain_name(head.name)


async def _read_form(request: Request, settings: Settings) -> Asked:
    form = await read_form(request)
    refuse_texts(form.texts, "file")
    if form.file is not None and form.file[0].field != "file":
        raise InvalidRequest(f"{form.file[0].field[:100]}: this field is text; only 'file' is a file.")
    data, name = picture_of(form, settings)
    fields = JobForm.model_validate(values_of(form.texts))
    if (data is None) == (fields.url is None):
        raise InvalidRequest("Send exactly one of 'file' (a picture) and 'url' (where to download one).")
    return Asked(fields, data, fields.url, name)


def _from_json(body: bytes) -> Asked:
    fields = JobRequest.model_validate(parsed_json(body))
    source = fields.image
    if source.base64 is None:
        return Asked(fields, None, source.url, source.name)
    return Asked(fields, decode_base64(source.base64, "image.base64"), None, source.name)


def decode_base64(text: str, field: str) -> bytes:
    """The bytes of ``text``, which may be a ``data:`` URL.

    Raises:
        InvalidRequest: it is not base64; ``field`` is named.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field}: this is not base64: {error}") from error


def _check_length(data: bytes, settings: Settings) -> None:
    if len(data) > settings.max_image_bytes:
        raise PayloadTooLarge(
            f"The picture is larger than {settings.max_image_bytes:,} bytes. Send a smaller one; "
            "the network looks at a few hundred pixels a side."
        )


def _plain_name(name: str | None) -> str | None:
    """The file's name without any folders, for people to recognise; nothing is ever stored under it."""
    plain = (name or "").replace("\\", "/").rpartition("/")[2]
    return cleaned(plain)[:255] or None


def check_receiver(url: str, settings: Settings) -> str:
    """The URL to which webhooks may be sent, in the one form in which it is kept.

    Raises:
        UrlBlocked: see :func:`core.network.urls.check_url`.
    """
    try:
        parsed = check_url(url, allow_private=settings.allow_private_network)
    except UrlBlocked as error:
        raise UrlBlocked(f"The webhook cannot be sent there. {error.detail}") from error
    # With the path's slash, so that whatever leads to one host begins alike; a fragment is never sent.
    return str(parsed.copy_with(raw_path=parsed.raw_path, fragment=None))


def check(asked: Asked, settings: Settings, *, owner: str | None = None) -> Submission:
    """Look at the picture's bytes and make the submission. Takes milliseconds of a core: call it in a thread.

    Raises:
        InvalidImage, UnsupportedMediaType: see :func:`core.vision.images.inspect`.
    """
    picture = None
    if asked.data is not None:
        _check_length(asked.data, settings)
        info = images.inspect(asked.data, max_pixels=settings.max_pixels)
        picture = Picture(asked.data, info.width, info.height, info.media_type)
    fields = asked.fields
    return Submission(
        picture=picture,
        url=asked.url,
        name=asked.name,
        methods=asked_methods(fields.methods),
        options=fields.options.model_dump(mode="json"),
        priority=fields.priority,
        deadline_seconds=fields.deadline_seconds,
        custom_id=fields.custom_id,
        metadata=fields.metadata,
        owner=owner,
        correlation_id=correlation_id.get(),
        webhook_url=None if fields.webhook_url is None else check_receiver(fields.webhook_url, settings),
        webhook_events=None if fields.webhook_events is None else list(fields.webhook_events),
    )
