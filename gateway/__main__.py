"""`python -m gateway`: reads the settings, sets up logging, and serves until a signal."""

from __future__ import annotations

import logging
import os
import signal
import sys

from gateway.middleware import REQUEST_ID
from gateway.server import create_server
from gateway.settings import SettingError, read_settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


def main() -> int:
    try:
        settings = read_settings(sys.argv[1:], os.environ)
    except SettingError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    _set_up_logging(settings.log_level)
    # uvicorn stops cleanly on both and then raises the signal again, for whoever handled it before: nobody, here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server = create_server(settings)
    server.run()
    return 0 if server.started else 1


def _set_up_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    logging.basicConfig(level=level.upper(), handlers=[handler], format=LOG_FORMAT)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True


if __name__ == "__main__":
    sys.exit(main())
