"""Packing for scoring: what sequences have in common is computed once, and rows of few lengths are filled.

All candidates of a problem begin with its prompt, and often with the same code. Sorted, sequences that share a
beginning are neighbors, and a row holds them as prefix trees laid out depth first: each token once, after its own
prefix. A token's position is its depth in its tree; its *reach* is the place in the row where its subtree ends. A token
then sees its own prefix and nothing else under one rule, "not after me, and reaching beyond me"
(``models/attention.py``), whatever lies between: other branches, other trees, padding. The results equal separate
passes up to rounding.

A row of many branches is long, and most of it is hidden from most of its tokens. So the row is cut into blocks, and
each block's queries attend to the listed blocks alone that hold something they see: a long row costs no more than its
branches would cost apart.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

SHORTEST_ROW = 64  # rows are 64, 96, 128, 192, 256, ... tokens long: few lengths, few compilations
BLOCK = 32  # tokens of a block of attention
BLOCK_COUNTS = tuple(n << k for k in range(2, 24) for n in (2, 3))  # that a block attends to: 8, 12, 16, 24, ...
LEAST_SHARED = 16  # tokens in common from which two neighbors make one tree
COMPILATION = 8192  # tokens that a processor computes while it compiles one shape
# Cost of attention to one key on a CPU, over that of as much arithmetic in large products: a key read in place, and one
# that is copied block by block. A fit to the timings of docs/scoring.md.
IN_PLACE, GATHERED = 3.0, 4.0

Tokens = Int[np.ndarray, " t"]
Tree = tuple[int, ...]  # sequences that share beginnings, sorted, as indices


@dataclass(frozen=True)
class Packed:
    """One batch of rows, and where in them every sequence's tokens are. M is how many blocks a block attends to."""

    tokens: Int[np.ndarray, "B T"]
    positions: Int[np.ndarray, "B T"]
    reach: Int[np.ndarray, "B T"]
    blocks: Int[np.ndarray, "B C M"] | None  # of C = T / BLOCK blocks each; None: all of them
    places: dict[int, tuple[int, Tokens]]  # sequence -> (its row, the place of each of its tokens there)
    distinct: int  # tokens that are no padding

    @property
    def shape(self) -> tuple[int, ...]:
        """Everything that compilation depends on."""
        return (*self.tokens.shape, 0 if self.blocks is None else self.blocks.shape[2])


@dataclass(frozen=True)
class _Row:
    tokens: Tokens
    positions: Tokens
    reach: Tokens
    filled: int  # tokens that are no padding
    seen: int  # the most blocks that one block attends to
    places: dict[int, Tokens]


def pack(
    sequences: Sequence[Tokens], row_tokens: int, batch_tokens: int, ways: int = 1, *, share: bool = True
) -> list[Packed]:
    """Packs sequences into batches of rows.

    Args:
      sequences: the token sequences, none empty.
      row_tokens: tokens of a row (``row_length``), or fewer where a batch has no room for it; sequences that are longer
        get longer rows.
      batch_tokens: tokens of a batch (more, where one row for each of the ``ways`` has more).
      ways: the shards of a batch; rows are a multiple of it.
      share: prefix trees in long rows. False: each sequence whole, in the shortest row that has room for it.
    """
    batches = []
    for length, forests, sizes in _groups(sequences, row_tokens, batch_tokens, ways, share):
        rows = sorted((_lay_out(forest, length, sequences) for forest in forests), key=lambda row: row.seen)
        for size in sizes:
            batches.append(_collate(rows[:size], size, length))
            rows = rows[size:]
    return batches


def whole_shapes(sequences: Sequence[Tokens], batch_tokens: int, ways: int = 1) -> list[tuple[int, ...]]:
    """The shapes of ``pack`` with ``share=False``. A row's longest sequence sees nearly all blocks."""
    groups = _groups(sequences, SHORTEST_ROW, batch_tokens, ways, share=False)
    return [(size, length, 0) for length, _, sizes in groups for size in sizes]


