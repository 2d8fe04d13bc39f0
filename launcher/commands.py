"""The command lines and the environment of tritonserver and of the gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher.options import ServeOptions
from launcher.ports import Ports, address, connect_host
from launcher.triton_install import TritonInstallation

LOG_LEVELS = ("debug", "info", "warning", "error")

# Loading a large checkpoint takes minutes; Triton's own limit is 30 s.
STUB_TIMEOUT_S = 1800
EXIT_TIMEOUT_S = 8


def triton_command(
    installation: TritonInstallation, repository: Path, host: str, ports: Ports, shm_prefix: str, log_level: str
) -> list[str]:
    """Explicit model control lets the supervisor reload a model. A model that fails to load does not take the others
    with it: the repository index then says why. Without auto-completion a model process starts once, not twice."""
    return [
        str(installation.binary),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        f"--cache-directory={installation.caches}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-on-error=false",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={host}",
        f"--http-port={ports.triton_http}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        *_triton_log_flags(log_level),
    ]


def triton_environment(installation: TritonInstallation, host: str, ports: Ports) -> dict[str, str]:
    endpoint = address(connect_host(host), ports.grpc)
    return {**installation.environment(dict(os.environ)), "TRIMODAL_GRPC_ENDPOINT": endpoint}


def gateway_command(options: ServeOptions, ports: Ports) -> list[str]:
    triton = connect_host(options.triton_host)
    return [
        sys.executable,
        "-m",
        "gateway",
        f"--host={options.host}",
        f"--port={ports.http}",
        f"--triton-grpc={address(triton, ports.grpc)}",
        f"--triton-metrics={address(triton, ports.metrics)}",
        f"--log-level={options.log_level}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in options.gateway_settings.items()),
    ]


def _triton_log_flags(level: str) -> list[str]:
    wanted = LOG_LEVELS.index(level)
    flags = [f"--log-info={_flag(wanted <= 1)}", f"--log-warning={_flag(wanted <= 2)}"]
    return [*flags, "--log-verbose=1"] if wanted == 0 else flags


def _flag(value: bool) -> str:
    return "true" if value else "false"
