"""Error responses to requests that the transport refuses: no application sees those, and they count all the same."""

from service.api.problem import MEDIA_TYPE, problem
from service.api.v2.routes import error_reply
from service.context import RequestContext, new_request_id
from service.errors import NotServed, ServiceError, Unavailable
from service.observability import metrics
from service.transport.options import Refusal, Response


def refuse(refusal: Refusal) -> Response:
    """Render a refusal as the API that its path belongs to renders errors, and count it."""
    error = _error(refusal)
    metrics.requests("other", "", "", error.outcome).ended(RequestContext(), 0)
    request_id = new_request_id()
    if refusal.path.startswith("/v2"):
        reply = error_reply(error)
        body, media_type = reply.body, reply.media_type
    else:
        body, media_type = problem(error, request_id), MEDIA_TYPE
    headers = {"Content-Type": media_type, "X-Request-ID": request_id, **error.headers}
    return Response(error.status, [(name.lower().encode(), value.encode()) for name, value in headers.items()], body)


def overloaded() -> Unavailable:
    """Return the error of a request whose body exceeds the limit on all bodies in flight."""
    return Unavailable("The bodies of the requests under way are too large together.")


def _error(refusal: Refusal) -> ServiceError:
    if refusal.status == Unavailable.status:
        return Unavailable(refusal.detail)
    if refusal.status == ServiceError.status:
        return ServiceError(refusal.detail)
    return NotServed(refusal.status, refusal.detail)
