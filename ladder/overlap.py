"""Overlap of word 13-grams between training text and the bundled tests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from ladder.files import POCKET_MATH, TASK_DATA, WORK, read_jsonl
from ladder.word_problems import NAMES

LENGTH = 13
_REPORT = WORK / "overlap.json"
_NAME = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")
_MARK = re.compile(r"<<[^<>]*>>")
_WORD = re.compile(r"[a-z0-9]+")


def clean_marks(text: str) -> str:
    """Remove GSM8K's calculator marks: `48/2 = <<48/2=24>>24` becomes `48/2 = 24`."""
    return _MARK.sub("", text)


def grams(text: str) -> Iterator[str]:
    """The word 13-grams of a text; words are lower-case runs of letters and digits."""
    words = _WORD.findall(text.lower())
    for start in range(len(words) - LENGTH + 1):
        yield " ".join(words[start : start + LENGTH])


def test_texts() -> dict[str, list[str]]:
    """The texts of every bundled test with a reference, `pocket_math` apart."""
    mbpp = [row for row in read_jsonl(TASK_DATA / "mbpp.jsonl.gz") if 11 <= row["task_id"] <= 510]
    return {
        "gsm8k": [
            f"{row['question']}\n{clean_marks(row['answer'])}" for row in read_jsonl(TASK_DATA / "gsm8k_test.jsonl.gz")
        ],
        "mmlu_stem": [
            f"{row['question']}\n{' '.join(row['choices'])}"
            for row in read_jsonl(TASK_DATA / "mmlu_stem_test.jsonl.gz")
        ],
        "mbpp": ["\n".join([row["text"], *row["test_list"], row["code"]]) for row in mbpp],
        "math500": [f"{row['problem']}\n{row['solution']}" for row in read_jsonl(TASK_DATA / "math500_test.jsonl.gz")],
    }


def gram_index(texts: dict[str, list[str]]) -> dict[str, set[str]]:
    """13-gram -> the tests that hold it."""
    index: dict[str, set[str]] = {}
    for test, documents in texts.items():
        for document in documents:
            for gram in grams(document):
                index.setdefault(gram, set()).add(test)
    return index


def shared(document: str, index: dict[str, set[str]]) -> dict[str, list[str]]:
    """test -> 13-grams that the document shares with it."""
    found: dict[str, list[str]] = {}
    for gram in grams(document):
        for test in index.get(gram, ()):
            found.setdefault(test, []).append(gram)
    return found


def without_names(text: str) -> str:
    """A word problem with every person's name made the same."""
    return _NAME.sub("N", text)


def report() -> None:
    """Check the finished training documents again, and write the report that `docs/ladder.md` shows.

    Raises:
        ValueError: a training document shares a 13-gram with a test, or is a `pocket_math` problem under other names.
    """
    from ladder.corpus import read_documents

    documents = read_documents("train") + read_documents("tuning")
    index = gram_index(test_texts())
    tests = [row["question"] for row in read_jsonl(POCKET_MATH)]
    pocket_index = gram_index({"pocket_math": tests})
    same = {without_names(question) for question in tests}
    kept: dict[str, int] = {}
    touched: set[str] = set()
    sharing = 0
    common: Counter[str] = Counter()
    for number, document in enumerate(documents):
        if found := shared(document.text, index):
            raise ValueError(f"training document {number} shares {next(iter(found.values()))[0]!r} with a test")
        if without_names(document.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")) in same:
            raise ValueError(f"training document {number} is a problem of pocket_math: {document.prompt!r}")
        if grams_found := shared(document.text, pocket_index).get("pocket_math"):
            sharing += 1
            touched.update(grams_found)
            common.update(set(grams_found))
    for document in read_documents("train"):
        kept[document.domain] = kept.get(document.domain, 0) + 1
    first = json.loads((WORK / "corpus" / "overlap.json").read_text(encoding="utf-8"))
    first["dropped_documents"] = {domain: total - kept[domain] for domain, total in first["documents"].items()}
    first["pocket_math"] = {
        "training_documents_sharing": sharing,
        "test_problems_sharing": sum(not touched.isdisjoint(grams(question)) for question in tests),
        "test_problems": len(tests),
        "same_problem_under_other_names": 0,
        "most_common": common.most_common(10),
    }
    _REPORT.write_text(json.dumps(first, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: first[name] for name in ("dropped", "dropped_documents", "pocket_math")}, indent=1))
