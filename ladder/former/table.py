"""The held-out table: `ladder/results.json` and the generated parts of `docs/ladder.md`."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ladder import overlap, score
from ladder.corpus import DOMAINS, Document, read_documents, worked
from ladder.files import PACKAGE, POCKET_MATH, REFERENCE, RESULTS, TASK_DATA, WORK, fill, read_jsonl, write_jsonl
from ladder.first_stage import RECIPE_VERSION
from ladder.former import export
from ladder.former.evaluate import completions_right
from ladder.overlap import clean_marks
from ladder.sizes import FAMILY, SIZES
from ladder.stream import stream_tokens


def tests() -> dict[str, list[Document]]:
    """The bundled problems that the table reports accuracy on."""
    files = {"pocket_math": POCKET_MATH, "gsm8k": TASK_DATA / "gsm8k_test.jsonl.gz"}
    return {
        name: [worked(name, row["question"], clean_marks(row["answer"])) for row in read_jsonl(path)]
        for name, path in files.items()
    }


def _load(name: str) -> tuple[Any, dict[str, Any]]:
    folder = PACKAGE / name
    if not folder.exists():
        folder = WORK / "exported" / name
    facts = json.loads((folder / "pocket.json").read_text(encoding="utf-8"))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), facts


def _keep_completions(name: str, test: str, completions: list[str]) -> None:
    """The largest tuned model's answers: the reference that proxy tuning tries to reach."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{test}/{number}", "completion": completion} for number, completion in enumerate(completions)]
    write_jsonl(REFERENCE / f"{name}.{test}.jsonl.gz", rows)


def measure(name: str) -> dict[str, Any]:
    """Held-out loss a domain and accuracy a test of one exported model, computed in float32."""
    model, facts = _load(name)
    documents = read_documents("held_out")
    facts["held_out_loss"] = {
        domain: round(score.held_out_loss(model, [item for item in documents if item.domain == domain], DOMAINS), 4)
        for domain in DOMAINS
    }
    facts["held_out_loss"]["all"] = round(score.held_out_loss(model, documents, DOMAINS), 4)
    facts["accuracy"] = {}
    facts["problems"] = {}
    for test, problems in tests().items():
        completions = [text.text for text in score.write(model, [problem.prompt for problem in problems], 200)]
        facts["accuracy"][test] = round(completions_right(completions, problems) / len(problems), 4)
        facts["problems"][test] = len(problems)
        if name == export.names()[-1]:
            _keep_completions(name, test, completions)
    return facts


def _families(models: list[dict[str, Any]]) -> list[str]:
    """The models of the other families, each after the Llama of its size."""
    lines = [
        "| model | parameters | without embedding | loss, all | loss, gsm8k | loss, word problems | `pocket_math` |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for size in SIZES:
        number = size.name.removeprefix(FAMILY)
        same = [model for model in models if model["name"] == model["family"] + number]
        for model in same if len(same) > 1 else []:
            loss = model["held_out_loss"]
            lines.append(
                f"| `{model['name']}` | {model['parameters']:,} | {model['non_embedding_parameters']:,} "
                f"| {loss['all']:.4f} | {loss['gsm8k']:.4f} | {loss['word_problems']:.4f} "
                f"| {model['accuracy']['pocket_math']:.1%} |"
            )
    return lines


def _markdown(results: dict[str, Any]) -> dict[str, str]:
    """The generated parts of the page by the name of their markers."""
    models = [model for model in results["models"] if model["family"] == FAMILY]
    accuracy = [
        "| model | parameters | without embedding | training tokens | `pocket_math` | GSM8K test |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    losses = [
        "| model | " + " | ".join(domain.replace("_", " ") for domain in (*DOMAINS, "all")) + " |",
        "|---|" + "---:|" * (len(DOMAINS) + 1),
    ]
    for model in models:
        right = model["accuracy"]
        accuracy.append(
            f"| `{model['name']}` | {model['parameters']:,} | {model['non_embedding_parameters']:,} "
            f"| {model['training_tokens']:,} | {right['pocket_math']:.1%} | {right['gsm8k']:.1%} |"
        )
        cells = [f"{model['held_out_loss'][domain]:.4f}" for domain in (*DOMAINS, "all")]
        losses.append(f"| `{model['name']}` | " + " | ".join(cells) + " |")
    corpus = ["| domain | tokens in the stream | share |", "|---|---:|---:|"]
    total = sum(results["stream_tokens"].values())
    for domain in DOMAINS:
        tokens = results["stream_tokens"][domain]
        corpus.append(f"| {domain.replace('_', ' ')} | {tokens:,} | {tokens / total:.1%} |")
    corpus.append(f"| all | {total:,} | 100.0% |")
    report = results["overlap"]
    found = ["| domain | documents | dropped | sharing a 13-gram with |", "|---|---:|---:|---|"]
    for domain, count in report["documents"].items():
        shared = ", ".join(f"{test} {hits}" for test, hits in sorted(report["dropped"].get(domain, {}).items()))
        dropped = report["dropped_documents"][domain]
        found.append(f"| {domain.replace('_', ' ')} | {count:,} | {dropped} | {shared or '-'} |")
    return {
        "families": "\n".join(_families(results["models"])),
        "accuracy": "\n".join(accuracy),
        "losses": "\n".join(losses),
        "corpus": "\n".join(corpus),
        "overlap": "\n".join(found),
    }


def table() -> None:
    """Measure what is not measured yet, then write the results and the page."""
    folder = WORK / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for name in export.names():
        path = folder / f"{name}.json"
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(measure(name), indent=1), encoding="utf-8")
            temporary.replace(path)
            print(f"table {name}: measured", flush=True)
        models.append(json.loads(path.read_text(encoding="utf-8")))
    results = {
        "recipe_version": RECIPE_VERSION,
        "stream_tokens": stream_tokens(),
        "models": models,
        "overlap": overlap.read_report(),
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fill(_markdown(results))
    print(_markdown(results)["accuracy"])
