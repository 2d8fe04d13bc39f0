"""What the launcher tells its user when it cannot go on: one sentence that says what to do.

LauncherError          exit code 2: the command or the machine must change first
└── StartFailed        exit code 1: a process or a model did not come up, or did not stay up
"""

from __future__ import annotations


class LauncherError(Exception):
    """Printed as it is, without a traceback."""

    exit_code = 2


class StartFailed(LauncherError):
    exit_code = 1
