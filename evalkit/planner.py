"""Plan the forward passes that score many token sequences with every long shared prefix computed once.

All sequences go into a compressed trie. Long shared segments become `prefill` steps whose keys and
values stay in the cache; what hangs below them is cut into *families* (subtrees, usually one question
with its options) and packed into steps of about `batch_tokens` tokens. The plan is a function of the
set of sequences alone: neither their order nor what has been scored already changes a step, so a
resumed run repeats exactly the arithmetic of an uninterrupted one.

Pure Python and numpy: no engine is imported here.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evalkit.tokens import EncodedRequest, Ids, common_prefix, sort_key
from evalkit.trie import Node, build

MIN_SAVING = 256
"""Tokens a shared segment must save before it earns a forward pass of its own."""

MIN_TREE_SAVING = 0.1
"""Share of its tokens a branching family must save: below, separate paths attend to less."""

MIN_PACK = 256
"""Tokens below which a step is not divided further to keep every lane busy."""

_WINDOW_REQUESTS = 256
_WINDOW_SHARED = 32
_SORT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Family:
    """Rows [begin, end) of a step that attend to the cached context and among themselves."""

    begin: int
    end: int
    parents: npt.NDArray[np.int32] | None
    """Per row, the family-local row of its parent (-1: the context); None when the rows are one path."""

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(slots=True)
class Step:
    """One forward pass.

    Row r feeds `tokens[r]` at position `positions[r]`; edge e reads row `edge_rows[e]` and scores
    token `edge_tokens[e]` as its successor, to be stored at index `edge_ids[e]` of the window.
    """

    context: int
    """Index of the prefill step whose keys and values must be cached; -1 for none."""
    context_len: int
    """Tokens cached before this step."""
    keep: bool
    """Whether this is a prefill: its keys and values are appended to the cache."""
    tokens: Ids
    positions: Ids
    families: tuple[Family, ...]
    requests: tuple[int, ...]
    """Requests that need this step."""
    finishes: tuple[int, ...] = ()
    """Requests that are complete once this step and all earlier ones have run."""
    edge_rows: Ids = field(default_factory=lambda: np.zeros(0, np.int32))
    edge_tokens: Ids = field(default_factory=lambda: np.zeros(0, np.int32))
    edge_ids: Ids = field(default_factory=lambda: np.zeros(0, np.int32))

    def halves(self) -> tuple[Step, Step]:
        """Two steps that do the same work with half the families each, for when memory runs out."""
        middle = len(self.families) // 2
        return self._part(self.families[:middle]), self._part(self.families[middle:])

    def _part(self, families: tuple[Family, ...]) -> Step:
        begin, end = families[0].begin, families[-1].end
        mine = (self.edge_rows >= begin) & (self.edge_rows < end)
        return Step(
            self.context,
            self.context_len,
            self.keep,
            self.tokens[begin:end],
            self.positions[begin:end],
            tuple(Family(f.begin - begin, f.end - begin, f.parents) for f in families),
            self.requests,
            (),
            self.edge_rows[mine] - begin,
            self.edge_tokens[mine],
            self.edge_ids[mine],
        )


@dataclass(frozen=True, slots=True)
class Window:
    """The plan of a group of requests that share prefixes."""

    steps: list[Step]
    n_edges: int
    sequence_edges: dict[int, tuple[Ids, ...]]
    """Request index to, per sequence, the edge indices whose log-probabilities add up to its score."""


def plan(requests: Sequence[EncodedRequest], batch_tokens: int, lanes: int = 1) -> Iterator[Window]:
    """Yield the windows that together score all `requests`, each planned only when it is reached.

    `lanes` is how many steps the engine runs side by side: packs come in even rounds of that many.
    """
    for members in _windows(requests):
        yield _WindowPlanner(requests, members, batch_tokens, lanes).build()


def _windows(requests: Sequence[EncodedRequest]) -> Iterator[list[int]]:
    """Group requests so that sharers stand together and a window's trie fits easily in memory."""
    keys = [sort_key(r.base[:_SORT_TOKENS]) for r in requests]
    order = sorted(range(len(requests)), key=keys.__getitem__)
    window: list[int] = []
    for i in order:
        if len(window) >= _WINDOW_REQUESTS:
            shared = common_prefix(requests[window[-1]].base[:_SORT_TOKENS], requests[i].base[:_SORT_TOKENS])
            if shared < min(_WINDOW_SHARED, len(requests[i].base)):
                yield window
                window = []
        window.append(i)
    if window:
        yield window


