"""What the draft would draft at every position of texts that are fixed: chains, and the most likely trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsgen import Generation, Members

DEPTH = 10  # the longest chain, and the deepest tree
NODES = 16  # the largest tree
RANKS = 3  # candidates of the draft that are kept at each position of the chain
NOTHING, PAST_END = -1, -2  # where a chain has no token any more, and where a text has none

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Drafted:
    """What the draft would write from each of N positions (those of all texts, one after the other).

    Attributes:
        task: index of the task, [N]; left: tokens from there to the end of the text, [N]; room: what the budget of
            tokens leaves, [N].
        ids, probs: the draft's most likely tokens along its greedy chain, [N, DEPTH, RANKS]; length: of the chain,
            which an end-of-text token ends, [N].
        run: how many tokens of the chain are the text's, [N]; wanted: the text's token at each place, [N, DEPTH].
        depth, parent, log_prob, on_text: the nodes of the best trees, most likely first, [N, M], depth 0 where there is
            none; parent is an index into the row, -1 for the root.
    """

    task: Ints
    left: Ints
    room: Ints
    ids: Ints
    probs: Floats
    length: Ints
    run: Ints
    wanted: Ints
    depth: Ints
    parent: Ints
    log_prob: Floats
    on_text: Bools


@dataclass(eq=False, slots=True)
class Node:
    """A drafted token of a tree, and the tokens that lead to it."""

    path: list[int]
    log_prob: float
    parent: Node | None
    on_text: bool
    chain: bool


def draft_text(model: Any, prompt: list[int], text: list[int], room: int, eos: frozenset[int]) -> dict[str, list[Any]]:
    """The fields of `Drafted` for the positions of one text; the trees' as ragged lists.

    A node among the NODES most likely ones of any depth has a parent among them. So level by level, only the nodes
    that are among the best so far are continued, and the chain always.
    """
    count = len(text)
    contexts = [prompt + text[:start] for start in range(count)]
    session = model.session(count)
    kept: list[list[Node]] = [[] for _ in range(count)]
    frontier = [[Node([], 0.0, None, True, True)] for _ in range(count)]
    ids = np.full((count, DEPTH, RANKS), NOTHING)
    probs = np.zeros((count, DEPTH, RANKS))
    length = np.zeros(count, dtype=np.int64)
    for depth in range(DEPTH):
        grown: list[list[Node]] = [[] for _ in range(count)]
        for turn in range(max(map(len, frontier))):
            rows = [start for start in range(count) if turn < len(frontier[start])]
            sequences: list[list[int] | None] = [None] * count
            for start in rows:
                sequences[start] = contexts[start] + frontier[start][turn].path
            best = session.score(sequences, 1)[rows, -1].double().log_softmax(-1).topk(NODES)
            for start, tokens, logs in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
                node = frontier[start][turn]
                if node.chain:
                    ids[start, depth], probs[start, depth] = tokens[:RANKS], np.exp(logs[:RANKS])
                    length[start] = depth + 1
                place = start + depth
                for rank, (token, log) in enumerate(zip(tokens, logs, strict=True)):
                    on_text = node.on_text and place < count and token == text[place]
                    chain = node.chain and rank == 0
                    grown[start].append(Node([*node.path, token], node.log_prob + log, node, on_text, chain))
        for start in range(count):
            pool = kept[start] + grown[start]
            least = sorted((node.log_prob for node in pool), reverse=True)[:NODES][-1]
            new = [node for node in grown[start] if node.log_prob >= least or node.chain]
            kept[start] += new
            frontier[start] = [node for node in new if node.path[-1] not in eos]

    trees = []
    for nodes in kept:
        # A parent is never less likely, and where it is as likely it was found before its child.
        ordered = sorted(nodes, key=lambda node: -node.log_prob)
        index = {id(node): i for i, node in enumerate(ordered)}
        trees.append([(len(n.path), index.get(id(n.parent), -1), n.log_prob, n.on_text) for n in ordered])
    wanted = np.array([[text[s + i] if s + i < count else PAST_END for i in range(DEPTH)] for s in range(count)])
    return {
        "left": [count - start for start in range(count)],
        "room": [room - start for start in range(count)],
        "ids": list(ids),
        "probs": list(probs),
        "length": list(length),
        "run": list(np.logical_and.accumulate(ids[:, :, 0] == wanted, axis=1).sum(1)),
        "wanted": list(wanted),
        "tree": trees,
    }


def draft_all(members: Members, prompts: list[list[str]], written: list[list[Generation]], room: int) -> Drafted:
    rows: dict[str, list[Any]] = {}
    for task, (questions, texts) in enumerate(zip(prompts, written, strict=True)):
        for question, text in zip(questions, texts, strict=True):
            prompt = members.tokenizer.encode(question)
            fields = draft_text(members.draft, prompt, text.token_ids, room, members.eos_ids)
            fields["task"] = [task] * len(text.token_ids)
            for name, values in fields.items():
                rows.setdefault(name, []).extend(values)
    trees = rows.pop("tree")
    widest = max(map(len, trees))
    depth = np.zeros((len(trees), widest), dtype=np.int64)
    parent, log_prob = np.full_like(depth, -1), np.full(depth.shape, -np.inf)
    on_text = np.zeros(depth.shape, dtype=np.bool_)
    for row, tree in enumerate(trees):
        depth[row, : len(tree)], parent[row, : len(tree)], log_prob[row, : len(tree)], on_text[row, : len(tree)] = zip(
            *tree, strict=True
        )
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Drafted(**arrays, depth=depth, parent=parent, log_prob=log_prob, on_text=on_text)
