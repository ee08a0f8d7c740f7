"""Runs the tests that failed beside others once more, alone, and names them: each is a fault, of the product or of the test.

On a busy machine a deadline may pass that nothing is wrong with; what is wrong fails alone, too. More than a few are no accident, and
are not run again. Exit code 0: all passed alone.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 4
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """Reads what pytest has kept of the run before."""
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        sys.stderr.write(f"{len(failed)} tests failed: not run again\n")
        return 1
    sys.stderr.write("\n  ".join(("failed beside others, and now alone:", *failed)) + "\n")
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", *failed], check=False).returncode
    sys.stderr.write(
        "each passed alone: not sound beside others on a busy machine\n" if code == 0 else "what failed alone, too, is wrong\n"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
