"""What the transport takes from the API: its limits, and the responses to requests that no route ever sees."""

from service.api.errors import RefusedByTransport
from service.api.health import Health
from service.api.problem import error_response
from service.api.routing import SINGLE_HEADERS
from service.context import RequestContext, new_request_id
from service.errors import ServiceError, Unavailable
from service.observability import metrics
from service.settings import Settings
from service.transport.options import Budget, Options, Refusal, Response


def transport_options(settings: Settings, health: Health) -> Options:
    """Return the configuration of the connections of a worker."""
    return Options(
        refuse=refuse,
        overloaded=lambda: Unavailable("The request bodies in flight are too large together."),
        is_draining=lambda: health.is_draining,
        keep_alive_seconds=settings.keep_alive_seconds,
        connections=Budget(settings.max_connections),
        body_bytes=Budget(settings.max_body_bytes_in_flight),
        single_headers=SINGLE_HEADERS,
    )


def refuse(refusal: Refusal) -> Response:
    """Count a request that the transport refuses, and return the error response to it."""
    error = _error(refusal)
    metrics.requests("other", "", "", error.outcome).ended(RequestContext(), 0)
    request_id = new_request_id()
    response = error_response(error, refusal.path, request_id)
    headers = {"Content-Type": response.media_type, "X-Request-ID": request_id, **response.headers}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Response(response.status, fields, response.body)


def _error(refusal: Refusal) -> ServiceError:
    if refusal.status == 503:
        return Unavailable(refusal.detail)
    if refusal.status == 500:
        return ServiceError(refusal.detail)
    return RefusedByTransport(refusal.status, refusal.detail)
