"""Compares mode ``faithful`` with a plain ``python -I``, on programs that read, write, end and fail in many ways."""
# ruff: noqa: E501

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from dreamprm_jax.sandbox import Judge, JudgeTask
from dreamprm_jax.schema import TestCase, Verdict

INPUT = "3\n4 5\r\n\nlast é"

# Each program prints what it read.
READ = r"""
print(input())
print(ascii([input() for _ in range(4)]))
import sys; print(ascii(sys.stdin.read()))
import sys; print(ascii(sys.stdin.readlines()))
import sys; print(ascii(sys.stdin.readline()), ascii(sys.stdin.read()))
import sys; print(ascii(list(sys.stdin)))
import sys; print(ascii(next(sys.stdin)), ascii(sys.stdin.readline()))
import sys; print(ascii(next(sys.stdin)), ascii(input()))
import sys; print(sys.stdin.buffer.read())
import sys; print(sys.stdin.buffer.readline(), sys.stdin.buffer.readlines())
import sys; print(sys.stdin.buffer.raw.read())
import sys; input(); print(sys.stdin.buffer.read())
import sys; print(sys.stdin.read(1), sys.stdin.read(2) == '\n4')
import os; print(os.read(0, 1000))
import os; print(input(), os.read(0, 1000))
import os; os.lseek(0, 2, 0); print(os.read(0, 3))
import sys; input(); sys.stdin.seek(0); print(input())
import sys; print(sys.stdin.seekable(), sys.stdin.isatty(), sys.stdin.readable(), sys.stdin.writable())
import sys; print(sys.stdin.fileno(), sys.stdin.encoding, sys.stdin.errors, sys.stdin.newlines, sys.stdin.line_buffering)
import sys; print(sys.stdin.name, sys.stdin.mode, sys.stdin.closed, sys.stdin is sys.__stdin__)
print(ascii(open(0).read()))
print(open(0, 'rb').read())
print(ascii(open(0, newline='').read()))
print(ascii(list(open(0))))
with open(0) as f: print(f.readline())
print(open(0, closefd=False).readline(), open(0).readline())
import io, sys; print(ascii(io.TextIOWrapper(sys.stdin.buffer, encoding='latin-1').read()))
import io, sys; sys.stdin = io.TextIOWrapper(sys.stdin.detach(), encoding='latin-1'); print(input())
import io, os; print(io.BytesIO(os.read(0, 99)).readline())
import codecs, sys; print(codecs.getreader('utf-8')(sys.stdin.buffer).readline())
import fileinput; print(ascii(list(fileinput.input())))
import fileinput; print([fileinput.lineno() for _ in fileinput.input()])
import io, sys; sys.stdin = io.StringIO('7\n'); print(input())
import sys; sys.stdin.close(); print(sys.stdin.closed)
import sys; sys.stdin = None; print(1)
import os; os.close(0); print(1)
import select, sys; print(len(select.select([sys.stdin], [], [], 1)[0]))
import selectors, sys; print(sys.stdin.buffer.peek(1)[:1])
import mmap, os; print(os.fstat(0).st_size)
import asyncio; print(asyncio.run(asyncio.to_thread(input)))
import threading; t = threading.Thread(target=lambda: print(input())); t.start(); t.join()
from concurrent.futures import ThreadPoolExecutor as P; print(P(1).submit(input).result())
print(input('? '))
import sys; print(sys.stdin.reconfigure(newline=None), ascii(sys.stdin.read()))
import sys; print(ascii(sys.stdin.buffer.readinto(b := bytearray(5))), b)
from sys import stdin; print(*map(ascii, iter(stdin.readline, '')))
import sys; print(sys.argv[1:], len(sys.argv), __name__)
import __main__; x = 1; print(__main__.x, __main__.__name__)
print(sorted(k for k in globals() if k not in ('__loader__', '__spec__')))
print(type(__builtins__).__name__, __doc__, __package__, __annotations__)
import sys; print(sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.gettrace())
import os; print(os.open(os.devnull, os.O_RDONLY))
import os; r, w = os.pipe(); print(r, w)
import multiprocessing; print(1)
import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))
"""
WRITE = r"""
print(1, 2, sep='', end='')
print('é ☃ 𝔘')
print('a\r\nb\rc')
print('x' * 100000)
print(*range(20000), sep='\n')
import sys; sys.stdout.write('x')
import sys; sys.stdout.writelines(['a', 'b\n'])
import sys; sys.stdout.buffer.write(b'x')
import sys; print('a'); sys.stdout.buffer.write(b'b\n'); print('c')
import sys; print('a'); sys.stdout.flush(); sys.stdout.buffer.write(b'b\n')
import os; os.write(1, b'x')
import os; print('a'); os.write(1, b'b\n')
import os, sys; print('a', flush=True); os.write(1, b'b\n')
import sys; print('x', file=sys.stderr)
import sys; sys.__stdout__.write('x')
import sys; sys.stdout.buffer.raw.write(b'x')
open(1, 'w').write('x')
w = open(1, 'w'); w.write('x')
w = open(1, 'w', buffering=1 << 16); print('x', file=w)
with open(1, 'w') as w: w.write('x')
with open(1, 'w', closefd=False) as w: w.write('x')
print('a'); w = open(1, 'w'); w.write('b')
w = open(1, 'wb'); w.write(b'x'); w.flush()
w = open(1, 'wb', 0); w.write(b'x')
import os; w = os.fdopen(1, 'w'); w.write('x')
import os; w = os.fdopen(os.dup(1), 'w'); w.write('x')
import os; w = os.fdopen(os.dup(1), 'w'); w.write('x'); os.close(1)
import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8'); print('x')
import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), write_through=True); print('x')
import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.buffer); print('x')
import io, sys; o = io.TextIOWrapper(sys.stdout.buffer); print('x', file=o)
import io, sys; o = io.BufferedWriter(io.FileIO(1, 'w', closefd=False)); o.write(b'x')
import io, sys; sys.stdout = io.StringIO(); print('x')
import io, sys; s = sys.stdout; sys.stdout = io.StringIO(); print('x'); s.write(sys.stdout.getvalue())
import codecs, sys; sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach()); print('x')
import codecs, sys; sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer); print('x')
import sys; sys.stdout.reconfigure(line_buffering=True); print('x')
import sys; sys.stdout.reconfigure(encoding='ascii', errors='replace'); print('é')
import sys; sys.stdout.reconfigure(newline='\r\n'); print('x')
import sys; print('x'); sys.stdout.close()
import sys; print('x'); sys.stdout.detach()
import sys; print('x'); sys.stdout = None
import sys; print('x'); sys.stdout = None; print('y')
import sys; print('x'); sys.stdout = sys.stderr
import sys; print('x'); del sys.stdout
import sys; print('x'); sys.stdout = 5
import sys; print('x'); sys.__stdout__ = None
import sys; print('x'); sys.stderr.close()
import sys; print('x'); sys.stderr = None
import os; os.close(1)
import os; print('x'); os.close(1)
import os; print('x', flush=True); os.close(1)
import os; os.close(2); print('x')
import os; os.dup2(2, 1); print('x')
import os, sys; n = open(os.devnull, 'w'); sys.stdout = n; print('x')
import os; print('x', file=open(os.devnull, 'w'))
import os; os.write(os.open(os.devnull, os.O_WRONLY), b'x')
import contextlib, os; [contextlib.redirect_stdout(open(os.devnull, 'w')).__enter__()]; print('x')
import contextlib, io; f = io.StringIO(); [contextlib.redirect_stdout(f).__enter__()]; print('x')
import os; os.ftruncate(1, 0) if hasattr(os, 'nothing') else None; print('x')
import sys; print(sys.stdout.isatty(), sys.stdout.fileno(), sys.stdout.name, sys.stdout.mode, sys.stdout.line_buffering)
import sys; print(sys.stdout.encoding, sys.stdout.errors, sys.stdout.write_through, sys.stderr.errors, sys.stderr.line_buffering)
print('\udc80')
print('\ud800')
print('a', end='\0'); print(chr(0))
import sys; sys.stdout.write(b'x')
class O:
    def write(s, t): import os; os.write(1, t.encode())
import sys; sys.stdout = O(); print('x')
class O:
    def write(s, t): import os; os.write(1, t.encode())
    def flush(s): import os; os.write(1, b'flushed')
import sys; sys.stdout = O(); print('x')
class O:
    def __init__(s, r): s.r, s.p = r, []
    def write(s, t): s.p.append(t)
    def flush(s): s.r.write(''.join(s.p)); s.p = []
import sys; sys.stdout = O(sys.stdout); print('x')
class O:
    closed = True
    def write(s, t): pass
    def flush(s): 1 / 0
import sys; sys.stdout = O(); print('x')
class O:
    def write(s, t): pass
    def flush(s): 1 / 0
import sys; sys.stdout = O(); print('x')
class O:
    @property
    def closed(s): raise ValueError
    def write(s, t): sys.__stdout__.write(t)
    def flush(s): sys.__stdout__.write('flush')
import sys; sys.stdout = O(); print('x')
"""
END = r"""
pass
import sys; print('x'); sys.exit()
import sys; print('x'); sys.exit(0)
import sys; print('x'); sys.exit(False)
import sys; print('x'); sys.exit(True)
import sys; print('x'); sys.exit(256)
import sys; print('x'); sys.exit(-1)
import sys; print('x'); sys.exit(1 << 70)
import sys; print('x'); sys.exit('')
import sys; print('x'); sys.exit(())
import sys; print('x'); sys.exit(0.0)
import sys; print('x'); sys.exit((0, 0))
print('x'); exit()
print('x'); quit(0)
print('x'); raise SystemExit
print('x'); raise SystemExit(None)
print('x'); raise SystemExit(0, 0)
print('x'); e = SystemExit(3); e.code = 0; raise e
import os; print('x'); os._exit(0)
import os; print('x', flush=True); os._exit(0)
import os; os._exit(3)
import os; os.abort()
import os, signal; signal.raise_signal(signal.SIGTERM)
import signal; signal.signal(signal.SIGTERM, lambda *a: print('caught')); signal.raise_signal(signal.SIGTERM)
import signal; signal.signal(signal.SIGALRM, lambda *a: print('caught')); signal.setitimer(0, 0.01); signal.pause()
import atexit; atexit.register(print, 'bye'); print('x')
import atexit; atexit.register(lambda: 1 / 0); print('x')
import atexit, sys; atexit.register(sys.exit, 3); print('x')
import atexit, os; atexit.register(os._exit, 3); print('x')
import atexit, os; atexit.register(os._exit, 0); print('x')
import atexit, sys; atexit.register(lambda: sys.stdout.write('bye')); raise ValueError
import atexit; atexit.register(print, 1); atexit.register(print, 2)
import threading; threading.Thread(target=print, args=('t',)).start()
import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('t'))).start(); print('x')
import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('x')
import threading; threading.Thread(target=lambda: 1 / 0).start(); print('x')
import threading, sys; threading.Thread(target=sys.exit, args=(3,)).start(); print('x')
import threading, os; threading.Thread(target=os._exit, args=(0,)).start()
import _thread, time; _thread.start_new_thread(print, ('t',)); time.sleep(0.1)
import sys; sys.excepthook = lambda *a: print('hook'); 1 / 0
import sys, os; sys.excepthook = lambda *a: os._exit(0); 1 / 0
import sys; sys.excepthook = lambda *a: sys.exit(0); 1 / 0
import sys; sys.excepthook = None; 1 / 0
import sys; sys.excepthook = lambda *a: print('hook'); sys.exit(3)
import sys; sys.unraisablehook = lambda *a: print('unraisable'); print('x')
class A:
    def __del__(self): print('del')
a = A()
class A:
    def __del__(self): print('del')
a = A(); a.a = a
class A:
    def __del__(self): print('del')
_a = A(); b = A(); print('x')
class A:
    def __init__(s, n): s.n = n
    def __del__(s): print(s.n)
b = A('b'); a = A('a'); _c = A('c')
class A:
    def __del__(s): print(x)
x = 'x'; a = A()
class A:
    def __del__(s): 1 / 0
a = A(); print('x')
class A:
    def __del__(s): import os; os.write(1, b'del')
a = A(); print('x'); import os; os._exit(0)
import weakref; f = weakref.finalize(type('A', (), {})(), print, 'gone'); print('x')
def g():
    try: yield 1
    finally: print('closed')
i = g(); next(i)
import contextlib; s = contextlib.ExitStack(); s.callback(print, 'closed'); print('x')
import sys; sys.setrecursionlimit(20000); f = lambda n: 0 if n == 0 else 1 + f(n - 1); print(f(9000))
import logging; logging.warning('w'); print('x')
import warnings; warnings.warn('w'); print('x')
import asyncio; asyncio.run(asyncio.sleep(0.01)); print('x')
import gc; gc.disable(); print('x')
import sys; sys.modules.clear(); print('x')
import sys; sys.modules['__main__'] = None; print('x')
import sys; del sys.modules['__main__']; print('x')
globals().clear()
import builtins; builtins.print = None
import os; os.closerange(3, 256); print('x')
import tempfile, io; t = tempfile.SpooledTemporaryFile(); t.write(b'x'); print('x')
"""
FAIL = r"""
1 / 0
print('x'); 1 / 0
print('x', flush=True); raise ValueError
raise KeyboardInterrupt
raise GeneratorExit
raise BaseException
raise StopIteration
raise MemoryError
raise RecursionError
raise ExceptionGroup('g', [ValueError()])
class E(Exception):
    def __str__(s): raise ValueError
raise E
class E(BaseException): pass
raise E
def f(): f()
f()
assert 0
print(undefined)
import nothing_of_this_name
from os import nothing_of_this_name
x = (
print('unclosed
if True:
print(1)
return 1
yield 1
await x
break
é = 1; print(é)
x = 1\
input(); input(); input(); input(); input()
[input() for _ in range(9)]
int(input() + 'x')
open('/nothing/of/this/name')
import sys; sys.stdout.close(); print('x')
import sys; sys.stdin.close(); input()
import sys; sys.stdin.write('x')
import sys; sys.stdout.read()
import ctypes; ctypes.string_at(0)
import faulthandler; faulthandler._sigsegv()
from __future__ import nothing
from __future__ import annotations; x: nothing = 1; print('x')
x: nothing = 1
exec('raise SystemExit(0)')
exec('1 / 0')
eval('1 +')
compile('(', '', 'exec')
try: 1 / 0
finally: print('x')
try: raise SystemExit(3)
except BaseException: print('x')
str(10 ** 5000)
"""

