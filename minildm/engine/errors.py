"""The errors that the command line shows as a single line: the thing, the value, the remedy."""

import errno

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
        return f"the memory does not suffice ({text[:120]}): choose a smaller --batch, or a smaller model"
    return text


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or torch's on the CPU (a bare RuntimeError) or on a GPU."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
        or (type(error).__name__ == "OutOfMemoryError")
    )
