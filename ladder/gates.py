"""What the graded ladder must show: its measurements, the gates, and their tables for `docs/ladder.md`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ladder import mix, plan, score
from ladder.files import RESULTS, fill
from ladder.plan import Job
from ladder.sizes import FAMILY

TASKS = {"chains": None, "facts": None, "lookup": None, "tiny_python": None, "pocket_math": None, "gsm8k": 200}
KEPT_TEXTS = 10
RISE, LARGEST, FAULTS, TASKS_THAT_RISE = 0.30, 0.97, 0.02, 3
GATES = ("rises", "apart", "open", "clean")

Measured = Mapping[str, Any]


def measure(job: Job, millions: int) -> dict[str, Any]:
    """Losses and accuracies of one model; kept beside its weights, with the first texts of each task."""
    path = job.folder(millions) / "measured.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    model, state = job.trained(millions), job.state(millions)
    found |= {"name": job.name, "size": job.size.name, "seed": job.seed, "parameters": job.size.parameters}
    found |= {"family": job.size.family, "tuned_from": job.base.name if job.base else None}
    found |= {"non_embedding_parameters": job.size.non_embedding_parameters, "tokens": millions * 1_000_000}
    found |= {"predicted_tokens": state["tokens"], "training_seconds": round(state["seconds"])}
    if "held_out_loss" not in found:
        found["held_out_loss"] = {
            domain: round(score.held_out_loss(model, documents), 4) for domain, documents in mix.held_out().items()
        }
    results, texts = found.setdefault("tasks", {}), found.setdefault("texts", {})
    for name, limit in TASKS.items():
        if name not in results:
            results[name], written = score.measure_task(model, name, limit)
            texts[name] = [text.text for text in written[:KEPT_TEXTS]]
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(f"table {job.name}: {name} {results[name]['accuracy']:.1%}", flush=True)
    return found


def by_size(models: Sequence[Measured]) -> list[list[Measured]]:
    """The models of each size of the ladder, the smallest size first: neither tuned ones, nor those of others."""
    models = [model for model in models if model["family"] == FAMILY and not model.get("tuned_from")]
    sizes = sorted({(model["parameters"], model["size"]) for model in models})
    return [[model for model in models if model["size"] == name] for _, name in sizes]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def difference(smaller: Sequence[Measured], larger: Sequence[Measured], task: str) -> tuple[float, float]:
    """Mean difference in accuracy between two sizes and its standard error, over the problems in pairs."""
    right = [[model["tasks"][task]["right"] for model in models] for models in (smaller, larger)]
    of_problem = [[_mean([int(one) for one in column]) for column in zip(*rows, strict=True)] for rows in right]
    gaps = [large - small for small, large in zip(*of_problem, strict=True)]
    mean = _mean(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    return mean, math.sqrt(variance / len(gaps))


def loss_gate(sizes: Sequence[Sequence[Measured]]) -> dict[str, bool]:
    """For each domain whether the held-out loss falls strictly with size, as means over the seeds."""
    found = {}
    for domain in sizes[0][0]["held_out_loss"]:
        means = [_mean([model["held_out_loss"][domain] for model in models]) for models in sizes]
        found[domain] = all(low < high for high, low in itertools.pairwise(means))
    return found


def task_gate(sizes: Sequence[Sequence[Measured]], task: str) -> dict[str, Any]:
    """One task's accuracies by size, its rise, its neighbours in the middle, and its worst share of faulty texts."""
    means = [_mean([model["tasks"][task]["accuracy"] for model in models]) for models in sizes]
    pairs = [difference(small, large, task) for small, large in itertools.pairwise(sizes)]
    middle = pairs[1:-1]
    faults = {
        kind: max(model["tasks"][task][kind] for models in sizes for model in models)
        for kind in ("no_answer", "cut", "loops")
    }
    return {
        "accuracy": means,
        "rise": means[-1] - means[0],
        "errors": [gap / error if error else 0.0 for gap, error in pairs],
        **faults,
        "rises": means[-1] - means[0] >= RISE,
        "apart": all(error and gap > 2 * error for gap, error in middle),
        "open": means[-1] < LARGEST,
        "clean": all(value < FAULTS for value in faults.values()),
    }


def _word(passed: bool) -> str:
    return "yes" if passed else "**no**"


def lines(models: Sequence[Measured]) -> Iterator[str]:
    """The tables and the gates in Markdown."""
    sizes = by_size(models)
    tasks = [task for task in TASKS if all(task in model["tasks"] for model in models)]
    yield "| model | parameters | " + " | ".join(f"`{task}`" for task in tasks) + " |"
    yield "|---|---:|" + "---:|" * len(tasks)
    for model in sorted(models, key=lambda model: (model["parameters"], model["name"])):
        cells = [f"{model['tasks'][task]['accuracy']:.1%}" for task in tasks]
        yield f"| `{model['name']}` | {model['parameters']:,} | " + " | ".join(cells) + " |"
    yield ""
    domains = list(sizes[0][0]["held_out_loss"])
    yield "| loss | " + " | ".join(domain.replace("_", " ") for domain in domains) + " |"
    yield "|---|" + "---:|" * len(domains)
    for group in sizes:
        cells = [f"{_mean([model['held_out_loss'][domain] for model in group]):.4f}" for domain in domains]
        yield f"| {group[0]['size'].removeprefix('pocket-')} (seeds: {len(group)}) | " + " | ".join(cells) + " |"
    yield "| falls strictly | " + " | ".join(_word(passed) for passed in loss_gate(sizes).values()) + " |"
    yield ""
    yield "| task | rise | neighbours differ by (standard errors) | no answer | cut | loops | meets the gates |"
    yield "|---|---:|---|---:|---:|---:|---|"
    for task in tasks:
        gate = task_gate(sizes, task)
        errors = ", ".join(f"{error:.1f}" for error in gate["errors"])
        faults = " | ".join(f"{gate[kind]:.1%}" for kind in ("no_answer", "cut", "loops"))
        failed = [word for word in GATES if not gate[word]]
        verdict = "yes" if not failed else "not: " + ", ".join(failed)
        yield f"| `{task}` | {gate['rise']:+.1%} | {errors} | {faults} | {verdict} |"


def table(millions: int) -> None:
    """Measure the models that are trained with so many tokens and print their tables and gates.

    They stay in `ladder/graded.json`; where none is trained here, what that file holds is printed.
    """
    models = [measure(job, millions) for job in plan.jobs() if job.done(millions)]
    if models:
        kept: dict[str, Any] = {"tokens_millions": millions, "models": models}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    else:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
        print(f"no model is trained with {millions} million tokens here; kept are those of {kept['tokens_millions']}")
    found = "\n".join(lines(kept["models"]))
    fill({"graded": found})
    print(found)
