"""Grades how much a text resembles the Python program that an answer should contain."""

from __future__ import annotations

import ast
import builtins
import enum
import re
import sys
import warnings

# Names that LiveCodeBench's evaluator imports before every program, the node classes of its function-call problems, and
# builtins of Python 2.
_PRELUDE = """
List Dict Set Tuple Optional Union Any Callable Iterable Iterator Deque DefaultDict ListNode TreeNode Node defaultdict
Counter deque OrderedDict namedtuple ChainMap heapq heappush heappop heapify heappushpop heapreplace bisect
bisect_left bisect_right insort insort_left insort_right math inf sqrt gcd lcm ceil floor comb factorial log log2
isqrt pi prod perm itertools accumulate permutations combinations product chain groupby pairwise zip_longest islice
count cycle repeat functools reduce lru_cache cache cmp_to_key partial operator add mul xor or_ and_ itemgetter string
ascii_lowercase ascii_uppercase re sys stdin stdout setrecursionlimit random copy deepcopy collections datetime time
typing statistics io json np numpy SortedList SortedDict SortedSet raw_input xrange unicode long reload unichr
basestring
"""
_INSTALLED = "numpy scipy pandas sympy networkx sortedcontainers gmpy2 numba more_itertools typing_extensions"
_NAMES = frozenset(dir(builtins)) | set(_PRELUDE.split()) | {"__name__", "__file__", "__doc__"}
_LIBRARIES = sys.stdlib_module_names | set(_INSTALLED.split())
_HARNESSES = frozenset(["unittest", "pytest", "doctest", "timeit", "hypothesis"])
_INPUTS = frozenset(["input", "stdin", "raw_input", "fileinput"])
_PYTHON_LINE = re.compile(
    r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[^\n{]*:[ \t]*$|import[ \t]+[\w., \t]+$"
    r"|from[ \t]+[\w.]+[ \t]+import\b|for[ \t]+[^\n]+[ \t]in[ \t][^\n]+:[ \t]*$|while[ \t][^\n]+:[ \t]*$)",
    re.MULTILINE,
)
# Text that ends a program if it is at the beginning of a line: three words of a sentence, or a closing mark.
_PROSE = re.compile(r"[\"']{3}|\\end\{|</|[*#>_-]*[ ]?[A-Z][^\s()=\[]*(?:[ ]+[^\s()=]+){2}|[*#>_-]*[ ]?[^\x00-\x7f]")


class Likeness(enum.IntEnum):
    """The kind of a text, in increasing order of the likelihood that it is the answer's program."""

    NONE = 0  # prose, sample data, another language, an interpreter session
    FRAGMENT = 1  # Python that uses names it does not define: a usage example, an explained line; a test harness
    SNIPPET = 2  # self-contained statements, without a definition and without input
    BROKEN = 3  # a program that does not parse or misses a definition
    DEFINITIONS = 4  # self-contained functions or classes
    PROGRAM = 5  # self-contained, and reads its input


def likeness(text: str) -> Likeness:
    """Grades one text with the syntax of the running Python version."""
    tree = parse_python(text)
    if tree is None:
        prompts = re.search(r"^[ \t]*>>>", text, re.MULTILINE)
        return Likeness.BROKEN if _PYTHON_LINE.search(text) and not prompts else Likeness.NONE
    loaded, bound, modules = _names(tree)
    nodes = list(ast.walk(tree))
    defines = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in nodes)
    does_something = (ast.Call, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    if not defines and not any(isinstance(node, does_something) for node in nodes):
        return Likeness.NONE
    if modules & _HARNESSES or not modules <= _LIBRARIES:
        return Likeness.FRAGMENT
    reads = bool((loaded | bound) & _INPUTS) or any(_opens_stdin(node) for node in nodes)
    if "*" not in bound and loaded - bound - _NAMES:
        return Likeness.BROKEN if defines or reads else Likeness.FRAGMENT
    if reads:
        return Likeness.PROGRAM
    return Likeness.DEFINITIONS if defines else Likeness.SNIPPET


def parse_python(text: str) -> ast.Module | None:
    """The syntax tree of a text; None if this version of Python cannot parse it."""
    tree = _parse(text)
    return tree if isinstance(tree, ast.Module) else None


def without_prose(code: str) -> str:
    """The program at the beginning of a text, if prose follows it without a separator; otherwise the whole text."""
    error = _parse(code)
    if not isinstance(error, SyntaxError) or not error.lineno:
        return code
    lines = code.split("\n")
    program = "\n".join(lines[: error.lineno - 1]).rstrip() + "\n"
    prose = "\n".join(lines[error.lineno - 1 :])
    return program if _PROSE.match(prose) and likeness(program) >= Likeness.SNIPPET and parse_python(program) else code


def _parse(text: str) -> ast.Module | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error


def _names(tree: ast.Module) -> tuple[set[str], set[str], set[str]]:
    """(names that are read, names bound anywhere and attributes that are read, imported modules)."""
    loaded: set[str] = set()
    bound: set[str] = set()
    modules: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=context):
                (loaded if isinstance(context, ast.Load) else bound).add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                bound.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)) | ast.Attribute(attr=name):
                bound.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                bound.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
                origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in aliases]
                modules.update(name.partition(".")[0] for name in origin)
    return loaded, bound, modules


def _opens_stdin(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=0 | "/dev/stdin"), *_]):
            return True
        case ast.Call(func=ast.Attribute(attr="read" | "fdopen"), args=[ast.Constant(value=0), *_]):
            return True  # os.read(0, n), os.fdopen(0)
    return False
