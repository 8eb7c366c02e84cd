"""Where a process listens."""

import psutil


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens."""
    told = psutil.Process(pid).net_connections(kind="inet")
    return {each.laddr.ip.removeprefix("::ffff:") for each in told if each.status == psutil.CONN_LISTEN}
