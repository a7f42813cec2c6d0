"""Every task: its data, prompts, extraction, scores and refusals."""

import gzip
import json
import re
from pathlib import Path

import pytest

from fsgen import tasks
from fsgen.tasks import gsm8k, mbpp, mmlu_stem, mt_bench, sandbox, source

SIZES = {"gsm8k": 1319, "math500": 500, "mbpp": 500, "mmlu_stem": 3134, "mt_bench": 80, "pocket_math": 500}


@pytest.mark.parametrize("name", SIZES)
def test_a_smaller_limit_is_a_prefix_and_ids_are_unique(name: str) -> None:
    task = tasks.get(name)
    everything = task.load()
    assert len(everything) == SIZES[name]
    assert len({example.id for example in everything}) == SIZES[name]
    assert task.load(limit=7) == everything[:7]
    assert {e.id for e in task.load(seed=1)} == {e.id for e in everything}
    assert [e.id for e in task.load(seed=1)] != [e.id for e in everything]
    assert all(e.prompt and e.messages[-1][0] == "user" for e in everything)
    assert all(e.prompt == e.prompt.rstrip(" ") for e in everything)


def test_small_limits_mix_the_subjects() -> None:
    subjects = {example.metadata["subject"] for example in tasks.get("mmlu_stem").load(limit=60)}
    assert len(subjects) >= 12


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'gsm9k'.*gsm8k, lookup, math500, mbpp"):
        tasks.get("gsm9k")


@pytest.mark.parametrize(
    ("name", "shots", "choices"),
    [
        ("gsm8k", 9, "0 to 8"),
        ("gsm8k", -1, "0 to 8"),
        ("mmlu_stem", 6, "0 to 5"),
        ("mbpp", 11, "0 to 10"),
        ("pocket_math", 1, "0"),
        ("math500", 4, "0"),
        ("mt_bench", 1, "0"),
    ],
)
def test_shots_that_are_not_allowed_name_the_choices(name: str, shots: int, choices: str) -> None:
    with pytest.raises(ValueError, match=f"{name} takes {choices} shots, not {shots}"):
        tasks.get(name).load(shots=shots)


def test_limits_must_fit_the_data() -> None:
    with pytest.raises(ValueError, match="limit=81, but the data of mt_bench holds 80"):
        tasks.get("mt_bench").load(limit=81)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        tasks.get("mt_bench").load(limit=0)


# ------------------------------------------------------------------------------------------------- prompts


def test_gsm8k_prompts() -> None:
    task = tasks.get("gsm8k")
    plain = task.load(limit=1)[0]
    assert re.fullmatch(r"Question: [^\n]+\nAnswer:", plain.prompt)
    assert gsm8k.prompt("Why?") == "Question: Why?\nAnswer:"
    assert len(gsm8k.few_shot_examples()) == 8
    for shots in (1, 2, 4, 8):
        example = task.load(limit=1, shots=shots)[0]
        assert example.id == plain.id
        assert example.prompt.count("Question: ") == shots + 1
        assert example.prompt.endswith("\nLet's think step by step\n")
        assert len(example.messages) == 2 * shots + 1


def test_every_few_shot_example_of_gsm8k_has_an_answer() -> None:
    found = [tasks.get("gsm8k").extract(example) for example in gsm8k.few_shot_examples()]
    assert None not in found
    assert found[:2] == ["20", "817"]


def test_mmlu_prompts() -> None:
    assert mmlu_stem.prompt("high_school_physics", "What?", ["a", "b", "c", "d"]) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Q: What?\n(A) a (B) b (C) c (D) d\nA: Let's think step by step."
    )
    with pytest.raises(ValueError, match=r"shorter|argument"):
        mmlu_stem.prompt("anatomy", "What?", ["a", "b", "c"])
    task = tasks.get("mmlu_stem")
    for example in task.load(limit=80, shots=5):
        shots = 4 if example.metadata["subject"] == "college_chemistry" else 5
        assert example.metadata["shots"] == shots
        assert example.prompt.count("Let's think step by step.") == shots + 1
        assert f"about {example.metadata['subject'].replace('_', ' ')}.\n\nQ: " in example.prompt
        assert len(example.messages) == 2 * shots + 1


def test_all_few_shot_examples_of_mmlu_are_whole() -> None:
    subjects = {row["subject"] for row in source.rows(None, "mmlu_stem_test.jsonl.gz", ("subject",))}
    assert len(subjects) == 19
    for subject in subjects:
        examples = mmlu_stem.few_shot_examples(subject)
        assert len(examples) == (4 if subject == "college_chemistry" else 5)
        for text in examples:
            assert re.search(r"The answer is \([A-E]\)\.$", text)
            assert not re.search(r"\n(rac|ightarrow|ext|imes)", text)  # escapes that once were broken
    with pytest.raises(ValueError, match="no few-shot examples for subject 'history'"):
        mmlu_stem.few_shot_examples("history")


