"""Decides whether several tests of one program may run in one child, one after the other.

A fork costs more than most programs, so the tests of a program share a child if nothing can pass from one test to the
next: every test executes the compiled code in a new ``__main__`` with new standard streams, and the interpreter state
that programs commonly change is restored. The remaining risk is state that a program leaves inside a module. This check
searches the compiled code for ways to do that; if it finds one, each test runs in its own child. It need not resist
attacks: a failure counts only for the first test of a child, and a program that never sees the expected outputs gains
nothing from remembering an earlier test.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType

_STATELESS_NAMES = """
    __future__ abc array bisect cmath collections copy dataclasses datetime decimal enum fractions functools heapq
    itertools json math numbers operator random re statistics string sys textwrap time typing
"""
_REACHING_NAMES = """
    __builtins__ __dict__ __class__ __globals__ __code__ __closure__ __subclasses__ __bases__ __mro__ __base__
    __import__ __loader__ __spec__ __self__ __wrapped__ __defaults__ __kwdefaults__ __stdin__ __stdout__ __stderr__
    eval exec compile globals vars setattr delattr breakpoint open help
    modules settrace setprofile _getframe _current_frames meta_path path_hooks path_importer_cache path excepthook
    displayhook unraisablehook breakpointhook setswitchinterval addaudithook set_asyncgen_hooks
    set_coroutine_origin_tracking_depth intern _clear_type_cache setdlopenflags
    close detach truncate seek fileno reconfigure register
"""
# modules without state that outlives a test, or whose state is restored
_STATELESS = frozenset(_STATELESS_NAMES.split())
# names of attributes or globals that give access to the interpreter, other frames or raw descriptors
_REACHING = frozenset(_REACHING_NAMES.split())


def _opcodes(*names: str) -> frozenset[int]:
    return frozenset(opcode for name in names if (opcode := dis.opmap.get(name)) is not None)


_CO_GENERATOR = 0x20  # from ``inspect``, which is not imported because larger workers fork more slowly
_CACHE = dis.opmap.get("CACHE", -1)
_EXTENDED = dis.opmap["EXTENDED_ARG"]
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_PUSH_EXC_INFO = dis.opmap.get("PUSH_EXC_INFO", -1)
_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]
_ATTRIBUTE_STORES = _opcodes("STORE_ATTR", "DELETE_ATTR")
_NAME_LOADS = _opcodes("LOAD_NAME", "LOAD_GLOBAL")
_NAME_STORES = _opcodes("STORE_NAME", "STORE_GLOBAL")
_LOCAL_STORES = _opcodes("STORE_FAST", "STORE_DEREF")
_WITHIN_IMPORT = _opcodes("IMPORT_FROM", "SWAP", "POP_TOP")


def may_share(code: CodeType) -> bool:
    """Whether the program leaves no state that a later test could see."""
    nested = list(_nested(code))
    for part in nested:
        if not _REACHING.isdisjoint(part.co_names) or part.co_name == "__del__":
            return False
        if part.co_flags & _CO_GENERATOR and _PUSH_EXC_INFO in part.co_code[::2]:
            return False  # its ``finally`` may run when the process ends
    imported = set[str]()
    for part in nested:
        for module, bound in _imports(part):
            if module.split(".")[0] not in _STATELESS:
                return False
            imported.add(bound)
    return not any(_stores_into(part, imported) for part in nested)


def _nested(code: CodeType) -> Iterator[CodeType]:
    stack = [code]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(constant for constant in part.co_consts if isinstance(constant, CodeType))


def _imports(code: CodeType) -> Iterator[tuple[str, str]]:
    """Yields (module, name to which the module or a member of it is bound)."""
    if _IMPORT_NAME not in code.co_code[::2]:
        return
    module = ""
    for opcode, argument in _instructions(code):
        if opcode == _IMPORT_NAME:
            if module:
                yield module, module
            module = code.co_names[argument]
        elif module and opcode in _NAME_STORES:
            yield module, code.co_names[argument]
        elif module and opcode in _LOCAL_STORES:
            yield module, ""  # a local name: every attribute that the program sets may then belong to the module
        elif module and opcode not in _WITHIN_IMPORT:
            yield module, module
            module = ""


def _stores_into(code: CodeType, imported: set[str]) -> bool:
    """Whether an attribute of an imported module or name is set or deleted."""
    opcodes = code.co_code[::2]
    if not any(opcode in opcodes for opcode in _ATTRIBUTE_STORES):
        return False
    if "" in imported:
        return True
    before, name = -1, 0
    for opcode, argument in _instructions(code):
        if before == _LOAD_GLOBAL:
            name >>= 1  # the lowest bit is a flag
        if opcode in _ATTRIBUTE_STORES and before in _NAME_LOADS and code.co_names[name] in imported:
            return True
        before, name = opcode, argument
    return False


def _instructions(code: CodeType) -> Iterator[tuple[int, int]]:
    """Yields (opcode, argument), without the cache entries between them."""
    data, extended = code.co_code, 0
    for position in range(0, len(data), 2):
        opcode = data[position]
        if opcode == _CACHE:
            continue
        argument = data[position + 1] | extended
        extended = argument << 8 if opcode == _EXTENDED else 0
        if opcode != _EXTENDED:
            yield opcode, argument
