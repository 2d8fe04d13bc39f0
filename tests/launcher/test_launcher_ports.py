"""Choosing ports, with real sockets."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.ports import Ports, address, choose_ports, connect_host


def test_zeros_become_four_different_free_ports() -> None:
    chosen = dataclasses.astuple(choose_ports("127.0.0.1", Ports(0, 0, 0, 0)))
    assert len(set(chosen)) == 4
    assert all(chosen)


def test_a_given_port_is_kept() -> None:
    wanted = choose_ports("127.0.0.1", Ports(0, 0, 0, 0)).http
    assert choose_ports("127.0.0.1", Ports(wanted, 0, 0, 0)).http == wanted


def test_a_taken_port_is_named_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LauncherError, match=rf"port {port} on 127.0.0.1 is taken: .*--metrics-port"):
            choose_ports("127.0.0.1", Ports(0, 0, port, 0))


def test_one_port_for_two_is_refused() -> None:
    port = choose_ports("127.0.0.1", Ports(0, 0, 0, 0)).http
    with pytest.raises(LauncherError, match=f"port {port}"):
        choose_ports("127.0.0.1", Ports(port, port, 0, 0))


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_a_foreign_address_is_refused(host: str) -> None:
    with pytest.raises(LauncherError, match="is not an address of this machine"):
        choose_ports(host, Ports(0, 0, 0, 0))


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(LauncherError, match="--port 70000 is not a port number"):
        choose_ports("127.0.0.1", Ports(70000, 0, 0, 0))


def test_all_addresses_are_reached_at_the_loopback() -> None:
    assert address(connect_host("0.0.0.0"), 8001) == "127.0.0.1:8001"
    assert address(connect_host("::"), 8001) == "[::1]:8001"


def test_the_port_file_is_whole(tmp_path: Path) -> None:
    Ports(1, 2, 3, 4).write(tmp_path / "ports.json")
    assert json.loads((tmp_path / "ports.json").read_text()) == {"http": 1, "grpc": 2, "metrics": 3, "triton_http": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]