# Unusual needs of valid programs.
ODD = r"""
import sys, threading; sys.setrecursionlimit(1 << 20); threading.stack_size(256 << 20); f = lambda n: n and 1 + f(n - 1); t = threading.Thread(target=lambda: print(f(50000))); t.start(); t.join()
import os, threading; print(threading.main_thread().native_id == os.getpid(), threading.active_count())
import queue, threading; q = queue.Queue(); ts = [threading.Thread(target=q.put, args=(i,)) for i in range(50)]; [t.start() for t in ts]; [t.join() for t in ts]; print(sum(q.queue))
from concurrent.futures import ThreadPoolExecutor as P; p = P(16); print(sum(p.map(lambda x: x * x, range(1000))))
import asyncio; f = lambda i: asyncio.sleep(0.001 * (i % 3), i); g = lambda: asyncio.gather(*map(f, range(99))); print(asyncio.new_event_loop().run_until_complete(asyncio.wait_for(asyncio.sleep(0, 7), 1)))
import signal; signal.signal(signal.SIGALRM, lambda *a: print('alarm')); signal.setitimer(signal.ITIMER_REAL, 0.05); signal.pause()
from decimal import *; getcontext().prec = 50; print(Decimal(2).sqrt(), getcontext().prec)
import locale; print(locale.getlocale(), locale.setlocale(locale.LC_ALL, ''), f'{1234567.5:n}')
import numpy as np; a = np.zeros(1 << 29, dtype=np.uint8); a[5] = 7; print(int(a[5]), a[:3].tolist())
import sortedcontainers; print(sortedcontainers.SortedList([3, 1, 2]))
import resource; resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); print(1)
import sys; sys.stdout.write('x' * (1 << 20))
import contextlib, io; s = io.StringIO(); c = contextlib.redirect_stdout(s); c.__enter__(); print('a'); c.__exit__(None, None, None); print(s.getvalue().upper())
import sqlite3; c = sqlite3.connect(':memory:'); print(c.execute('select 1 + 1').fetchone())
import multiprocessing; print(multiprocessing.cpu_count() > 0)
import random; random.seed(5); print(random.randint(1, 100), random.sample(range(10), 3))
import gc; gc.disable(); print(gc.isenabled(), gc.get_threshold()); gc.freeze()
import datetime, zoneinfo; print(datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).utcoffset())
import ctypes, struct; print(ctypes.CDLL(None).abs(-5), struct.calcsize('P'))
import unittest; print(unittest.TextTestRunner(stream=open('/dev/null', 'w')).run(unittest.TestSuite()).wasSuccessful())
import tracemalloc; tracemalloc.start(); x = [0] * 1000; print(tracemalloc.get_traced_memory()[0] > 0)
import select, socket; a, b = socket.socketpair(); a.sendall(b'x'); print(b.recv(1), select.epoll().closed)
"""

