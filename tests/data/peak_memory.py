"""How much memory reading some data takes, in a process of its own that may not have more than a gigabyte of it."""

import subprocess
import sys

ALLOWED = 1 << 30
_PROGRAM = """
import resource, sys
from positronic.data import excerpt, open_source
from positronic.errors import PositronicError
import zstandard

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = megabytes()
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (room, room))
budget = int(sys.argv[3]) if sys.argv[3] else None
try:
    print(sum(len(document.text.encode()) for document in excerpt(open_source(sys.argv[2]), budget)))
except PositronicError as error:
    print(error)
print(megabytes() - before)
"""


def read(path, budget=None):
    """(bytes of the excerpt or the sentence, megabytes it took beyond what was imported)."""
    words = [sys.executable, "-c", _PROGRAM, str(ALLOWED), str(path), "" if budget is None else str(budget)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found, megabytes = done.stdout.splitlines()
    return found, int(megabytes)
