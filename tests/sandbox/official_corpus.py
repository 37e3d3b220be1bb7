# ruff: noqa: E501
"""Programs with recorded verdicts of the official LiveCodeBench evaluator (commit 28fef95).

    python tests/sandbox/official_corpus.py CHECKOUT

runs all of them with ``run_test`` from the checkout and rewrites ``official_corpus.json`` next to this file. The file
has the official result list of each program (1 passed, 0 or -2 wrong, -3 time limit, -4 error; [-2] if the process
ended without a list).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_suffix(".json")
SUMS = (["3 4\n", "10 20\n"], ["7\n", "30\n"])

READ = {
    "input": "a, b = map(int, input().split())",
    "prompt": "a, b = map(int, input('? ').split())",
    "list": "a, b = [int(x) for x in input().split()]",
    "stdin.read": "import sys\na, b = map(int, sys.stdin.read().split())",
    "stdin.readline": "import sys\na, b = map(int, sys.stdin.readline().split())",
    "stdin.readlines": "import sys\na, b = map(int, sys.stdin.readlines()[0].split())",
    "from-import": "from sys import stdin\na, b = map(int, stdin.readline().split())",
    "from-import-read": "from sys import stdin\na, b = map(int, stdin.read().split())",
    "from-import-lines": "from sys import stdin\na, b = map(int, stdin.readlines()[0].split())",
    "from-import-iter": "from sys import stdin\na, b = map(int, next(iter(stdin)).split())",
    "alias": "import sys\ninput = sys.stdin.readline\na, b = map(int, input().split())",
    "lambda": "import sys\ninput = lambda: sys.stdin.readline().rstrip()\na, b = map(int, input().split())",
    "buffer.read": "import sys\na, b = map(int, sys.stdin.buffer.read().split())",
    "buffer.readline": "import sys\na, b = map(int, sys.stdin.buffer.readline().split())",
    "buffer.readlines": "import sys\na, b = map(int, sys.stdin.buffer.readlines()[0].split())",
    "buffer.iter": "import sys\na, b = map(int, next(iter(sys.stdin.buffer)).split())",
    "iterate": "import sys\nfor line in sys.stdin:\n    a, b = map(int, line.split())",
    "next": "import sys\na, b = map(int, next(sys.stdin).split())",
    "open0": "a, b = map(int, open(0).read().split())",
    "open0-bytes": "a, b = map(int, open(0, 'rb').read().split())",
    "builtins.open": "import builtins\na, b = map(int, builtins.open('in.txt').read().split())",
    "builtins.readline": "import builtins\nwith builtins.open(0) as f:\n    a, b = map(int, f.readline().split())",
    "builtins.iterate": "import builtins\nfor line in builtins.open(0):\n    a, b = map(int, line.split())",
    "io.open": "import io\na, b = map(int, io.open(0).read().split())",
    "os.read": "import os\na, b = map(int, os.read(0, 100).split())",
    "fileinput": "import fileinput\na, b = map(int, next(iter(fileinput.input())).split())",
    "fileinput-files": "import fileinput\na, b = map(int, next(iter(fileinput.input(files=['x']))).split())",
    "pathlib": "from pathlib import Path\na, b = map(int, Path('/dev/stdin').read_text().split())",
    "textwrapper": "import io, sys\na, b = map(int, io.TextIOWrapper(sys.stdin.buffer).read().split())",
    "__stdin__": "import sys\na, b = map(int, sys.__stdin__.readline().split())",
    "read-1": "import sys\na, b = sys.stdin.read(1), sys.stdin.read(3)\na, b = int(a), int(b.split()[1])",
    "readline-then-read": "import sys\nx = sys.stdin.readline()\na, b = map(int, sys.stdin.read().split())",
    "input-eof": "a, b = map(int, input().split())\ntry:\n    input()\nexcept EOFError:\n    pass",
    "readline-eof": "import sys\na, b = map(int, input().split())\nassert sys.stdin.readline() == ''",
    "eval": "a, b = map(eval, input().split())",
    "exec": "exec('a, b = map(int, input().split())')",
    "global": "def read():\n    global a, b\n    a, b = map(int, input().split())\nread()",
    "nonlocal": "a = b = 0\ndef read():\n    nonlocal a, b\n    a, b = map(int, input().split())\nread()",
}
WRITE = {
    "print": "print(a + b)",
    "sep": "print('', a + b, '', sep='\\n')",
    "end": "print(a + b, end='')",
    "write": "import sys\nsys.stdout.write(str(a + b))",
    "from-import": "from sys import stdout\nstdout.write(str(a + b))",
    "buffer": "import sys\nsys.stdout.buffer.write(str(a + b).encode())",
    "os.write": "import os\nos.write(1, str(a + b).encode())",
    "stderr": "import sys\nprint(a + b, file=sys.stderr)",
    "writelines": "import sys\nsys.stdout.writelines([str(a + b), '\\n'])",
}
ENDS = """
sys.exit() | sys.exit(0) | sys.exit(3) | exit() | exit(1) | quit() | raise SystemExit | raise SystemExit('x')
raise KeyboardInterrupt | raise GeneratorExit | raise BaseException | raise Exception | raise MemoryError | 1 / 0
raise StopIteration | assert False | undefined_name | [][1] | {}['a'] | int('x') | ''.foo | os._exit(0) | os._exit(3)
import os; os._exit(0) | import os; os._exit(3) | import os; os.abort() | raise RecursionError | raise OSError
class TimeoutException(Exception): pass; raise TimeoutException | raise ValueError('timeoutexception') | return
yield 1 | await x | break | import nothing_like_this | from sys import nothing | from . import x | lambda: (yield)
def f(): f() ; f() | def f(n): return 0 if n == 0 else 1 + f(n - 1) ; f(40000) | sys.stdout.close() | sys.stdin.close()
sys.stdout = None | sys.stdin = None | sys.stdout.flush() | sys.stderr.write('x') | sys.stdout = sys.stderr
sys.stdout = sys.__stdout__ | sys.settrace(None) | sys.setrecursionlimit(10) | sys.modules.clear() | del sys.stdout
input() | input(); input() | print(input()) | help() | help | copyright | license() | globals() | print(len(argv)) | argv[1]
__file__ | print(__name__) | __doc__ | __builtins__ | __loader__ | __spec__ | breakpoint | exec('x = 1'); x | x: int = 1
locals()['q'] = 1; q | import gc; gc.collect() | import atexit; atexit.register(print, 'bye') | signal.alarm(0)
import signal; signal.alarm(0) | import threading; threading.Thread(target=print).start() | print(stdin) | print('\\ud800')
print('a' * 100000) | int('9' * 6000) | str(10 ** 6000) | str(10 ** 60000) | open('/etc/passwd') | open('new.txt', 'w')
import os; open(os.devnull, 'w').write('x') | import os; os.open(os.devnull, os.O_WRONLY) | import time; time.sleep(0.01)
import builtins; builtins.open('nothing').write('x') | import builtins; builtins.print = None | print = None; print(1)
"""
DISABLED = """
    os.kill os.system os.putenv os.remove os.removedirs os.rmdir os.fchdir os.setuid os.fork os.forkpty os.killpg
    os.rename os.renames os.truncate os.replace os.unlink os.fchmod os.fchown os.chmod os.chown os.chroot os.getcwd
    os.chdir os.listdir os.mkdir os.path os.environ os.getpid os.cpu_count shutil.rmtree shutil.move shutil.chown
    shutil.copy subprocess.Popen subprocess.run signal.alarm signal.SIGALRM threading.Thread time.time
