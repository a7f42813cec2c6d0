"""A study is checked as a whole before anything runs, and its runs have keys that hash only what they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fsgen.study import resolve
from fsgen.study.config import LadderConfig, parse_config
from fsgen.study.plan import Plan, make_plan
from fsgen.study.units import make_steps
from tests.study.ladder import byte_tokenizer, questions, save_model, small_study


def plan(study: dict[str, Any], limit: int | None = None) -> Plan:
    return make_plan(parse_config(yaml.safe_dump(study)), limit)


def one_cell(ladder: dict[str, str], data: str, **changes: Any) -> dict[str, Any]:
    study = {
        "tasks": [{"name": "pocket_math", "limit": 4, "max_tokens": 4, "data": data}],
        "pairs": [{"draft": ladder["small"], "target": ladder["large"]}],
        "methods": ["contrastive"],
    }
    return study | changes


def key(study: dict[str, Any], limit: int | None = None) -> str:
    rows = plan(study, limit).rows
    assert len(rows) == 1
    return rows[0].cell.key


def test_every_fault_of_every_cell_at_once(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tokenizer=byte_tokenizer(extra=4), vocab_size=262)
    narrow = save_model(tmp_path / "narrow", max_position_embeddings=20)
    small, large = ladder["small"], ladder["large"]
    study = {
        "device": "cuda:99",
        "dtype": "int3",
        "tasks": [
            {"name": "pocket_math", "limit": 2, "data": data},
            {"name": "pocket_math", "shots": 3, "data": data},
            {"name": "gsm9k"},
            {"name": "gsm8k", "limit": 10**6},
            {"name": "pocket_math", "limit": 2, "data": data, "chat": True},
        ],
        "grids": [
            {
                "pairs": [
                    {"draft": small, "target": large},
                    {"draft": str(other), "target": large},
                    {"draft": str(narrow), "target": large},
                    {"draft": "pocket-7b", "target": large},
                ],
                "methods": [
                    "oracle",
                    "ensemble",
                    "contrastve",
                    "contrastive:gamma=2",
                    "proxy",
                    {"name": "route", "draft_tokens": 0},
                ],
                "routers": ["default", "max-prb:0.5", "entropy:-1"],
            },
            {"pairs": [{"target": large}], "methods": ["speculative", "plain", "speculative:verifier=exact"]},
            {
                "pairs": [{"draft": small, "target": large}],
                "methods": ["speculative:verifier=exact"],
                "sampling": [{"temperature": 1}],
            },
        ],
    }
    with pytest.raises(ValueError, match="cannot run") as caught:
        plan(study)
    message = str(caught.value)
    for fault in (
        "cuda:99",
        "int3",
        "unknown task 'gsm9k'",
        "pocket_math takes 0 shots, not 3",
        "limit=1000000",
        "has no chat template",
        "have different tokenizers",
        "exceeds the context window of 20",
        "there is no bundled model 'pocket-7b'",
        "unknown method 'contrastve'",
        "no parameter 'gamma'",
        "unknown router 'max-prb'",
        "router entropy:-1 is impossible",
        "method 'proxy' needs a base model",
        "draft_tokens must be at least 1",
        "method 'speculative' needs a draft model",
        "'exact' is for greedy decoding",
    ):
        assert fault in message, fault
    assert len(message.splitlines()) < 40, "each fault is named once"
    assert "--" not in message, "a study has no options of the command line"


def test_two_tasks_of_one_name_are_refused(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    def own(folder: str, answer: str, **more: Any) -> dict[str, Any]:
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / "capitals.jsonl"
        file.write_text(json.dumps({"question": "Which?", "answer": answer}) + "\n")
        task = {"name": "jsonl", "data": str(file), "prompt": "{question}", "answer": "answer", "metric": "exact"}
        return task | {"max_tokens": 4} | more

    two = [own("one", "Paris"), own("two", "Rome")]
    with pytest.raises(ValueError, match="are two tasks of one name: rename a file of data, or make two") as caught:
        plan(one_cell(ladder, data, tasks=two))
    assert all(task["data"] in str(caught.value) for task in two)
    with pytest.raises(ValueError, match=r"metric: exact} and \{name: jsonl, metric: contains}"):
        plan(one_cell(ladder, data, tasks=[own("one", "Paris"), own("one", "Paris", metric="contains")]))
    assert len(plan(one_cell(ladder, data, tasks=[own("one", "Rome"), own("two", "Rome", max_tokens=3)])).rows) == 2
    task = one_cell(ladder, data)["tasks"][0]
    assert len(plan(one_cell(ladder, data, tasks=[task, task | {"limit": 2}])).rows) == 2, "other examples of one task"


def test_a_limit_must_be_positive(ladder: dict[str, str], data: str) -> None:
    with pytest.raises(ValueError, match="limit=0"):
        plan(one_cell(ladder, data), limit=0)


def test_ladders(ladder: dict[str, str], data: str) -> None:
    small, middle, large = ladder.values()
    study = one_cell(ladder, data, methods=["oracle"])

    def pairs(*entries: dict[str, Any]) -> list[tuple[str, str]]:
        return [
            (row.cell.members["draft"], row.cell.members["target"])
            for row in plan(study | {"pairs": list(entries)}).rows
        ]

    every = {"ladder": [small, middle, large]}
    assert pairs(every) == [(small, middle), (small, large), (middle, large)]
    assert pairs(every | {"target": large}) == [(small, large), (middle, large)]
    assert pairs(every, {"draft": small, "target": large}) == pairs(every), "the same cell twice is one"
    with pytest.raises(ValueError, match="no smaller model"):
        pairs(every | {"target": small})
    both = pairs(every | {"every": True})
    assert len(both) == 6
    assert set(both) == {(one, two) for one in (small, middle, large) for two in (small, middle, large) if one != two}
    assert pairs(every | {"every": True, "target": small}) == [(middle, small), (large, small)]
    with pytest.raises(ValueError, match="trainings are those of the bundled ladder"):
        pairs(every | {"trainings": True})


def test_the_trainings_of_the_bundled_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training of a smaller size drafts for each of a larger one; with `every`, for those of its own size too."""
    monkeypatch.setattr(resolve, "bundled_ladder", lambda: ["s", "l"])
    monkeypatch.setattr(resolve, "seeds_of", lambda name: [name, f"{name}-s1"])

    def pairs(**given: Any) -> list[tuple[str | None, str]]:
        found = resolve._ladder_pairs(LadderConfig(ladder="pocket", **given))
        return [(pair.draft, pair.target) for pair in found]

    assert pairs() == [("s", "l")]
    assert pairs(trainings=True) == [("s", "l"), ("s", "l-s1"), ("s-s1", "l"), ("s-s1", "l-s1")]
    assert len(pairs(trainings=True, every=True)) == 4 * 3
    assert pairs(trainings=True, target="l-s1") == [("s", "l-s1"), ("s-s1", "l-s1")]


