"""The random blocks of the released BigBird code, which weights trained with it need.

It differs from the paper: global are the first block and the last one, random blocks come from the
beginning of the sequence only, and a block that is both random and global counts twice. A layer's
blocks are drawn from numpy's legacy generator, seeded with the layer's index. The released code has
two planners: one for the lengths of the paper's experiments, one for all others.
"""

from __future__ import annotations

import numpy as np

IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

PAPER_LENGTHS = (1024, 2048, 3072, 4096)
LONGEST = 4096  # the paper's plan is drawn for this length, and cut
LAST_RANDOM_TOKEN = 1024


def is_full(n_blocks: int, random_blocks: int) -> bool:
    """Return whether the released code gives so short a sequence full attention."""
    return n_blocks <= 2 * random_blocks + 5


def sequence_lists(
    n_blocks: int, block_size: int, random_blocks: int, heads: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Apply the pattern to one sequence that is not too short; see `layout.sequence_lists`."""
    return joined_lists(draw_random_blocks(n_blocks, block_size, random_blocks, heads, seed))


def joined_lists(random: IntArray) -> tuple[IntArray, IntArray]:
    """Join global, window and random blocks.

    Args:
        random: the random blocks of rows 1 to N - 2, [heads, N - 2, r].

    Returns:
        `counts` [heads, N] and `keys`, as `pattern.sequence_lists`.
    """
    heads, n_blocks = len(random), random.shape[1] + 2
    rows = np.arange(1, n_blocks - 1)
    fixed = np.stack([0 * rows, rows - 1, rows, rows + 1, 0 * rows + n_blocks - 1], axis=1)
    # The rows beside the global blocks have these in their window, once.
    fixed[0, 0] = fixed[-1, -1] = n_blocks
    middle = np.concatenate([np.broadcast_to(fixed, (heads, *fixed.shape)), random], axis=-1)
    middle = np.sort(middle, axis=-1)
    counts = np.full((heads, n_blocks), n_blocks)
    counts[:, 1:-1] = (middle < n_blocks).sum(axis=-1)
    every = np.arange(n_blocks)
    keys = [np.concatenate([every, head[head < n_blocks], every]) for head in middle]
    return counts, np.concatenate(keys)


def draw_random_blocks(
    n_blocks: int,
    block_size: int,
    random_blocks: int,
    heads: int,
    seed: int,
    paper_lengths: tuple[int, ...] = PAPER_LENGTHS,
    longest: int = LONGEST,
) -> IntArray:
    """Draw the random blocks of rows 1 to N - 2, [heads, N - 2, r].

    Args:
        n_blocks: blocks of the sequence, N.
        block_size: tokens per block.
        random_blocks: random blocks per row, r.
        heads: heads.
        seed: of numpy's legacy generator.
        paper_lengths: lengths, in tokens, that take the plan of the paper's experiments.
        longest: length, in tokens, for which that plan is drawn before it is cut.
    """
    rng = np.random.RandomState(seed)
    if n_blocks * block_size in paper_lengths:
        plan = [_paper_plan(rng, longest, block_size, random_blocks) for _ in range(heads)]
        return np.stack(plan)[:, : n_blocks - 2]
    return _general_plan(rng, n_blocks, random_blocks, heads)


def _paper_plan(
    rng: np.random.RandomState, longest: int, block_size: int, random_blocks: int
) -> IntArray:
    """Draw one head's rows for the longest sequence, from blocks that start before token 1024."""
    n_blocks = longest // block_size
    last = n_blocks - 1
    if 2 * block_size < LAST_RANDOM_TOKEN:
        last = LAST_RANDOM_TOKEN // block_size - 1
    middle = np.arange(1, n_blocks - 1)
    rows = []
    for i in range(1, n_blocks - 1):
        if i <= 2:
            pool = middle[i + 1 : last]
        elif i >= n_blocks - 3 or i - 2 > last:
            pool = middle[:last]
        elif i + 1 == last:
            pool = middle[: i - 2]
        else:
            pool = np.concatenate([middle[: i - 2], middle[i + 1 : last]])
        if len(pool) < random_blocks:
            raise ValueError(
                f"pattern 'google' finds {len(pool)} blocks of {block_size} tokens for row {i}, "
                f"not {random_blocks}; take smaller blocks or fewer random ones"
            )
        rows.append(rng.permutation(pool)[:random_blocks])
    return np.stack(rows)


def _general_plan(
    rng: np.random.RandomState, n_blocks: int, random_blocks: int, heads: int
) -> IntArray:
    """Draw all heads' rows from the first 2 r + 5 blocks."""
    end = 2 * random_blocks + 5
    drawn = np.empty((heads, n_blocks, random_blocks), dtype=np.int64)
    for i in range(1, n_blocks):  # the last row is drawn, too, and dropped
        illegal = {i - 1, i, i + 1, 0, end - 1}
        if i == 1:
            illegal.add(end - 2)
        if i == end - 2:
            illegal.add(1)
        for head in range(heads):
            legal = [block for block in rng.permutation(end) if block not in illegal]
            drawn[head, i] = legal[:random_blocks]
    return drawn[:, 1:-1]