"""
MODULES = """
    abc argparse array ast asyncio base64 binascii bisect builtins calendar cmath codecs collections.abc
    concurrent.futures contextlib copy ctypes dataclasses datetime decimal difflib dis enum errno fractions functools
    gc getpass glob graphlib hashlib heapq html inspect ipaddress ipdb itertools joblib json keyword linecache locale
    logging math mmap multiprocessing numbers numpy operator os pickle platform pprint psutil queue random re resource
    secrets select shutil signal socket sqlite3 statistics string struct subprocess sys tempfile textwrap threading
    time timeit tkinter tokenize traceback types typing unicodedata unittest uuid warnings weakref zlib zoneinfo
"""
PRELUDE = """
    ascii_lowercase digits compile findall sub timedelta date MINYEAR defaultdict deque Counter OrderedDict heappush
    heapify nlargest bisect_left insort copy deepcopy gcd factorial pi inf isqrt prod randint choice shuffle mean
    median chain permutations accumulate product lru_cache reduce cache cmp_to_key itemgetter add mul StringIO BytesIO
    maxsize stdin stdout exit argv dumps loads List Dict Optional Any math collections string re heapq json sys time os
    numpy np comb perm pow open input print sum log floor count repeat Decimal Fraction Queue SortedList path
"""
GUARDS = {
    "guard": "def main():\n    a, b = map(int, input().split())\n    print(a + b)\nif __name__ == '__main__':\n    main()",
    "guard-double": 'def main():\n    print(sum(map(int, input().split())))\nif __name__ == "__main__":\n    main()',
    "guard-reversed": "if '__main__' == __name__:\n    print(sum(map(int, input().split())))",
    "guard-and": "if __name__ == '__main__' and True:\n    print(sum(map(int, input().split())))",
    "guard-else": "if __name__ == '__main__':\n    print(sum(map(int, input().split())))\nelse:\n    print(0)",
    "guard-first": "if __name__ == '__main__':\n    print(sum(map(int, input().split())))\nx = 1",
    "guard-import": "if __name__ == '__main__':\n    import math\n    print(sum(map(int, input().split())))",
    "guard-elif": "if __name__ == '__test__':\n    pass\nelif __name__ == '__main__':\n    print(7)",
    "future": "from __future__ import annotations\nprint(sum(map(int, input().split())))",
    "docstring": "'''doc'''\nprint(sum(map(int, input().split())))",
    "comment-only": "# nothing",
    "empty": "",
    "import-only": "import sys",
    "syntax": "print(",
    "indent": "if True:\nprint(1)",
    "tabs": "if True:\n\tx = 1\n        y = 2\nprint(7)",
    "null": "print(1)\0",
    "unicode": "é = sum(map(int, input().split()))\nprint(é)",
    "encoding": "# -*- coding: latin-1 -*-\nprint(sum(map(int, input().split())))",
    "walrus": "print(sum(x) if (x := list(map(int, input().split()))) else 0)",
    "match": "match list(map(int, input().split())):\n    case [a, b]:\n        print(a + b)",
    "star-import": "from math import *\nfrom collections import *\nprint(sum(map(int, input().split())))",
    "star-in-function": "def f():\n    from math import *\nprint(7)",
    "class": "class A:\n    def __init__(self): self.s = sum(map(int, input().split()))\nprint(A().s)",
    "Solution": "class Solution:\n    pass\nprint(sum(map(int, input().split())))",
    "Solution-needs": "class Solution:\n    def __init__(self, x): pass\nprint(sum(map(int, input().split())))",
    "Solution-comment": "# class Solution\nprint(sum(map(int, input().split())))",
    "wrapped_function": "def wrapped_function(): pass\nprint(sum(map(int, input().split())))",
    "comprehension-scope": "n = sum(map(int, input().split()))\nprint(max([n for _ in range(2)]))",
    "function-scope": "n = sum(map(int, input().split()))\ndef f(): return n\nprint(f())",
    "class-scope": "n = sum(map(int, input().split()))\nclass A:\n    m = n\nprint(A.m)",
    "global-read": "n = 0\ndef f():\n    global n\n    n += 1\nf()\nprint(sum(map(int, input().split())))",
    "counter": "import math\nmath.n = getattr(math, 'n', 0) + 1\nprint(sum(map(int, input().split())) + math.n - 1)",
    "cache": "@lru_cache(None)\ndef f(): return sum(map(int, input().split()))\nprint(f())",
    "to_thread": "import asyncio\nasync def m(): print(await asyncio.to_thread(lambda: sum(map(int, input().split()))))\n"
    "asyncio.run(m())",
    "executor": "import asyncio\nasync def m():\n    loop = asyncio.get_running_loop()\n"
    "    print(await loop.run_in_executor(None, sum, map(int, input().split())))\nasyncio.run(m())",
    "asyncio": "import asyncio\nasync def m():\n    await asyncio.sleep(0)\n    print(sum(map(int, input().split())))\n"
    "asyncio.run(m())",
    "thread": "import threading\ndef m(): print(sum(map(int, input().split())))\nt = threading.Thread(target=m)\n"
    "t.start()\nt.join()",
    "pool": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as p:\n"
    "    print(sum(p.map(int, input().split())))",
    "socketpair": "import socket\na, b = socket.socketpair()\na.send(input().encode())\n"
    "print(sum(map(int, b.recv(10).split())))",
    "redirect": "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f:\n    print(1)\n"
    "print(sum(map(int, input().split())))",
    "stdout-list": "import sys\nclass W:\n    def __init__(s): s.p = []\n    def write(s, t): s.p.append(t)\n"
    "w = W()\nsys.stdout, o = w, sys.stdout\nprint(sum(map(int, input().split())))\no.write(''.join(w.p))",
    "swap-stdin": "import io, sys\nx = sys.stdin.read()\nsys.stdin = io.StringIO(x)\nprint(sum(map(int, input().split())))",
    "float": "print(float(sum(map(int, input().split()))))",
    "exponent": "print('%e' % sum(map(int, input().split())))",
    "trailing": "print(sum(map(int, input().split())), ' ')\nprint()\nprint()",
    "leading": "print()\nprint('  ', sum(map(int, input().split())))",
    "extra-line": "print(sum(map(int, input().split())))\nprint(0)",
    "crlf": "print(sum(map(int, input().split())), end='\\r\\n')",
    "wide-digit": "print(''.join(chr(0xFF10 + int(c)) for c in str(sum(map(int, input().split())))))",
    "underscore": "print('_'.join(str(sum(map(int, input().split())))))",
    "nan": "print('nan')",
    "snan": "print('sNaN')",
    "second-fails": "a, b = map(int, input().split())\nif a == 10: raise ValueError\nprint(a + b)",
    "second-wrong": "a, b = map(int, input().split())\nprint(7)",
    "second-exits": "import os\na, b = map(int, input().split())\nif a == 10: os._exit(0)\nprint(a + b)",
}
RETURNED = r"""
5 | 5.0 | True | '5' | None | [5] | (5,) | [[5]] | [(5,)] | {'a': 5} | {5} | frozenset([5]) | range(5, 6) | b'5' | 5j
complex(5) | complex(5, 1) | [complex(5)] | Decimal(5) | Decimal('5.0') | Decimal('NaN') | Decimal('sNaN') | [Decimal(5)]
[Decimal('sNaN')] | Decimal('0.1') | Decimal('0.5') | Decimal('1e400') | Decimal('1E+2') | Decimal('Infinity')
Fraction(5) | Fraction(1, 2) | Fraction(1, 10) | Fraction(1, 3) | [Fraction(5)] | {'a': Fraction(5)} | Fraction(0)
UserList([5]) | UserList([[5]]) | [UserList([5])] | UserList((5,)) | UserDict({'a': 5}) | UserDict({}) | [UserDict({'a': 5})]
UserString('5') | UserString('a') | [UserString('a')] | {UserString('a'): 5} | ChainMap({'a': 5}) | ChainMap({}, {'a': 5})
ChainMap({'a': 5}, {'b': 1}) | Counter('aaaaa') | Counter() | OrderedDict(a=5) | defaultdict(int, a=5) | deque([5])
MappingProxyType({'a': 5}) | [MappingProxyType({})] | SimpleNamespace(a=5) | array('i', [5]) | memoryview(b'5') | iter([5])
{'a': 5}.keys() | {'a': 5}.values() | list({'a': 5}.values()) | {5: 5} | {'a': (5,)} | {'a': [5]} | {} | [] | () | ''
float('nan') | float('inf') | [float('nan')] | -0.0 | 0 | False | 0.1 | 0.1 + 0.2 | 0.3 | 0.5 | 2 ** 53 + 1 | 2.0 ** 53
10 ** 30 | 1e30 | float(10 ** 30) | '\ud800' | 'é' | "a" | S('a') | S('5') | F(5.0) | I(5) | L([5]) | D(a=5) | T([5])
{S('a'): 5} | {E('a'): 5} | [S('a')] | [I(5)] | [F(0.5)] | [L([5])] | [D(a=5)] | [T([5])] | N(5, 6) | [N(5, 6)] | Raises()
[Raises()] | {'a': Raises()} | [Always()] | {'a': Always()} | [[Always()]] | [5, Always()] | Never() | [Never()] | Data(5)
[Data(5)] | Color.FIVE | Number.FIVE | [Number.FIVE] | Word.A | [Word.A] | Flags.FIVE | NotImplemented | ... | object()
object | int | len | (lambda: 5) | (x for x in [5]) | print('noise') | [None] | [True] | [1] | [1.0] | [[]] | [{}] | {'a': {}}
np.int64(5) | np.int8(5) | np.uint64(5) | np.float64(5) | np.float64(0.1) | np.float32(0.1) | np.float16(0.5) | np.float16(0.1)
np.float32(5) | np.longdouble(5) | np.bool_(True) | np.bool_(False) | np.str_('a') | np.str_('5') | np.bytes_(b'5')
np.complex128(5) | np.complex64(0.1) | np.array(5) | np.array([5]) | np.array([[5]]) | np.array([5, 6]) | np.array([])
np.array([5.0]) | np.array([0.1]) | np.array([0.1], dtype=np.float32) | np.array(['a']) | np.array([None]) | np.array([True])
[np.int64(5)] | [np.int64(5), np.int64(6)] | [np.float32(0.1)] | [np.array([5])] | [np.array([5, 6])] | {'a': np.int64(5)}
{'a': np.array([5])} | {np.str_('a'): 5} | list(np.array([5, 6])) | np.array([5, 6]).tolist() | np.array([5], dtype=object)
(np.int64(5),) | np.int64(2 ** 53 + 1) | np.float64(2 ** 53) | np.float64('nan') | np.arange(5, 6) | np.matrix([[5]])
[np.array([])] | (np.array([5]), np.array([6])) | np.datetime64('2020-01-01') | np.float64(1e30) | np.iinfo(np.int64).max
"""
EXPECTED = """
    5|[5]|"5"|{"a":5}|null|[[5]]|0.1|0.5|"a"|[]|{}|9007199254740992|1e30|[5,6]|true|[0.1]|[{"a":5}]|["a"]|0|{"a":[5]}
