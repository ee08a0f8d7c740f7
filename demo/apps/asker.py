"""Asks DNS one question again and again: `python -m demo.apps.asker SERVER NAME COUNT`; prints how many were answered and in how long."""

import json
import socket
import struct
import sys
import time
from typing import Final

AT_ONCE: Final = 16
DEADLINE_S: Final = 2.0


def ask(server: str, name: str, count: int) -> dict[str, float]:
    """By UDP, a few questions at a time. `seconds` until the last answer."""
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    question = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    sent = answered = 0
    began_s = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(DEADLINE_S)
        asking.connect((server, 53))
        while answered < count:
            while sent < count and sent - answered < AT_ONCE:
                asking.send(question)
                sent += 1
            try:
                asking.recv(4096)
            except TimeoutError:
                break
            answered += 1
    return {"answered": answered, "seconds": time.monotonic() - began_s}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
