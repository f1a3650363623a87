"""What to say where another process can't be started: the system's reason, not that of what the process was for."""

from __future__ import annotations

import errno

_FIXES = {
    errno.EAGAIN: "end other programs, or allow more processes (ulimit -u, or the container's limit), then try again",
    errno.ENOMEM: "end other programs, or use a machine with more memory, then try again",
    errno.EMFILE: "allow more open files (ulimit -n), then try again",
    errno.ENOENT: "check that the program is there; install it again",
}


def not_started(what: str, error: OSError) -> tuple[str, str]:
    """Return the problem and the fix of a process that can't be started. `what` it is: `the process that …`."""
    fix = _FIXES.get(error.errno or 0, "see the system's reason above, then try again")
    return f"{what} can't be started: {error.strerror or error}", fix