@dataclass(slots=True)
class _Placed:
    """A node's place in a step: one segment may be placed in several families."""

    node: Node
    step: _Draft
    row: int
    edges: Ids
    """Per token of the node, the edge that scores it (-1 where nothing asks for it)."""


@dataclass(slots=True)
class _Draft:
    """A step under construction."""

    context: int
    context_len: int
    keep: bool
    tokens: list[Ids] = field(default_factory=list)
    positions: list[Ids] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    rows: int = 0
    requests: set[int] = field(default_factory=set)
    edge_rows: list[Ids] = field(default_factory=list)
    edge_tokens: list[Ids] = field(default_factory=list)
    edge_ids: list[Ids] = field(default_factory=list)

    def add_edges(self, rows: Ids, tokens: Ids, ids: Ids) -> None:
        self.edge_rows.append(rows)
        self.edge_tokens.append(tokens)
        self.edge_ids.append(ids)

    def finished(self, finishes: list[int]) -> Step:
        return Step(
            self.context,
            self.context_len,
            self.keep,
            _joined(self.tokens),
            _joined(self.positions),
            tuple(self.families),
            tuple(sorted(self.requests)),
            tuple(sorted(finishes)),
            _joined(self.edge_rows),
            _joined(self.edge_tokens),
            _joined(self.edge_ids),
        )