# A plain interpreter looks at the exit code before it builds the exception.
DIFFERENT = {"import sys; print('x'); sys.exit(())\n"}


def programs(text: str) -> list[str]:
    """One program per line. If it starts with ``def``, ``class`` or ``try``, it ends at the next unindented line."""
    found: list[str] = []
    starts = True
    for line in text.strip("\n").split("\n"):
        first_word = line.split(" ")[0]
        goes_on = line.startswith((" ", "def ", "class ")) or first_word in ("finally:", "except")
        if starts or not found:
            found.append(line)
        else:
            found[-1] += "\n" + line
        # A block ends with the next unindented line that does not start another block.
        starts = not (goes_on or first_word == "try:") or first_word in ("finally:", "except")
    return [program + "\n" for program in found]


CORPUS = [program for text in (READ, WRITE, END, FAIL, ODD) for program in programs(text)]


def plain(code: str, folder: Path) -> tuple[int, str]:
    """The exit status and output of a plain interpreter whose standard streams are files."""
    (folder / "solution.py").write_text(code, encoding="utf-8")
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(INPUT.encode())
        stdin.seek(0)
        done = subprocess.run(
            [sys.executable, "-I", "solution.py"],
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        )
        stdout.seek(0)
        return done.returncode, stdout.read().decode("utf-8", "replace")


def test_scripts_end_as_in_a_plain_process(tmp_path: Path) -> None:
    assert len(set(CORPUS)) == len(CORPUS) >= 150
    known = [plain(code, tmp_path) for code in CORPUS]
    tasks = [JudgeTask(code, code, (TestCase(INPUT, output),)) for code, (_, output) in zip(CORPUS, known, strict=True)]
    with Judge("faithful", workers=2) as judge:
        results = list(judge.evaluate(tasks))
    wrong = {
        result.key: (status, output[:80], result.verdict.value, result.error)
        for result, (status, output) in zip(results, known, strict=True)
        if (result.verdict is Verdict.AC) != (status == 0 or result.key in DIFFERENT)
    }
    assert wrong == {}
