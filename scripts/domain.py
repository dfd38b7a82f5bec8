"""Finds a ROS domain that nothing else of this project uses on this machine, says which, and holds it.

It is held until the standard input ends, as the name of an abstract socket, in the way that tests/ros/node.rs has.
"""

import os
import signal
import socket
import sys

# Their ports lie below those that Linux gives to clients.
DOMAINS = 100


def main() -> int:
    """Returns the exit code."""
    # Ctrl-C reaches this process too, which ends with its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for offset in range(DOMAINS):
        domain = (os.getpid() + offset) % DOMAINS + 1
        with socket.socket(socket.AF_UNIX) as holder:
            try:
                holder.bind(f"\0xvla_ros_test_domain_{domain}")
            except OSError:
                continue
            print(domain, flush=True)
            sys.stdin.read()
            return 0
    print("domain: all ROS domains are in use", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
