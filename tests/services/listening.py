"""Where a process listens."""

import psutil


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens."""
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }
