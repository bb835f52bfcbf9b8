"""The compressed trie of token sequences: what begins alike is there once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evalkit.tokens import Ids, common_prefix, sort_key


@dataclass(slots=True)
class Node:
    """A segment of the compressed trie: ids[start:end] of the paths that run through it.

    Nodes do not know their parents: without reference cycles a window's arrays are freed as soon as the
    window is, instead of whenever the garbage collector next looks at old objects.
    """

    start: int
    end: int
    ids: Ids
    children: list[Node] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    """Sequences whose input ends with this node."""
    first_scored: int = 0
    """Smallest scored index of all sequences in the subtree."""
    size: int = 0
    """Tokens in the subtree, this segment included."""
    paths: int = 0
    """Sequences' inputs that end in the subtree, equal ones counted once."""

    @property
    def tokens(self) -> Ids:
        """The segment's ids."""
        return self.ids[self.start : self.end]

    def __len__(self) -> int:
        return self.end - self.start


def build(inputs: list[Ids], starts: list[int]) -> Node:
    """Build the trie of some sequences, from their sorted order.

    Args:
        inputs: the sequences.
        starts: per sequence, the index of its first scored token.
    """
    keys = [sort_key(ids) for ids in inputs]
    root = Node(0, 0, np.zeros(0, np.int32))
    rightmost = [root]
    previous: int | None = None
    for s in sorted(range(len(inputs)), key=keys.__getitem__):
        if previous is not None and keys[s] == keys[previous]:
            rightmost[-1].sequences.append(s)
            continue
        shared = 0 if previous is None else common_prefix(inputs[previous], inputs[s])
        _append_path(rightmost, inputs[s], shared).sequences.append(s)
        previous = s
    _summarise(root, starts)
    return root


def _append_path(rightmost: list[Node], ids: Ids, shared: int) -> Node:
    """Add a path that shares `shared` ids with the last one; `rightmost` is the last root-to-leaf path."""
    while rightmost[-1].start >= shared and len(rightmost) > 1:
        rightmost.pop()
    tip = rightmost[-1]
    if tip.end > shared:
        upper = Node(tip.start, shared, tip.ids, [tip])
        rightmost[-2].children[-1] = upper
        tip.start = shared
        rightmost[-1] = tip = upper
    leaf = Node(shared, len(ids), ids)
    tip.children.append(leaf)
    rightmost.append(leaf)
    return leaf


def _summarise(root: Node, starts: list[int]) -> None:
    """Fill the subtree totals bottom-up."""
    order = [root]
    for node in order:
        order.extend(node.children)
    for node in reversed(order):
        node.size = len(node) + sum(c.size for c in node.children)
        node.paths = bool(node.sequences) + sum(c.paths for c in node.children)
        scored = [starts[s] for s in node.sequences] + [c.first_scored for c in node.children]
        node.first_scored = min(scored, default=0)
