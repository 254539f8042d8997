"""The errors that the command line shows as a single line: the thing, the value, the remedy."""

import errno
import re

REMEDIES = {
    errno.ENOSPC: "free some, then go on with --resume",
    errno.EDQUOT: "free some, then go on with --resume",
    errno.EFBIG: "raise the limit on the size of files, then go on with --resume",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "a file stands where a folder should be: name another place",
    errno.EISDIR: "a folder stands where a file should be: name another place",
    errno.EEXIST: "something of that name is in the way: name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EPIPE: "whoever read the output has gone: go on with --resume, the output into a file",
    errno.EIO: "the disk may be failing: copy what you can, name another place",
}


class UserError(Exception):
    """Something the user can mend. The message is one line: the thing, the value, the remedy."""


def explain(error: BaseException) -> str:
    """One line for an error that the user can mend; the operating system's get a remedy."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{error.filename}: {error.strerror}" if error.filename else text
        return f"{what}: {REMEDIES.get(error.errno, 'see whether the place can be read and written')}"
    if out_of_memory(error):
        return f"the memory does not suffice ({text[:150]}): ask for less at once, a smaller --batch, --limit, --samples or model"
    return text


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or torch's on the CPU (a bare RuntimeError) or on a GPU."""
    on_cpu = isinstance(error, RuntimeError) and re.search("not enough memory|can't allocate memory|Storage size", str(error))
    return isinstance(error, MemoryError) or bool(on_cpu) or type(error).__name__ == "OutOfMemoryError"