def test_mbpp_prompts() -> None:
    assert mbpp.prompt("Add.", ["assert a(1) == 2", "assert a(2) == 3"]) == (
        "You are an expert Python programmer, and here is your task: Add. Your code should pass these tests:\n\n"
        "assert a(1) == 2\nassert a(2) == 3\n[BEGIN]\n"
    )
    task = tasks.get("mbpp")
    assert {int(e.id.removeprefix("mbpp/")) for e in task.load()} == set(range(11, 511))
    example = task.load(limit=1, shots=10)[0]
    assert example.prompt.count("[DONE]\n\n") == 10
    assert example.prompt.endswith(task.load(limit=1)[0].prompt)
    assert "\r" not in example.prompt + str(example.reference)


# ------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", ["gsm8k", "pocket_math"])
def test_the_reference_solutions_are_right(name: str) -> None:
    task = tasks.get(name)
    rows = source.rows(None, task.bundled, task.fields)
    for example in task.load():
        solution = rows[int(example.id.split("/")[1])]["answer"]
        assert task.score(example, " " + solution) == tasks.Score(1.0, example.reference)


def test_gsm8k_scores_say_why() -> None:
    task = tasks.get("gsm8k")
    example = next(e for e in task.load() if e.id == "gsm8k/0")
    assert example.reference == "18"
    assert task.score(example, " #### 18.00").value == 1.0
    assert task.score(example, " 9 * 2 = $18") == tasks.Score(1.0, "18", "no marked answer: its last number taken")
    assert task.score(example, " #### -18") == tasks.Score(0.0, "-18")
    assert task.score(example, " I do not know.") == tasks.Score(0.0, None, "no answer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ... The answer is (C).", "C"),
        ("The answer is C.", "C"),
        ("the answer is (b)", "B"),
        ("Answer: D", "D"),
        ("The correct answer is **(A)**.", "A"),
        ("The correct answer is option B.", "B"),
        (r"The answer is $\boxed{\text{D}}$", "D"),
        ("The answer is: (B) mitochondria", "B"),
        ("The answer is (A). Wait, the answer is (B).", "B"),
        ("It rules out (A) and (B), which leaves (C)", "C"),
        ("(D).", "D"),
        ("B", "B"),
        (" C.", "C"),
        ("The answer is (C).\n\nQ: Next?\n(A) 1\nA: The answer is (A).", "C"),
        ("The answer is (A) or (B).", None),
        ("The answer is not (A).", None),
        ("The answer is a base, since it takes a proton.", None),
        ("The answer is A molecule of water", None),
        ("Choice (A) is wrong because of B.", None),
        ("The answer is (E).", None),
        ("I think it is the third one.", None),
        ("", None),
    ],
)
def test_letters(text: str, expected: str | None) -> None:
    assert tasks.get("mmlu_stem").extract(text) == expected


def test_an_unreadable_choice_is_wrong_whatever_the_reference() -> None:
    task = tasks.get("mmlu_stem")
    examples = task.load(limit=50)
    assert {task.score(example, "I cannot tell.") for example in examples} == {tasks.Score(0.0, None, "no answer")}
    assert sum(task.score(e, f"The answer is ({e.reference}).").value or 0 for e in examples) == 50


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("def f():\n    return 1\n[DONE]\nmore", "def f():\n    return 1"),
        ("def f():\r\n    return 1\r\n[DONE]", "def f():\n    return 1"),
        ("Sure!\n```python\ndef f():\n    return 1\n```\nIt works.", "def f():\n    return 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1\n```\nthat is it", "x = 1"),
        ("[BEGIN]\nx = 1\n[DONE]", "x = 1"),
        ("[DONE]", None),
        ("  \n", None),
        ("", None),
    ],
)
def test_programs(text: str, code: str | None) -> None:
    assert tasks.get("mbpp").extract(text) == code


def _can_isolate() -> bool:
    try:
        sandbox.isolation()
    except sandbox.SandboxUnavailable:
        return False
    return True


@pytest.mark.skipif(not _can_isolate(), reason="no isolation on this machine")
def test_mbpp_scores() -> None:
    task = tasks.get("mbpp")
    task.ready()
    examples = {example.id: example for example in task.load()}
    for number in (11, 12, 13, 367, 510):  # 367 has set-up code
        example = examples[f"mbpp/{number}"]
        assert task.score(example, f"{example.reference}\n[DONE]").value == 1.0
    example = examples["mbpp/11"]
    wrong = task.score(example, "def remove_Occ(s, c):\n    return s\n[DONE]")
    assert wrong.value == 0.0
    assert wrong.note == """AssertionError (assert remove_Occ("hello","l") == "heo", not 'hello')"""
    assert task.score(example, "def remove_Occ(:\n[DONE]").note.startswith("SyntaxError")
    assert task.score(example, "import sys\nsys.exit(0)\n[DONE]").value == 0.0
    assert task.score(example, "[DONE]") == tasks.Score(0.0, None, "no answer")


