"""How the gateway logs: one line per event, with the id of the request that it belongs to."""

from __future__ import annotations

import logging

from gateway.middleware import REQUEST_ID

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


def set_up_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    logging.basicConfig(level=level.upper(), handlers=[handler], format=LOG_FORMAT)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