def _joined(parts: list[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


_Carry = tuple[Node, ...]
"""A chain of trie nodes; in front of a family, segments too short to be worth a prefill of their own."""


class _WindowPlanner:
    def __init__(
        self, requests: Sequence[EncodedRequest], members: list[int], batch_tokens: int, lanes: int
    ) -> None:
        self._batch_tokens = batch_tokens
        self._lanes = lanes
        self._owner: list[tuple[int, int]] = []
        self._start: list[int] = []
        self._last: list[int] = []
        self._inputs: list[Ids] = []
        for i in members:
            for j, start in enumerate(requests[i].starts):
                ids = requests[i].sequence(j)
                self._owner.append((i, j))
                self._start.append(start)
                self._last.append(int(ids[-1]))
                self._inputs.append(ids[:-1])
        self._drafts: list[_Draft] = []
        self._n_edges = 0
        self._chains: dict[int, list[_Placed]] = {}

    def build(self) -> Window:
        root = build(self._inputs, self._start)
        self._schedule(root)
        finals = self._final_edges()
        sums = self._sequence_edges(finals)
        return Window(self._steps(), self._n_edges, sums)

    # -- choosing steps -------------------------------------------------------------------------

    def _schedule(self, root: Node) -> None:
        """Walk the trie: prefill what is worth sharing, pack the rest into families."""
        pending: list[tuple[list[_Placed], int, int, _Carry]] = [([], -1, 0, (root,))]
        while pending:
            # A prefix is computed when its turn comes, not when it is found: the cache holds one path.
            chain, context, context_len, prefix = pending.pop()
            chain, context, context_len = self._prefill(chain, context, context_len, prefix)
            families, prefixes = self._divide(prefix[-1].children, context_len)
            self._pack(chain, context, context_len, families)
            pending.extend((chain, context, context_len, deeper) for deeper in reversed(prefixes))

    def _divide(self, nodes: list[Node], context_len: int) -> tuple[list[tuple[_Carry, Node]], list[_Carry]]:
        """Sort subtrees into families and prefixes; a node that is neither hands itself to its children."""
        families: list[tuple[_Carry, Node]] = []
        prefixes: list[_Carry] = []
        stack: list[tuple[_Carry, Node]] = [((), n) for n in reversed(nodes)]
        while stack:
            carry, node = stack.pop()
            size = node.size + sum(map(len, carry))
            saving = (node.end - context_len) * (node.paths - 1)
            if size <= self._batch_tokens and self._is_family(node, saving, size):
                families.append((carry, node))
            elif saving >= MIN_SAVING or node.sequences or node.end - context_len > self._batch_tokens:
                prefixes.append((*carry, node))
            else:
                stack.extend(((*carry, node), child) for child in reversed(node.children))
        return families, prefixes

    @staticmethod
    def _is_family(node: Node, saving: int, size: int) -> bool:
        """Whether a subtree is one path, or its branches share enough to be computed together."""
        return node.paths == 1 or bool(node.sequences) or saving >= MIN_TREE_SAVING * size

    def _prefill(
        self, chain: list[_Placed], context: int, context_len: int, nodes: _Carry
    ) -> tuple[list[_Placed], int, int]:
        """Compute a path in pieces of at most `batch_tokens`, each cached for the next."""
        chain = list(chain)
        for node in nodes:
            for begin in range(node.start, node.end, self._batch_tokens):
                end = min(node.end, begin + self._batch_tokens)
                draft = self._draft(context, context_len, keep=True)
                piece = Node(begin, end, node.ids, first_scored=node.first_scored)
                if end == node.end:
                    piece.sequences = node.sequences
                chain.append(self._place(draft, piece, chain))
                draft.families.append(Family(0, draft.rows, None))
                self._register(piece, chain)
                context, context_len = len(self._drafts) - 1, end
        return chain, context, context_len

    def _pack(
        self, chain: list[_Placed], context: int, context_len: int, families: list[tuple[_Carry, Node]]
    ) -> None:
        """Fill steps with families, longest first so that similar lengths meet."""
        sizes = [node.size + sum(map(len, carry)) for carry, node in families]
        order = sorted(range(len(families)), key=lambda f: -sizes[f])
        capacity = _even_capacity([sizes[f] for f in order], self._batch_tokens, self._lanes)
        draft: _Draft | None = None
        for f in order:
            if draft is None or draft.rows + sizes[f] > capacity:
                draft = self._draft(context, context_len, keep=False)
            self._add_family(draft, chain, *families[f])

    def _draft(self, context: int, context_len: int, *, keep: bool) -> _Draft:
        draft = _Draft(context, context_len, keep)
        self._drafts.append(draft)
        return draft

    # -- filling steps --------------------------------------------------------------------------

    def _add_family(self, draft: _Draft, chain: list[_Placed], carry: _Carry, top: Node) -> None:
        begin = draft.rows
        trunk = list(chain)
        for node in carry:
            trunk.append(self._place(draft, node, trunk))
        stack = [(top, trunk)]
        parents: list[Ids] = [np.arange(-1, draft.rows - begin - 1, dtype=np.int32)]
        branching = False
        while stack:
            node, above = stack.pop()
            before = above[-1].row + len(above[-1].node) - 1 - begin if len(above) > len(chain) else -1
            local = draft.rows - begin
            branching |= before != local - 1
            parents.append(
                np.concatenate([[before], np.arange(local, local + len(node) - 1)]).astype(np.int32)
            )
            here = [*above, self._place(draft, node, above)]
            self._register(node, here)
            stack.extend((child, here) for child in reversed(node.children))
        tree = np.concatenate(parents) if branching else None
        draft.families.append(Family(begin, draft.rows, tree))

    def _place(self, draft: _Draft, node: Node, above: list[_Placed]) -> _Placed:
        """Append a node's rows to a step and create the edges that score its tokens."""
        row = draft.rows
        draft.tokens.append(node.tokens)
        draft.positions.append(np.arange(node.start, node.end, dtype=np.int32))
        draft.rows += len(node)
        placed = _Placed(node, draft, row, np.full(len(node), -1, np.int32))
        first = max(node.first_scored, node.start, 1)
        if first < node.end:
            self._score_inner(placed, first)
            if first == node.start and above:
                self._score_junction(placed, above[-1])
        return placed

    def _score_inner(self, placed: _Placed, first: int) -> None:
        """Edges between consecutive rows of one node."""
        node = placed.node
        depths = np.arange(max(first, node.start + 1), node.end, dtype=np.int32)
        ids = self._new_edges(len(depths))
        placed.edges[depths - node.start] = ids
        placed.step.add_edges(placed.row + depths - 1 - node.start, node.ids[depths], ids)

    def _score_junction(self, placed: _Placed, parent: _Placed) -> None:
        """The edge from the parent's last row to this node's first token."""
        ids = self._new_edges(1)
        placed.edges[0] = ids[0]
        last = np.asarray([parent.row + len(parent.node) - 1], np.int32)
        parent.step.add_edges(last, placed.node.tokens[:1], ids)

    def _new_edges(self, n: int) -> Ids:
        ids = np.arange(self._n_edges, self._n_edges + n, dtype=np.int32)
        self._n_edges += n
        return ids

    def _register(self, node: Node, chain: list[_Placed]) -> None:
        for sequence in node.sequences:
            self._chains[sequence] = chain
            for placed in chain:
                placed.step.requests.add(self._owner[sequence][0])

    # -- reading the plan back ------------------------------------------------------------------

    def _final_edges(self) -> dict[int, int]:
        """One edge per sequence for its last token; options with equal input and token share it."""
        known: dict[tuple[int, int, int], int] = {}
        finals: dict[int, int] = {}
        for sequence, chain in self._chains.items():
            end = chain[-1]
            row, token = end.row + len(end.node) - 1, self._last[sequence]
            key = (id(end.step), row, token)
            if key not in known:
                ids = self._new_edges(1)
                end.step.add_edges(np.asarray([row], np.int32), np.asarray([token], np.int32), ids)
                known[key] = int(ids[0])
            finals[sequence] = known[key]
        return finals

    def _sequence_edges(self, finals: dict[int, int]) -> dict[int, tuple[Ids, ...]]:
        edges: dict[int, list[Ids]] = {}
        for sequence, (request, _) in enumerate(self._owner):
            start = self._start[sequence]
            parts = [
                placed.edges[max(0, start - placed.node.start) :]
                for placed in self._chains[sequence]
                if placed.node.end > start
            ]
            final = np.asarray([finals[sequence]], np.int32)
            edges.setdefault(request, []).append(np.concatenate([*parts, final]))
        return {request: tuple(parts) for request, parts in edges.items()}

    def _steps(self) -> list[Step]:
        last: dict[int, int] = {}
        for index, draft in enumerate(self._drafts):
            last.update(dict.fromkeys(draft.requests, index))
        finishes: list[list[int]] = [[] for _ in self._drafts]
        for request, index in last.items():
            finishes[index].append(request)
        return [draft.finished(done) for draft, done in zip(self._drafts, finishes, strict=True)]


def _even_capacity(sizes: list[int], limit: int, lanes: int) -> int:
    """Tokens per pack, at most `limit`, that fill full rounds of `lanes` packs as evenly as can be."""
    total = sum(sizes)
    needed = _packs(sizes, limit)
    wanted = max(needed, min(-(-needed // lanes) * lanes, total // MIN_PACK))
    return bisect.bisect_left(
        range(limit), True, lo=-(-total // max(1, wanted)), key=lambda c: _packs(sizes, c) <= wanted
    )


def _packs(sizes: list[int], capacity: int) -> int:
    """Packs that filling one after the other makes."""
    packs, room = 0, 0
    for size in sizes:
        if size > room:
            packs, room = packs + 1, capacity
        room -= size
    return packs
