"""The errors a client can meet, named by what the client can do about them, in the forms of OpenAI and Anthropic.

    GatewayError
    ├── InvalidRequest      400  send something else
    │   ├── Unsupported     400  code `unsupported`: choose another model, or leave the field out
    │   └── ContextOverflow 400  code `context_length_exceeded`: send less, or ask for less
    ├── Unauthorized        401  code `invalid_api_key`
    ├── Forbidden           403  code `insufficient_permissions`: use a key that may
    ├── ModelNotFound       404  code `model_not_found`
    ├── RouteNotFound       404
    ├── MethodNotAllowed    405
    ├── Conflict            409  undo first what stands against it
    ├── PayloadTooLarge     413
    ├── Overloaded          429  come back after Retry-After
    ├── ClientGone          499  nobody reads this answer
    ├── InternalFault       500  report it; the text is always the same
    ├── UpstreamFault       502  the model server broke its contract; report it
    ├── Unavailable         503  come back after Retry-After
    │   └── ServerGone      503  the server, or the model in it, is gone: another one may be asked
    └── UpstreamTimeout     504  allow more time

Knows the text form `[CODE] field: message` of docs/contracts.md; knows neither HTTP frameworks nor gRPC calls.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

log = logging.getLogger("trimodal.gateway")


_MESSAGES_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class GatewayError(Exception):
    """A request ends with this. `param` is the dotted path of the field at fault, `code` a word for programs."""

    status = 500
    kind = "server_error"
    default_code: str | None = None
    retry_after_s: int | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.default_code

    @property
    def body(self) -> dict[str, Any]:
        """The OpenAI error object; all four keys are always there."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def messages_body(self) -> dict[str, Any]:
        """The same in Anthropic's form; the field at fault is named in the message."""
        text = str(self)
        if self.param and self.param not in text:
            text = f"{self.param}: {text}"
        kind = _MESSAGES_KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": text}}

    def renamed(self, param: str) -> GatewayError:
        """The same error, under the name that the client used for the field."""
        text, old = str(self), self.param or ""
        return type(self)(param + text.removeprefix(old) if old and text.startswith(old) else text, param, self.code)

    def under(self, names: Mapping[str, str]) -> GatewayError:
        """This error, renamed if `names` has another name for its field, or for an object that its field is in."""
        name = path_under(self.param or "", names)
        return self if name == (self.param or "") else self.renamed(name)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}

    def to_json(self) -> bytes:
        return orjson.dumps(self.body)


def path_under(path: str, names: Mapping[str, str]) -> str:
    """A dotted path, its longest part that `names` has replaced by the name there."""
    found, rest = path, ""
    while found and found not in names:
        found, _, last = found.rpartition(".")
        rest = f".{last}{rest}"
    return names[found] + rest if found else path


class InvalidRequest(GatewayError):
    status, kind, default_code = 400, "invalid_request_error", "invalid_value"


class Unsupported(InvalidRequest):
    default_code = "unsupported"


class ContextOverflow(InvalidRequest):
    default_code = "context_length_exceeded"


class Unauthorized(GatewayError):
    status, kind, default_code = 401, "invalid_request_error", "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(GatewayError):
    status, kind, default_code = 403, "invalid_request_error", "insufficient_permissions"


class ModelNotFound(GatewayError):
    status, kind, default_code = 404, "invalid_request_error", "model_not_found"


class RouteNotFound(GatewayError):
    status, kind, default_code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(GatewayError):
    status, kind, default_code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(GatewayError):
    status, kind, default_code = 409, "invalid_request_error", "conflict"


class PayloadTooLarge(GatewayError):
    # No `Connection: close` here: uvicorn would reset the connection under a client that still sends its body, and the
    # client would see a broken pipe instead of this answer. Without it uvicorn reads the rest and throws it away.
    status, kind, default_code = 413, "invalid_request_error", "payload_too_large"


class Overloaded(GatewayError):
    status, kind, default_code = 429, "rate_limit_error", "rate_limit_exceeded"
    retry_after_s = 1


def rate_limited(message: str, wait_s: float) -> Overloaded:
    """The refusal of a caller that may come back in `wait_s` seconds."""
    error = Overloaded(f"{message} Try again in {wait_s:.1f} s.")
    error.retry_after_s = math.ceil(wait_s)
    return error


class ClientGone(GatewayError):
    status, kind, default_code = 499, "invalid_request_error", "client_closed_request"


class InternalFault(GatewayError):
    """A fault of ours; its text is fixed so that no path, secret or traceback leaves the house."""

    status, kind, default_code = 500, "server_error", "internal_error"

    def __init__(self) -> None:
        super().__init__("The server had an internal fault. The request id identifies it in the server's log.")


class UpstreamFault(GatewayError):
    status, kind, default_code = 502, "server_error", "upstream_error"


class Unavailable(GatewayError):
    status, kind, default_code = 503, "service_unavailable", "unavailable"
    retry_after_s = 5


class ServerGone(Unavailable):
    """What serves the model is gone, for this request at least; whoever has heard nothing yet may ask a replica."""


class UpstreamTimeout(GatewayError):
    status, kind, default_code = 504, "server_error", "deadline_exceeded"


BY_CODE: dict[str, type[GatewayError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": ContextOverflow,
    "NOT_FOUND": ModelNotFound,
    "UNIMPLEMENTED": Unsupported,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": UpstreamTimeout,
    # The client's own cancel never comes back here, so somebody else stopped the generation.
    "CANCELLED": Unavailable,
}

# Tensor names on the wire -> fields of the OpenAI request.
PARAM_OF_TENSOR = {
    "stop_words": "stop",
    "image": "messages",
    "video": "messages",
    "text_input": "messages",
    "return_log_probs": "logprobs",
    "num_return_sequences": "n",
    "audio": "file",
    "input_features": "file",
    "duration": "file",
    "guided_decoding_guide": "response_format",
    "guided_decoding_guide_type": "response_format",
}

_CODED = re.compile(r"\[(" + "|".join([*BY_CODE, "INTERNAL"]) + r")\] (?:([A-Za-z_][\w.\-]*): )?([^\r\n]*)")
# What Triton itself says while an entry is unloaded, still loading, or its Python process is dead.
_MODEL_DOWN = re.compile(r"unknown model|not ready|no available|not healthy|not available|unloading|shutting", re.I)


def from_wire(text: str) -> GatewayError:
    """Translates the error text of a response. Triton may put words before `[CODE]` and a traceback after the line."""
    found = _CODED.search(text)
    # INTERNAL and words without a code may hold paths: they go to the log, not to the client.
    if found and found[1] in BY_CODE:
        param = PARAM_OF_TENSOR.get(found[2], found[2])
        return BY_CODE[found[1]](f"{param}: {found[3]}" if param else found[3], param)
    if not found and _MODEL_DOWN.search(text):
        return model_unavailable()
    log.error("upstream fault: %s", text[:2000])
    return InternalFault()


def from_status(code: str, details: str) -> GatewayError:
    """Translates the end of a gRPC call; `code` is the name of the status."""
    if code == "UNAVAILABLE":
        return ServerGone("The model server cannot be reached.")
    if code in ("DEADLINE_EXCEEDED", "CANCELLED"):
        return BY_CODE[code]("The model server ended the call.")
    log.error("gRPC call failed: %s %s", code, details[:2000])
    return UpstreamFault("The model server failed the call.")


def model_unavailable() -> ServerGone:
    return ServerGone("The model is not available at the moment; it is being loaded again.", code="model_unavailable")
