"""The corpus: training documents, held-out documents of every domain, and the problems of `pocket_math`."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from fsgen.tasks import gsm8k, mbpp, mmlu_stem
from ladder import arithmetic, multiple_choice, overlap, stdlib_text, word_problems
from ladder.files import GSM8K_TRAIN, POCKET_MATH, TASK_DATA, WORK, read_jsonl, write_jsonl
from ladder.overlap import clean_marks
from ladder.word_problems import Problem

SEED = 20240612

POCKET_TRAIN, POCKET_HELD_OUT, POCKET_TEST = 63_000, 300, 500
ARITHMETIC_TRAIN, ARITHMETIC_HELD_OUT = 19_600, 200
CHOICE_TRAIN, CHOICE_HELD_OUT = 12_500, 250
GSM8K_HELD_OUT = 150
TUNED_GSM8K, TUNED_POCKET = 4_000, 6_000
_HELD_OUT_MODULES = 9  # of 256


@dataclass(frozen=True)
class Document:
    """A training or held-out text; `prompt` is the part that is given, `completion` the rest."""

    domain: str
    prompt: str
    completion: str

    @property
    def text(self) -> str:
        """Prompt and completion together."""
        return self.prompt + self.completion


def worked(domain: str, question: str, answer: str) -> Document:
    """A question with its worked answer in GSM8K's format."""
    return Document(domain, gsm8k.prompt(question), f" {answer}")


def _gsm8k() -> list[Document]:
    return [
        worked("gsm8k", row["question"].strip(), clean_marks(row["answer"]).strip()) for row in read_jsonl(GSM8K_TRAIN)
    ]


def _word_problems(problems: Iterable[Problem]) -> list[Document]:
    return [worked("word_problems", problem.question, problem.worked) for problem in problems]


def _multiple_choice(count: int) -> list[Document]:
    made = itertools.islice(multiple_choice.questions(SEED), count)
    return [
        Document(
            "multiple_choice",
            mmlu_stem.prompt(item.subject, item.question, item.choices),
            f" {item.reasoning} The answer is ({'ABCD'[item.answer]}).",
        )
        for item in made
    ]


def _worked_choice() -> list[Document]:
    """The few-shot examples of MMLU's dev split, one document each."""
    subjects = json.loads((TASK_DATA / "mmlu_stem_cot_prompts.json").read_text(encoding="utf-8"))
    documents: list[Document] = []
    marker = "A: Let's think step by step."
    for text in subjects.values():
        header, *examples = re.split(r"\n\n(?=Q: )", text.strip())
        for example in examples:
            before, _, after = example.rpartition(marker)
            documents.append(Document("multiple_choice", f"{header}\n\n{before}{marker}", after.rstrip()))
    return documents


def _mbpp(low: int, high: int) -> list[Document]:
    documents: list[Document] = []
    for row in read_jsonl(TASK_DATA / "mbpp.jsonl.gz"):
        if low <= row["task_id"] <= high:
            code = row["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
            documents.append(Document("mbpp", mbpp.prompt(row["text"], row["test_list"]), f"{code}\n[DONE]"))
    return documents


def _plain(domain: str, texts: Iterable[tuple[str, str]]) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents; a module is held out with its documentation, or not at all."""
    train: list[Document] = []
    held_out: list[Document] = []
    for name, text in texts:
        module = name.removeprefix("doc:").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        part = held_out if hashlib.sha256(module.encode()).digest()[0] < _HELD_OUT_MODULES else train
        part.append(Document(domain, "", text))
    return train, held_out


def _write(name: str, documents: Iterable[Document]) -> None:
    write_jsonl(WORK / "corpus" / f"{name}.jsonl.gz", (asdict(document) for document in documents))


def read_documents(name: str) -> list[Document]:
    """Documents of one part of the corpus: `train`, `held_out`, `dev` or `tuning`."""
    return [Document(**row) for row in read_jsonl(WORK / "corpus" / f"{name}.jsonl.gz")]


def pocket_math() -> list[Problem]:
    """The 500 bundled problems."""
    return list(itertools.islice(word_problems.problems("test", SEED + 1), POCKET_TEST))


def _split(documents: list[Document], held_out: int, seed: int) -> tuple[list[Document], list[Document]]:
    shuffled = random.Random(seed).sample(documents, len(documents))
    return shuffled[held_out:], shuffled[:held_out]


def build() -> None:
    """Write `train`, `held_out`, `dev` and `tuning` documents, the overlap report, and `pocket_math`."""
    if (WORK / "corpus" / "overlap.json").exists():
        print("corpus: done already")
        return
    write_jsonl(POCKET_MATH, ({"question": item.question, "answer": item.worked} for item in pocket_math()))
    train: dict[str, list[Document]] = {}
    held_out: dict[str, list[Document]] = {}
    train["gsm8k"], held_out["gsm8k"] = _split(_gsm8k(), GSM8K_HELD_OUT, SEED)
    pocket = _word_problems(itertools.islice(word_problems.problems("train", SEED), POCKET_TRAIN + TUNED_POCKET))
    train["word_problems"], tuning = pocket[:POCKET_TRAIN], pocket[POCKET_TRAIN:]
    dev = _word_problems(itertools.islice(word_problems.problems("dev", SEED + 2), 2 * POCKET_HELD_OUT))
    held_out["word_problems"], dev = dev[:POCKET_HELD_OUT], dev[POCKET_HELD_OUT:]
    sums = [
        worked("arithmetic", question, answer)
        for question, answer in arithmetic.problems(ARITHMETIC_TRAIN + ARITHMETIC_HELD_OUT, SEED)
    ]
    train["arithmetic"], held_out["arithmetic"] = _split(sums, ARITHMETIC_HELD_OUT, SEED)
    choices = _multiple_choice(CHOICE_TRAIN + CHOICE_HELD_OUT)
    train["multiple_choice"], held_out["multiple_choice"] = _split(choices, CHOICE_HELD_OUT, SEED)
    train["multiple_choice"] += _worked_choice()
    train["mbpp"], held_out["mbpp"] = _mbpp(601, 974), _mbpp(511, 600)
    train["python"], held_out["python"] = _plain("python", stdlib_text.sources())
    train["documentation"], held_out["documentation"] = _plain("documentation", stdlib_text.documentation())

    index = overlap.gram_index(overlap.test_texts())
    dropped: dict[str, dict[str, int]] = {}
    examples: dict[str, list[str]] = {}
    kept: list[Document] = []
    for domain, documents in train.items():
        for document in documents:
            found = overlap.shared(document.text, index)
            if not found:
                kept.append(document)
            for test, grams in found.items():
                counts = dropped.setdefault(domain, {})
                counts[test] = counts.get(test, 0) + 1
                examples.setdefault(test, []).append(grams[0])
    _write("train", kept)
    _write("held_out", itertools.chain.from_iterable(held_out.values()))
    _write("dev", dev)
    kept_gsm8k = [document for document in kept if document.domain == "gsm8k"][:TUNED_GSM8K]
    _write("tuning", kept_gsm8k + tuning)
    report = {
        "documents": {domain: len(documents) for domain, documents in train.items()},
        "dropped": dropped,
        "examples": {test: sorted(set(grams))[:20] for test, grams in examples.items()},
    }
    (WORK / "corpus" / "overlap.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"documents": report["documents"], "dropped": dropped}))
