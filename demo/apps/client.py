"""A client in a pod: `get` makes HTTP requests, `hold` keeps one TCP connection busy and says when it ends. Output is JSON lines."""

import argparse
import json
import socket
import sys
import time


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection by address; raises OSError."""
    return socket.create_connection((host, port), timeout=timeout_s)


def get(options: argparse.Namespace) -> None:
    """`count` requests, each on its own connection; prints `{"ok": ..., "pod"| "error": ..., "at": Unix time, "ms": ...}`."""
    for _ in range(options.count):
        begin = time.monotonic()
        try:
            with connect(options.host, options.port, options.timeout) as connection:
                request = f"GET {options.path} HTTP/1.1\r\nhost: {options.host}\r\nconnection: close\r\n\r\n"
                connection.sendall(request.encode())
                answer = b""
                while b"\r\n\r\n" not in answer or not answer.endswith(b"\n"):
                    chunk = connection.recv(65536)
                    if not chunk:
                        raise ConnectionError("closed before an answer came")
                    answer += chunk
            report = {"ok": True, **json.loads(answer.split(b"\r\n\r\n", 1)[1])}
        except (OSError, ValueError) as error:
            report = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        report |= {"at": time.time(), "ms": round((time.monotonic() - begin) * 1000, 1)}
        print(json.dumps(report), flush=True)
        time.sleep(options.pause)


def hold(options: argparse.Namespace) -> None:
    """One line every 20 ms on one connection; prints when the first answer came and when the connection ended (Unix times)."""
    begin = time.monotonic()
    answered = 0
    error = "the time was up"
    try:
        with connect(options.host, options.port, options.timeout) as connection:
            while time.monotonic() - begin < options.seconds:
                connection.sendall(options.line.encode() + b"\n")
                if not connection.recv(4096):
                    raise ConnectionError("closed by the other side")
                answered += 1
                if answered == 1:
                    print(json.dumps({"event": "open", "at": time.time()}), flush=True)
                time.sleep(0.02)
    except OSError as failure:
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps({"event": "end", "at": time.time(), "answered": answered, "error": error}), flush=True)


def main() -> None:
    """Parses the arguments and runs one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--timeout", type=float, default=5.0)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("get")
    one.add_argument("host")
    one.add_argument("port", type=int)
    one.add_argument("--path", default="/")
    one.add_argument("--count", type=int, default=1)
    one.add_argument("--pause", type=float, default=0.0)
    one.set_defaults(run=get)
    two = commands.add_parser("hold")
    two.add_argument("host")
    two.add_argument("port", type=int)
    two.add_argument("--line", default="are you there")
    two.add_argument("--seconds", type=float, default=30.0)
    two.set_defaults(run=hold)
    options = parser.parse_args()
    options.run(options)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
