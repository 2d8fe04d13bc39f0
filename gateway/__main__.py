"""`python -m gateway`: reads the settings, sets up logging, and serves until a signal."""

from __future__ import annotations

import os
import signal
import sys

from gateway.logs import set_up_logging
from gateway.server import serve
from gateway.settings import SettingError, read_settings


def main() -> int:
    try:
        settings = read_settings(sys.argv[1:], os.environ)
        set_up_logging(settings.log_level)
        # uvicorn stops cleanly on both and then raises the signal again, for whoever handled it before: nobody, here.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        return 0 if serve(settings) else 1
    except SettingError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
