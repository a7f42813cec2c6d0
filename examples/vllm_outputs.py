"""Makes a target's texts of a task with vLLM, offline, for `fsgen import vllm-outputs`.

Needs a GPU and vLLM, neither of which the tests have: this script was not run here. It is written from vLLM's
documentation of offline inference, `SamplingParams` and `RequestOutput`.

    python examples/vllm_outputs.py Qwen/Qwen2.5-72B --task gsm8k --limit 200 --gpus 8 > outputs.jsonl
    fsgen import vllm-outputs outputs.jsonl --tokenizer Qwen/Qwen2.5-0.5B --out outputs/72b

A study then has `target: "recorded:outputs/72b"`, with the same task and limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fsgen import tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as vLLM names it")
    parser.add_argument("--task", default="gsm8k")
    parser.add_argument("--limit", type=int, help="examples, at most")
    parser.add_argument("--max-tokens", type=int, help="of a text; those of the task if not given")
    parser.add_argument("--top", type=int, default=20, help="log-probabilities at each position")
    parser.add_argument("--gpus", type=int, default=1)
    options = parser.parse_args()
    vllm: Any = __import__("vllm")

    task = tasks.get(options.task)
    model = vllm.LLM(options.model, tensor_parallel_size=options.gpus, max_logprobs=max(20, options.top))
    tokenizer = model.get_tokenizer()
    prompts = [{"prompt_token_ids": tokenizer.encode(each.prompt)} for each in task.load(options.limit)]
    sampling = vllm.SamplingParams(
        temperature=0,
        repetition_penalty=1.0,
        max_tokens=options.max_tokens or task.max_tokens,
        stop=list(task.stop) or None,
        logprobs=options.top,
    )
    for output in model.generate(prompts, sampling):
        print(json.dumps(as_line(output)), file=sys.stdout)


def as_line(output: Any) -> dict[str, Any]:
    """What `fsgen import` reads of a `RequestOutput`."""
    return {
        "prompt_token_ids": list(output.prompt_token_ids),
        "outputs": [
            {
                "token_ids": list(text.token_ids),
                "finish_reason": text.finish_reason,
                "logprobs": [{str(i): {"logprob": e.logprob} for i, e in top.items()} for top in text.logprobs],
            }
            for text in output.outputs
        ],
    }


if __name__ == "__main__":
    main()