def test_baselines_are_shared(ladder: dict[str, str], data: str) -> None:
    made = plan(small_study(ladder, data))
    assert len(made.rows) == 7
    # three models alone, two of them also sampled
    assert len(made.cells) == len(made.rows) + 5
    assert len({cell.key for cell in made.cells}) == len(made.cells)
    for row in made.rows:
        assert row.target_alone is not None
        assert row.draft_alone is not None
        assert row.target_alone.members == {"target": row.cell.members["target"]}
        assert row.draft_alone.members == {"target": row.cell.members["draft"]}


def test_steps_run_what_is_read_before_what_reads_it(ladder: dict[str, str], data: str) -> None:
    steps = make_steps(plan(small_study(ladder, data)))
    done: set[str] = set()
    for step in steps:
        assert step.source is None or step.source.key in done
        done |= {cell.key for cell in step.cells}
    replays = [step for step in steps if step.source is not None]
    assert sorted(len(step.cells) for step in replays) == [1, 2], "the drafts of a target read its texts together"
    alone = make_steps(plan(small_study(ladder, data, replay=False)))
    assert all(step.source is None and len(step.cells) == 1 for step in alone)


def test_a_key_hashes_only_what_changes_what_is_written(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    study = one_cell(ladder, data)
    expected = key(study)
    assert key(study) == expected
    assert key(study, limit=4) == expected
    more = [{"draft": ladder["small"], "target": ladder["large"], "base": ladder["middle"]}]
    for changes in (
        {"name": "other"},
        {"batch_size": 2},
        {"replay": False},
        {"seed": 5},  # nothing is random
        {"device": "cpu", "dtype": "float32"},
        {"methods": ["contrastive:beta=0.5"]},
        {"methods": [{"name": "contrastive", "draft_tokens": 5}]},
        {"routers": ["always"]},
        {"pairs": more},  # the method does not use the base
    ):
        assert key(study | changes) == expected, changes

    task: dict[str, Any] = study["tasks"][0]
    changed: list[dict[str, Any]] = [
        {"tasks": [task | {"limit": 3}]},
        {"tasks": [task | {"max_tokens": 5}]},
        {"tasks": [task | {"order": 1}]},
        {"tasks": [task | {"name": "gsm8k"}]},
        {"tasks": [task | {"data": questions(tmp_path, 5)}]},
        {"pairs": [{"draft": ladder["middle"], "target": ladder["large"]}]},
        {"methods": ["contrastive:beta=0.4"]},
        {"methods": [{"name": "contrastive", "draft_tokens": 4}]},
        {"methods": ["speculative"]},
        {"routers": ["margin:0.5"]},
        {"routers": ["random:0.5"]},
        {"routers": ["random:0.5"], "seed": 1},
        {"sampling": [{"temperature": 0.5}]},
        {"sampling": [{"temperature": 0.5}], "seed": 1},
        {"sampling": [{"temperature": 0.5, "top_k": 3}]},
        {"candidates": 5},
        {"dtype": "bfloat16"},
    ]
    keys = [expected, key(study, limit=2), *(key(study | changes) for changes in changed)]
    assert len(set(keys)) == len(keys)


def test_a_key_knows_the_weights(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ladder["small"], folder)
    study = one_cell(ladder, data, pairs=[{"draft": str(folder), "target": ladder["large"]}])
    before = key(study)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    file.write_bytes(content)
    assert key(study) != before


def test_a_key_names_its_run(ladder: dict[str, str], data: str) -> None:
    task, method, digest = key(one_cell(ladder, data)).split("-")
    assert (task, method) == ("pocket_math", "contrastive")
    assert len(digest) == 16


def test_seeds_differ_by_text_and_not_by_cell(ladder: dict[str, str], data: str) -> None:
    cells = plan(small_study(ladder, data)).cells
    seeds = [cells[0].text_seed(name, turn) for name in ("a", "b") for turn in (1, 2)]
    assert len(set(seeds)) == 4
    assert seeds[0] == cells[-1].text_seed("a", 1)
    assert all(cells[0].params(seed).seed == seed for seed in seeds)


def test_identity_is_plain_json(ladder: dict[str, str], data: str) -> None:
    for cell in plan(small_study(ladder, data)).cells:
        assert json.loads(json.dumps(cell.identity)) == cell.identity