# ------------------------------------------------------------------------------------------------- MT-Bench


def test_mt_bench_turns_and_judge() -> None:
    task = tasks.get("mt_bench")
    examples = {example.id: example for example in task.load()}
    first = examples["mt_bench/81"]
    assert first.prompt.startswith("User: Compose an engaging travel blog")
    assert task.score(first, "Aloha!") == tasks.Score(None, "Aloha!", "no judge")
    second = task.follow_up(first, " Aloha!\nUser: made up")
    assert second is not None
    assert second.prompt == f"{first.prompt} Aloha!\nUser: {first.metadata['turns'][1]}\nAssistant:"
    assert [role for role, _ in second.messages] == ["user", "assistant", "user"]
    assert task.follow_up(second, "more") is None

    seen: list[str] = []

    def judge(text: str) -> str:
        seen.append(text)
        return "Weak, [[2]] at first; in the end: Rating: [[7.5]]"

    assert task.score(second, "An aloha.", judge=judge) == tasks.Score(7.5, "An aloha.")
    assert "focus on the assistant's answer to the second user question" in seen[0]
    assert all(part in seen[0] for part in ("Aloha!", "An aloha.", *first.metadata["turns"]))
    task.score(examples["mt_bench/111"], "42", judge=judge)
    assert "[The Start of Reference Answer]\n" + examples["mt_bench/111"].metadata["references"][0] in seen[1]
    assert task.score(first, "x", judge=lambda _: "fine") == tasks.Score(None, "x", "the judge gave no rating")


@pytest.mark.parametrize(
    ("verdict", "value"), [("[[7]]", 7), ("[[10]]", 10), ("[[11]]", None), ("[7]", None), ("", None)]
)
def test_ratings(verdict: str, value: float | None) -> None:
    assert mt_bench.rating(verdict) == value


@pytest.mark.parametrize("name", ["gsm8k", "math500", "mmlu_stem", "mbpp", "pocket_math"])
def test_other_tasks_have_one_turn(name: str) -> None:
    task = tasks.get(name)
    assert task.follow_up(task.load(limit=1)[0], "x") is None


# ------------------------------------------------------------------------------------------------- other data

ROWS = [{"question": "1 + 1?", "answer": "#### 2"}, {"question": "2 + 2?", "answer": "#### 4"}]


def test_files_replace_the_bundled_data(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, ROWS))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.csv").write_text('question,answer\n1 + 1?,#### 2\n"2 + 2?","#### 4"\n')
    loaded = [tasks.get("gsm8k").load(data=str(path)) for path in sorted(tmp_path.iterdir())]
    assert len(loaded) == 4
    assert all(examples == loaded[0] for examples in loaded)
    assert {example.reference for example in loaded[0]} == {"2", "4"}


def test_parquet_and_lists_in_csv(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert len(tasks.get("gsm8k").load(data=str(tmp_path / "a.parquet"))) == 2
    cell = json.dumps(["w", "x", "y", "z"]).replace('"', '""')
    (tmp_path / "m.csv").write_text(f'subject,question,choices,answer\nanatomy,What?,"{cell}",2\n')
    (example,) = tasks.get("mmlu_stem").load(data=str(tmp_path / "m.csv"))
    assert example.reference == "C"
    assert "(A) w (B) x (C) y (D) z" in example.prompt


def test_data_that_is_missing_or_malformed_is_named(tmp_path: Path) -> None:
    task = tasks.get("gsm8k")
    path = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="does not exist"):
        task.load(data=str(path))
    path.write_text('{"question": "q", "answer": "#### 1"}\n{"question": "q"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, row 2: field 'answer' is missing \(it has question\)"):
        task.load(data=str(path))
    path.write_text('{"question": "q", "answer": "about 3"}')
    with pytest.raises(ValueError, match="row 1: field 'answer' must end in"):
        task.load(data=str(path))
    path.write_text("{oops\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        task.load(data=str(path))
    path.write_text("")
    with pytest.raises(ValueError, match="has no rows"):
        task.load(data=str(path))
    path.write_text('{"task_id": 1, "text": "t", "code": "c", "test_list": ["assert 1"]}\n' * 2)
    with pytest.raises(ValueError, match="the id 'mbpp/1' appears twice"):
        tasks.get("mbpp").load(data=str(path))
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"must end in one of \.jsonl"):
        task.load(data=str(tmp_path / "a.xlsx"))
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="cannot be read"):
        task.load(data=str(tmp_path / "broken.jsonl.gz"))
    with pytest.raises(ValueError, match="neither a file"):
        task.load(data="not a name")


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    calls: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, str]]:
        calls.append((name, config, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(tasks.get("gsm8k").load(data="openai/gsm8k:main@train")) == 2
    assert len(tasks.get("gsm8k").load(data="openai/gsm8k")) == 2
    assert calls == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", None, "test")]
