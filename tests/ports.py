# SPDX-License-Identifier: MIT
"""Ports for servers of tests."""
import contextlib
import random
import socket


def free_port(count=1):
    """A port of the loopback that nobody has and nobody is given who asks the system for any, so
    that it is still free later; or the first of so many in a row."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    while True:
        port = random.randrange(10_100, 65_536 - count)  # browsers refuse 10080
        if port + count > first and port <= last and last - first < 50_000:
            continue
        with contextlib.suppress(OSError):
            for one in range(port, port + count):
                with socket.socket() as probe:  # nor was it anybody's a moment ago
                    probe.bind(("127.0.0.1", one))
            return port
