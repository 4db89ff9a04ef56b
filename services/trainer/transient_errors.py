"""Telling a machine's trouble, which passes, from a round's own."""

import errno
import shutil
import sqlite3
from pathlib import Path

from shared.model_store import Fenced

NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EFBIG}
LEAST_FREE = 32 * 2**20


def is_transient(error: BaseException, home: Path) -> bool:
    """Whether an error is none of the round's doing. Libraries wrap a full disk in classes of their own."""
    if isinstance(error, Fenced | sqlite3.OperationalError):
        return True
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return True
    if "No space left" in str(error) or "disk is full" in str(error):
        return True
    if error.__cause__ is not None and is_transient(error.__cause__, home):
        return True
    try:
        return shutil.disk_usage(home).free < LEAST_FREE
    except OSError:
        return True
