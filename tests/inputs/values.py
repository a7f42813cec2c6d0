"""Words that are wrong wherever they stand, by what is wanted there."""

from __future__ import annotations

Case = tuple[str, ...]
HUGE = "9" * 400
OUTPUT = '{"prompt": "a", "outputs": [{"text": " b", "token_ids": [3]}]}\n'
STUDY = "tasks: [gsm8k]\npairs: [{draft: a, target: b}]\nmethods: [oracle]\n"

NO_NUMBERS = ("", "x", "1.5.2", "0x1g", "--", "1e", "٣x", "\udcff", "\x1b[31m")
NO_COUNTS = (*NO_NUMBERS, "1.5", "nan", "inf", "1e3", "-1", HUGE * 12)
NO_SHARES = (*NO_NUMBERS, "nan", "inf", "-inf", "-1", "-1e-300", "1e308", HUGE)
NO_METHODS = (
    "", ":", "guess", "GUESS:", "plain:alpha=1", "contrastive:beta", "contrastive:beta=", "contrastive:=1",
    "contrastive:beta=1,beta=2", "contrastive:beta=1e308", "contrastive:beta=-1", "contrastive:beta=nan",
    "contrastive:alpha=0", "contrastive:alpha=1e-400", "contrastive:alpha=2", "proxy:alpha=inf", "proxy:alpha=1e300",
    "ensemble:w=-1e300", "ensemble:w=much", "mixture:w=0", "mixture:w=1", "mixture:w=nan", "route:rollback=0",
    "route:rollback=2", "route:rollback=x", "route:fusion=x", "speculative:verifier=x", "speculative:ngram=-1",
    "speculative:ngram=1.5", "speculative:ngram=inf", "speculative:ngram=1e300", "speculative:draft_tokens=1e3",
    f"speculative:draft_tokens={HUGE}", "speculative:fusion=target", "spec\0ulative", "\udcff",
)  # fmt: skip
NO_ROUTERS = (
    "", ":", "guess", "always:1", "never:x", "max-prob", "max-prob:", "max-prob:x", "max-prob:2", "max-prob:-1",
    "max-prob:nan", "max-prob:1e400", "margin:2", "margin:", "entropy:inf", "entropy:-1", "entropy:nan", "random:1.1",
    "random:", "position:", "position:5", "position:5-5", "position:9-3", "position:-1-3", "position:a-b",
    f"position:{HUGE * 12}-1", "learned:", "learned:nothing.npz", "learned:nothing.npz@1", "learned:~nobody7/x.npz",
    "learned:@", "learned:.", "learned:/dev/null", "learned:\0", f"learned:{'x' * 5000}", "\udcff",
)  # fmt: skip
NO_MODELS = ("", "pocket-9t", "nothing/at/all", ".", "/dev/null", "~nobody7/x", "ngram:0", "ngram:x",
             f"ngram:{HUGE}", "x" * 5000, "a\0b", "\udcff", "../..", "{file}", "{empty}", "{broken}")  # fmt: skip
NO_DTYPES = ("", "int3", "float64", "FLOAT32 ", "float32,float16", "__class__", "\udcff")
NO_DEVICES = ("", "abacus", "cuda:x", "cuda:-1", "cuda:999", "cpu:x", "meta", "cpu\n", "\udcff")
