"""The errors that a request can end with, named by what the caller can do about them.

    BackendError
    ├── InvalidInput         [INVALID_ARGUMENT]    send something else
    ├── ContextOverflow      [OUT_OF_RANGE]        send less, or ask for less
    ├── Unsupported          [UNIMPLEMENTED]       choose another model or engine
    ├── QueueFull            [RESOURCE_EXHAUSTED]  come back later
    ├── DependencyDown       [UNAVAILABLE]         come back later; another server is at fault
    ├── DeadlineExceeded     [DEADLINE_EXCEEDED]   allow more time
    └── InternalFault        [INTERNAL]            report it

The text on the wire is `[CODE] field: message`, see docs/contracts.md.
"""

from __future__ import annotations


class BackendError(Exception):
    """A request ends with this; `field` names the tensor or parameter at fault, if one is."""

    code = "INTERNAL"

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field

    @property
    def wire_text(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"[{self.code}] {where}{self}"


class InvalidInput(BackendError):
    code = "INVALID_ARGUMENT"


class ContextOverflow(BackendError):
    code = "OUT_OF_RANGE"


class Unsupported(BackendError):
    code = "UNIMPLEMENTED"


class QueueFull(BackendError):
    code = "RESOURCE_EXHAUSTED"


class DependencyDown(BackendError):
    code = "UNAVAILABLE"


class DeadlineExceeded(BackendError):
    code = "DEADLINE_EXCEEDED"


class InternalFault(BackendError):
    code = "INTERNAL"


class OptionError(Exception):
    """A parameter of config.pbtxt is unknown or has a bad value; the load fails with this text."""