"""
DEFINITIONS = """
import enum
from array import array
from collections import *
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace
class S(str): pass
class E(str):
    def __eq__(self, other): return str(self) == str(other)
    __hash__ = str.__hash__
class F(float): pass
class I(int): pass
class L(list): pass
class D(dict): pass
class T(tuple): pass
N = namedtuple('N', 'x y')
class Raises:
    def __eq__(self, other): raise ValueError
class Always:
    def __eq__(self, other): return True
class Never:
    def __eq__(self, other): return False
@dataclass
class Data:
    x: int
class Color(enum.Enum): FIVE = 5
class Number(enum.IntEnum): FIVE = 5
class Word(enum.StrEnum): A = 'a'
class Flags(enum.IntFlag): FIVE = 5
def f(_): return VALUE
"""
CALLS = {
    "plain": "def f(a, b): return a + b",
    "class": "class Solution:\n    def f(self, a, b): return a + b",
    "comment": "# class Solution\ndef f(a, b): return a + b",
    "static": "class Solution:\n    @staticmethod\n    def f(a, b): return a + b",
    "classmethod": "class Solution:\n    @classmethod\n    def f(cls, a, b): return a + b",
    "property": "class Solution:\n    @property\n    def f(self): return lambda a, b: a + b",
    "missing": "def g(a, b): return a + b",
    "missing-method": "class Solution:\n    def g(self, a, b): return a + b",
    "arity": "def f(a): return a",
    "raises": "def f(a, b): raise ValueError",
    "exits": "import sys\ndef f(a, b): sys.exit()",
    "exits-hard": "import os\ndef f(a, b): os._exit(0)",
    "top-exit": "def f(a, b): return a + b\nraise SystemExit",
    "top-error": "def f(a, b): return a + b\n1 / 0",
    "top-print": "print('x')\ndef f(a, b): return a + b",
    "generator": "def f(a, b): yield a + b",
    "async": "async def f(a, b): return a + b",
    "annotations": "def f(a: List[int], b: Optional[int]) -> Dict[str, int]: return a + b",
    "prelude": "def f(a, b): return reduce(add, [a, b])",
    "cached": "@cache\ndef f(a, b): return a + b",
    "late": "f = lambda a, b: a + b",
    "future": "from __future__ import annotations\ndef f(a, b): return a + b",
    "guard": "if __name__ == '__main__':\n    def f(a, b): return a + b",
    "input": "def f(a, b): return int(input())",
    "open": "def f(a, b): return int(open(0).read())",
    "numpy": "import numpy as np\ndef f(a, b): return np.sum([a, b])",
    "timeout": "def f(a, b): raise Exception('TimeoutException')",
    "second": "def f(a, b):\n    if a == 10: raise ValueError\n    return a + b",
    "second-wrong": "def f(a, b): return 7",
    "state": "n = 0\ndef f(a, b):\n    global n\n    n += 1\n    return a + b + n - 1",
    "swallow": "def f(a, b):\n    try: 1 / 0\n    except BaseException: return a + b",
    "deep": "def f(a, b): return a + b if a < 0 or not (g := lambda n: 0 if n == 0 else g(n - 1)) else a + b + g(30000)",
}


def corpus() -> list[dict[str, Any]]:
    """The programs as rows: key, code, inputs, outputs, and the function's name (None for standard input)."""
    found: dict[str, dict[str, Any]] = {}

    def add(key: str, code: str, inputs: list[str], outputs: list[str], function: str | None = None) -> None:
        assert key not in found, key
        found[key] = {"key": key, "code": code, "inputs": inputs, "outputs": outputs, "fn_name": function}

    read_and_print = READ["input"] + "\nprint(a + b)\n"
    for read, first in READ.items():
        for write, last in WRITE.items():
            if write in ("print", "write") or read in ("input", "stdin.read", "from-import", "buffer.read", "iterate"):
                add(f"io:{read}:{write}", f"{first}\n{last}\n", *SUMS)
    for line in ENDS.strip().split("\n"):
        for end in line.split(" | "):
            text = end.replace("; ", "\n").replace("def f(): f() \n", "def f(): f()\n").strip()
            add(f"end:{end}", read_and_print + text + "\n", *SUMS)
    for name in DISABLED.split():
        module, _, attribute = name.partition(".")
        test = f"print({name} is None)" if attribute else ""
        add(f"disabled:{name}", f"import {module}\n{test}\n", ["\n"], ["False\n"])
    for name in MODULES.split():
        add(f"import:{name}", f"{READ['input']}\nimport {name}\nprint(a + b)\n", *SUMS)
    for name in PRELUDE.split():
        add(f"prelude:{name}", f"{name}\n{read_and_print}", *SUMS)
    for name, code in GUARDS.items():
        add(f"form:{name}", code, *SUMS)
    for name, code in CALLS.items():
        add(f"call:{name}", code, ["3\n4", "10\n20"], ["7", "30"], "f")
    return list(found.values())


