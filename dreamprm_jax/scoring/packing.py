"""Packing for scoring: shared prefixes are computed once, and rows have only a few distinct lengths.

All candidates of a problem begin with its prompt, and often with the same code. After sorting, sequences with a common
prefix are adjacent. A row contains them as prefix trees in depth-first order: each token once, after its prefix. A
token's position is its depth in its tree. Its *reach* is the index in the row at which its subtree ends. Token i
attends to token j if j <= i and reach[j] > i (``models/attention.py``). These are exactly i and its prefix, even with
other branches or other trees in between. The results equal separate forward passes up to rounding.

A row with many branches is long, and most of it is masked for most of its tokens. The row is therefore divided into
blocks. For each block of queries there is a list of the key blocks with visible tokens, and only those are computed. A
long row costs no more than its branches would cost separately.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

SHORTEST_ROW = 64  # rows are 64, 96, 128, 192, 256, ... tokens long: few lengths, few compilations
BLOCK = 32  # tokens per attention block
BLOCK_COUNTS = tuple(n << k for k in range(2, 24) for n in (2, 3))  # possible lengths of a block list: 8, 12, 16, ...
LEAST_SHARED = 16  # minimum length of a common prefix for which two neighbors form a tree
COMPILATION = 8192  # cost of compiling one shape, as the number of tokens computed in the same time
# Cost of attention to one key on a CPU, relative to the same arithmetic in large matrix products: for a key read in
# place, and for a key that is gathered block by block. Fitted to the timings in docs/scoring.md.
IN_PLACE, GATHERED = 3.0, 4.0

Tokens = Int[np.ndarray, " t"]
Tree = tuple[int, ...]  # indices of sequences with common prefixes, in sorted order


@dataclass(frozen=True)
class Packed:
    """A batch of B rows of T tokens, and the location of every sequence's tokens in them."""

    tokens: Int[np.ndarray, "B T"]
    positions: Int[np.ndarray, "B T"]
    reach: Int[np.ndarray, "B T"]
    blocks: Int[np.ndarray, "B C M"] | None  # M key blocks for each of C = T / BLOCK query blocks; None: all blocks
    places: dict[int, tuple[int, Tokens]]  # sequence -> (its row, the index of each of its tokens in the row)
    distinct: int  # number of tokens without padding

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, T, M) of the batch, with M = 0 for all blocks. Each distinct shape is compiled once."""
        return (*self.tokens.shape, 0 if self.blocks is None else self.blocks.shape[2])


@dataclass(frozen=True)
class _Row:
    tokens: Tokens
    positions: Tokens
    reach: Tokens
    filled: int  # number of tokens without padding
    seen: int  # maximum number of blocks that one block attends to
    places: dict[int, Tokens]


def pack(
    sequences: Sequence[Tokens], row_tokens: int, batch_tokens: int, ways: int = 1, *, share: bool = True
) -> list[Packed]:
    """Packs sequences into batches of rows.

    Args:
      sequences: the token sequences, none empty.
      row_tokens: tokens per row (a value of ``row_length``), or fewer if a batch has no room for it. Longer sequences
        get longer rows.
      batch_tokens: tokens per batch, or more if a batch of ``ways`` rows is larger.
      ways: number of shards of a batch; the number of rows is a multiple of it.
      share: whether to build prefix trees in long rows. If False, no prefix is shared and rows are as short as they can
        be.
    """
    batches = []
    for length, forests, sizes in _groups(sequences, row_tokens, batch_tokens, ways, share):
        rows = sorted((_lay_out(forest, length, sequences) for forest in forests), key=lambda row: row.seen)
        for size in sizes:
            batches.append(_collate(rows[:size], size, length))
            rows = rows[size:]
    return batches


def whole_shapes(sequences: Sequence[Tokens], batch_tokens: int, ways: int = 1) -> list[tuple[int, ...]]:
    """The shapes of ``pack`` with ``share=False``. M is 0: the longest sequence of a batch uses nearly all blocks."""
    groups = _groups(sequences, SHORTEST_ROW, batch_tokens, ways, share=False)
    return [(size, length, 0) for length, _, sizes in groups for size in sizes]


def _groups(
    sequences: Sequence[Tokens], row_tokens: int, batch_tokens: int, ways: int, share: bool
) -> list[tuple[int, list[list[Tree]], list[int]]]:
    """(tokens per row, trees of each row, number of rows of each batch), shortest rows first."""
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
    """The cost of batches with their compilation, in units of one token without attention.

    Args:
      shapes: shapes of the batches (``Packed.shape``).
      per_key: arithmetic of a token's attention to one key, relative to all its other matrix products.
      blockwise: whether attention reads only the listed blocks, as ``models.attention.block_attention`` does. Kernels
        read all blocks up to the diagonal.
    """
    total = float(COMPILATION * len(set(shapes)))
    for rows, length, blocks in shapes:
        keys = length / 2
        if blockwise:
            keys = GATHERED * BLOCK * blocks if blocks else IN_PLACE * length
        total += rows * length * (1 + per_key * keys)
    return total


def row_length(size: int) -> int:
    """The shortest row length of at least ``size`` tokens: a power of two, or three quarters of one."""
    power = max(SHORTEST_ROW, 1 << (size - 1).bit_length())
    return power * 3 // 4 if power > SHORTEST_ROW and 4 * size <= 3 * power else power


# ---------------------------------------------------------------- assignment of sequences to rows


def shared_lengths(sequences: Sequence[Tokens]) -> tuple[list[int], list[int]]:
    """(order, shared): the sorted order, and the length of the prefix that each sequence shares with the previous."""
    keys = [tokens.astype(">u4").tobytes() for tokens in sequences]  # big-endian bytes sort like the numbers
    order = sorted(range(len(keys)), key=keys.__getitem__)
    pairs = zip([order[0], *order], order, strict=False)
    return order, [0 if place == 0 else _fork(sequences[a], sequences[b]) for place, (a, b) in enumerate(pairs)]


def _fork(first: Tokens, second: Tokens) -> int:
    """The length of the common prefix."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length


