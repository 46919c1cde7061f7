"""One process at a time works in a run folder.

The lock is the kernel's, on a file of the folder: it ends with the process, however that ends, and
on network file systems that know locks it holds between machines. The file says who holds it, and
is removed when the work is done. Where a file system has no locks, that the file exists is the
lock: it is stale if its process was one of this machine and no longer runs; of another machine
nobody here can know, and the message says what to remove.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError
from cryorefine.storage.json_record import read_record
from cryorefine.storage.layout import LOCK

__all__ = ["FolderInUse", "locked"]

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What a lock that another holds is answered with."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer."""


class FolderInUse(InputError):
    """Another process works in the folder."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a folder's lock for as long as the block lasts; the folder must be there.

    Raises
    ------
    FolderInUse
        If another process holds it, or another thread of this one.
    InputError
        If the lock is a link, or the folder may not be written to.
    """
    path = run / LOCK
    descriptor = _acquired(path)
    try:
        yield
    finally:
        # Before it is let go: whoever waits for the old file sees that it is no longer the lock.
        try:
            with suppress(FileNotFoundError):
                path.unlink()
        finally:
            os.close(descriptor)


def _acquired(path: Path) -> int:
    """Return the descriptor of a lock's file that is now ours."""
    while True:
        descriptor = _opened(path, os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(path)
            os.close(descriptor)
            if error.errno in _HELD:
                raise _in_use(path, holder) from None
            if error.errno in _NO_LOCKS:
                return _acquired_without_locks(path, holder)
            raise
        if _is_at(path, descriptor):
            _write_holder(descriptor)
            return descriptor
        os.close(descriptor)  # the one that held it has removed the file in between


def _acquired_without_locks(path: Path, holder: dict[str, Any]) -> int:
    """Return the descriptor of a lock's file that appears with its holder in it, or not at all."""
    if holder and not _is_stale(holder):
        raise _in_use(path, holder)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    # Empty, or of a process that has ended. Only one of several that find so can move it away.
    with suppress(FileNotFoundError):
        os.rename(path, own)
        moved = _holder(own)
        if moved != holder:  # another was faster, and holds it
            with suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
            raise _in_use(path, moved)
        own.unlink()
    descriptor = _opened(own, os.O_CREAT)
    try:
        _write_holder(descriptor)
        os.link(own, path)
    except FileExistsError:
        os.close(descriptor)
        raise _in_use(path, _holder(path)) from None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        own.unlink(missing_ok=True)
    return descriptor


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("the lock is a link", where=str(path), do="remove it") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                "may not be written to", where=str(path.parent), do="check its permissions"
            ) from None
        raise


def _is_at(path: Path, descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _write_holder(descriptor: int) -> None:
    """Write who holds a lock; on a full disk the lock holds without."""
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "begun": _begun(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
    }
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _holder(path: Path) -> dict[str, Any]:
    """Return who a lock's file says holds it; empty if it does not say."""
    return read_record(path) or {}


def _is_stale(holder: dict[str, Any]) -> bool:
    """Tell whether a holder was a process of this machine that no longer runs."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's process, which runs
    # Numbers of processes are given anew.
    return holder.get("begun") != _begun(pid)


def _begun(pid: int) -> str:
    """Return when a process began, as the system counts; empty where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name of the program, in brackets, may hold anything; the 22nd value counts from the boot.
    return text.rpartition(")")[2].split()[19]


def _in_use(path: Path, holder: dict[str, Any]) -> FolderInUse:
    who = "another process"
    if holder:
        command = holder.get("command")
        words = " ".join(map(str, command)) if isinstance(command, list) else "a command"
        who = (
            f"process {holder.get('pid')} on {holder.get('host')} ('{words}', "
            f"since {holder.get('since')})"
        )
    return FolderInUse(
        f"{who} works in the folder",
        where=str(path.parent),
        do=f"wait for its end, or stop it; if there is no such process any more, remove {path}",
    )