def returned() -> list[str]:
    """The expressions of returned values."""
    return [value for line in RETURNED.strip().split("\n") for value in line.split(" | ")]


def expected_values() -> list[str]:
    """The values, as JSON, with which each returned value is compared."""
    return EXPECTED.strip().split("|")


def returning(value: str, expected: str) -> dict[str, Any]:
    """A row of ``corpus``: a program whose function returns this value."""
    code = ("import numpy as np\n" if "np." in value else "") + DEFINITIONS.replace("VALUE", value)
    return {"key": f"value:{value}", "code": code, "inputs": ["0"], "outputs": [expected], "fn_name": "f"}


def official_codes(row: dict[str, Any], timeout: int = 6) -> list[int]:
    """The official result list. Starts and stops the process in the same way as ``check_correctness``."""
    sample = {name: row[name] for name in ("inputs", "outputs", "fn_name")}
    receiving, sending = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(sample, row["code"], timeout, sending))
    process.start()
    sending.close()
    limit = (timeout + 1) * len(sample["inputs"]) + 5
    try:
        codes = receiving.recv() if receiving.poll(limit) else [-2]
    except EOFError:
        codes = [-2]  # no result: evaluate_generations_by_problem keeps its initial list
    process.kill()
    process.join()
    return codes


def _run(sample: dict[str, Any], code: str, timeout: int, sending: Any) -> None:
    import numpy
    from lcb_runner.evaluation.testing_util import run_test

    send = sending.send
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    results, _ = run_test({"input_output": json.dumps(sample)}, test=code, debug=False, timeout=timeout)
    fixed = []
    for item in results:
        if isinstance(item, numpy.ndarray):
            item = item.item(0) if item.size else False
        fixed.append(int(item) if isinstance(item, (bool, int, numpy.bool_)) else int(bool(item)))
    send(fixed)


def load_official(checkout: str) -> None:
    """Imports the evaluator of a checkout, after the setup that its own command performs."""
    sys.path.insert(0, checkout)
    sys.set_int_max_str_digits(50_000)
    import lcb_runner.evaluation.compute_code_generation_metrics  # noqa: F401


def main() -> None:
    """Records the official results."""
    load_official(sys.argv.pop(1))
    recorded: dict[str, list[Any]] = {row["key"]: official_codes(row) for row in corpus()}
    for value in returned():
        recorded[f"value:{value}"] = [official_codes(returning(value, expected))[-1] for expected in expected_values()]
    lines = (f"{json.dumps(key)}: {json.dumps(codes)}" for key, codes in recorded.items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(recorded)} results recorded")


if __name__ == "__main__":
    main()
