"""What the supervisor sees of a proxy: takes the lock, writes its pid, prints a line, waits. Run as a program."""

import fcntl
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    lock = os.open(arguments["--lock"], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 3
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    code = Path(arguments["--socket"]).with_name("exit-code")
    if code.exists():
        return int(code.read_text())
    signal.signal(signal.SIGUSR2, lambda *_: print("again", flush=True))
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
    if Path(arguments["--socket"]).with_name("stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("serving", os.environ, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