def grow_trees(
    order: Sequence[int], shared: Sequence[int], lengths: Sequence[int], room: int
) -> list[tuple[int, Tree]]:
    """(number of tokens, tree) of all sequences. Neighbors join while they share enough and their tree fits a row.

    Args:
      order: indices of the sequences in sorted order.
      shared: length of the prefix shared with the previous sequence, in this order (``shared_lengths``).
      lengths: number of tokens of each sequence, by index.
      room: tokens per row. Sequences that share prefixes get longer rows if the longest of them needs more.
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
    """Rows by length, filled by best fit: largest trees first, each into the row with the least room that suffices."""
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
    """Yields the number of rows of each batch: full batches, then halves, quarters, ... for the remaining rows.

    Only a few sizes are compiled this way, and at most a quarter of a batch is padding rows (more if fewer than
    ``ways`` rows remain).

    Args:
      rows: total number of rows.
      full: rows of a full batch, a multiple of ``ways``.
      ways: every size is a multiple of it.
    """
    while rows > 0:
        size = full
        while size > ways and 4 * rows < 3 * size:
            size = max(ways, size // 2 // ways * ways)
        yield size
        rows -= size


# ---------------------------------------------------------------- the arrays of rows and batches


def _lay_out(forest: Sequence[Tree], length: int, sequences: Sequence[Tokens]) -> _Row:
    """The arrays of one row. Padding is at its end; each padding token attends only to itself."""
    tokens, positions = np.zeros(length, np.int32), np.zeros(length, np.int32)
    reach = np.arange(1, length + 1, dtype=np.int32)
    places: dict[int, Tokens] = {}
    end = 0
    for tree in forest:
        path, last = np.zeros(0, np.int32), np.zeros(0, np.int32)
        for index in tree:
            own = sequences[index]
            depth = _fork(own, last)
            reach[path[depth:]] = end  # no later token attends to tokens below the fork
            here = slice(end, end + len(own) - depth)
            tokens[here] = own[depth:]
            positions[here] = np.arange(depth, len(own))
            path = np.concatenate([path[:depth], np.arange(here.start, here.stop, dtype=np.int32)])
            places[index] = path
            last, end = own, here.stop
        reach[path] = end
    return _Row(tokens, positions, reach, end, int(_visible_blocks(reach[None]).sum(-1).max()), places)


def _visible_blocks(reach: Int[np.ndarray, "B T"]) -> np.ndarray:
    """Whether some token of a query block attends to some token of a key block: bool [B, C queries, C keys]."""
    furthest = reach.reshape(len(reach), -1, BLOCK).max(-1)
    block = np.arange(furthest.shape[1])
    earlier = block[None, :] < block[:, None]
    return (earlier & (furthest[:, None, :] > block[:, None] * BLOCK)) | np.eye(len(block), dtype=bool)


def _collate(rows: Sequence[_Row], size: int, length: int) -> Packed:
    """A batch of ``size`` rows; missing rows are padding."""
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
        # Unused entries name the block after the last one, which is masked because it is after every token.
        blocks = np.where(np.take_along_axis(seen, chosen, -1), chosen, length // BLOCK).astype(np.int32)
    return Packed(
        stack([row.tokens for row in rows]),
        stack([row.positions for row in rows]),
        reach,
        blocks,
        {index: (number, path) for number, row in enumerate(rows) for index, path in row.places.items()},
        sum(row.filled for row in rows),
    )