def _groups(
    sequences: Sequence[Tokens], row_tokens: int, batch_tokens: int, ways: int, share: bool
) -> list[tuple[int, list[list[Tree]], list[int]]]:
    """(tokens of a row, the trees of each row, rows of each batch), the shortest rows first."""
    if not sequences:
        return []
    lengths = [len(tokens) for tokens in sequences]
    if share:
        order, shared = shared_lengths(sequences)
        most = max(SHORTEST_ROW, 1 << (max(1, batch_tokens // ways).bit_length() - 1))  # a batch has a row for each way
        distinct = sum(lengths) - sum(common for common in shared if common >= LEAST_SHARED)
        room = min(row_tokens, most, row_length(distinct))
        trees = grow_trees(order, shared, lengths, room)
    else:
        room, trees = SHORTEST_ROW, [(length, (index,)) for index, length in enumerate(lengths)]
    return [
        (length, rows, [*batch_sizes(len(rows), max(ways, batch_tokens // length // ways * ways), ways)])
        for length, rows in sorted(fill_rows(trees, room).items())
    ]


def work(shapes: Sequence[tuple[int, ...]], per_key: float, blockwise: bool) -> float:
    """What batches cost, in tokens without attention, compilation included.

    Args:
      shapes: of the batches (``Packed.shape``).
      per_key: arithmetic of a token's attention to one key, over that of all its other products.
      blockwise: whether attention reads the listed blocks alone, by ``models.attention.block_attention``; kernels read
        all blocks up to the diagonal.
    """
    total = float(COMPILATION * len(set(shapes)))
    for rows, length, blocks in shapes:
        keys = length / 2
        if blockwise:
            keys = GATHERED * BLOCK * blocks if blocks else IN_PLACE * length
        total += rows * length * (1 + per_key * keys)
    return total


def row_length(size: int) -> int:
    """The shortest row with room for ``size`` tokens: a power of two, or three quarters of one."""
    power = max(SHORTEST_ROW, 1 << (size - 1).bit_length())
    return power * 3 // 4 if power > SHORTEST_ROW and 4 * size <= 3 * power else power


# ---------------------------------------------------------------- which sequences go together


def shared_lengths(sequences: Sequence[Tokens]) -> tuple[list[int], list[int]]:
    """(order, shared): the sequences sorted, and how many first tokens each has in common with the one before it."""
    keys = [tokens.astype(">u4").tobytes() for tokens in sequences]  # big-endian bytes sort like the numbers
    order = sorted(range(len(keys)), key=keys.__getitem__)
    pairs = zip([order[0], *order], order, strict=False)
    return order, [0 if place == 0 else _fork(sequences[a], sequences[b]) for place, (a, b) in enumerate(pairs)]


def _fork(first: Tokens, second: Tokens) -> int:
    """How many first tokens the two have in common."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length


def grow_trees(
    order: Sequence[int], shared: Sequence[int], lengths: Sequence[int], room: int
) -> list[tuple[int, Tree]]:
    """(size, tree) of all sequences: neighbors join while they share enough and their tree fits a row.

    Args:
      order: the sequences, sorted.
      shared: what each has in common with the one before it (``shared_lengths``).
      lengths: tokens of each sequence, by index.
      room: tokens of a row. A family whose longest sequence needs more gets longer rows.
    """
    trees: list[tuple[int, Tree]] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and shared[end] >= LEAST_SHARED:
            end += 1
        limit = max(room, row_length(max(lengths[index] for index in order[start:end])))
        size, tree = lengths[order[start]], [order[start]]
        for place in range(start + 1, end):
            index = order[place]
            if size + lengths[index] - shared[place] <= limit:
                size += lengths[index] - shared[place]
                tree.append(index)
            else:
                trees.append((size, tuple(tree)))
                size, tree = lengths[index], [index]
        trees.append((size, tuple(tree)))
        start = end
    return trees


def fill_rows(trees: Sequence[tuple[int, Tree]], room: int) -> dict[int, list[list[Tree]]]:
    """Rows by length: the largest trees first, each into the row with the least room that has enough of it."""
    rows: dict[int, list[list[Tree]]] = {}
    gaps: list[tuple[int, int]] = []  # (free tokens, which row), sorted
    opened: list[list[Tree]] = []
    for size, tree in sorted(trees, reverse=True):
        place = bisect.bisect_left(gaps, (size, 0))
        if place < len(gaps):
            free, which = gaps.pop(place)
            opened[which].append(tree)
        else:
            free, which = max(room, row_length(size)), len(opened)
            opened.append([tree])
            rows.setdefault(free, []).append(opened[-1])
        bisect.insort(gaps, (free - size, which))
    return rows


def batch_sizes(rows: int, full: int, ways: int) -> Iterator[int]:
    """Rows of each batch, for ``rows`` rows in all: full ones, then halves, quarters, ... for what is left.

    Args:
      rows: how many there are.
      full: rows of a full batch, a multiple of ``ways``.
      ways: every size is a multiple of it; so few sizes compile, and at most a quarter of a batch is padding rows
        (more, where fewer than ``ways`` rows are left).
    """
    while rows > 0:
        size = full
        while size > ways and 4 * rows < 3 * size:
            size = max(ways, size // 2 // ways * ways)
        yield size
        rows -= size


# ---------------------------------------------------------------- where their tokens go


def _lay_out(forest: Sequence[Tree], length: int, sequences: Sequence[Tokens]) -> _Row:
    """The arrays of one row. Padding, at its end, sees itself alone."""
    tokens, positions = np.zeros(length, np.int32), np.zeros(length, np.int32)
    reach = np.arange(1, length + 1, dtype=np.int32)
    places: dict[int, Tokens] = {}
    end = 0
    for tree in forest:
        path, last = np.zeros(0, np.int32), np.zeros(0, np.int32)
        for index in tree:
            own = sequences[index]
            depth = _fork(own, last)
            reach[path[depth:]] = end  # what lies deeper than the fork is read no further
            here = slice(end, end + len(own) - depth)
            tokens[here] = own[depth:]
            positions[here] = np.arange(depth, len(own))
            path = np.concatenate([path[:depth], np.arange(here.start, here.stop, dtype=np.int32)])
            places[index] = path
            last, end = own, here.stop
        reach[path] = end
    return _Row(tokens, positions, reach, end, int(_visible_blocks(reach[None]).sum(-1).max()), places)


def _visible_blocks(reach: Int[np.ndarray, "B T"]) -> np.ndarray:
    """Which blocks hold a token that a token of a block may see: bool [B, C queries, C keys]."""
    furthest = reach.reshape(len(reach), -1, BLOCK).max(-1)
    block = np.arange(furthest.shape[1])
    earlier = block[None, :] < block[:, None]
    return (earlier & (furthest[:, None, :] > block[:, None] * BLOCK)) | np.eye(len(block), dtype=bool)


def _collate(rows: Sequence[_Row], size: int, length: int) -> Packed:
    """``size`` rows as one batch; those that are not there are padding."""
    spare = size - len(rows)

    def stack(parts: list[Tokens]) -> np.ndarray:
        return np.concatenate([np.stack(parts), np.zeros((spare, length), np.int32)])

    reach = stack([row.reach for row in rows])
    reach[len(rows) :] = np.arange(1, length + 1)
    count = next(count for count in BLOCK_COUNTS if count >= max(row.seen for row in rows))
    blocks = None
    if count * BLOCK < length:
        seen = _visible_blocks(reach)
        chosen = np.argsort(~seen, axis=-1, kind="stable")[:, :, :count]
        # A slot to spare names the block beyond the last one: it is after every token, so none sees it.
        blocks = np.where(np.take_along_axis(seen, chosen, -1), chosen, length // BLOCK).astype(np.int32)
    return Packed(
        stack([row.tokens for row in rows]),
        stack([row.positions for row in rows]),
        reach,
        blocks,
        {index: (number, path) for number, row in enumerate(rows) for index, path in row.places.items()},
        sum(row.filled for row in rows),
    )
