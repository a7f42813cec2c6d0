"""Own parts: by `module:Name` and by entry points, in Python, on the command line and in studies; or refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fsgen
from fsgen import plugins, tasks
from fsgen.backends.opening import open_checkpoint
from fsgen.methods.method import parse, parse_router
from fsgen.methods.own import own_fusion, own_router
from fsgen.study.config import parse_config
from fsgen.study.plan import make_plan
from tests.doubles import trio
from tests.engine import reference

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_parts.py"

PARTS = '''
from dataclasses import dataclass
from fsgen.backends.opening import open_checkpoint
from fsgen.methods.fusions import Fusion
from fsgen.methods.routers import Router
from fsgen.tasks.base import Score, Task
from fsgen.types import Example


class Reverse(Task):
    """Write a word backwards."""

    name, max_tokens, fields, bundled = "reverse", 8, ("word",), ""

    def load(self, limit=None, *, shots=None, data=None, seed=0):
        words = ["abc", "defg"][:limit]
        return [Example(word, f"{word} backwards is ", reference=word[::-1]) for word in words]

    def example(self, row, number, shots):
        raise NotImplementedError

    def extract(self, text):
        return text.strip() or None

    def score(self, example, text, *, judge=None):
        return Score(float(self.extract(text) == example.reference), self.extract(text))


def shelf(name, dtype, device):
    return open_checkpoint(f"pocket-{name}", dtype, device)


def broken(name, dtype, device):
    return 1 / 0 if name == "raise" else name


class NoRouter:
    pass


class Unfinished(Router):
    name = "unfinished"


class Numbers(Router):
    name = "numbers"

    def consult(self, logits, positions, seeds):
        return logits.sum(-1)


class Raises(Router):
    name = "raises"

    def consult(self, logits, positions, seeds):
        raise KeyError("oops")


@dataclass
class Mutable(Router):
    name = "mutable"

    def consult(self, logits, positions, seeds):
        return [True] * len(positions)


class Plain(Fusion):
    name = "plain-class"

    def __call__(self, target, draft, base):
        return target


@dataclass(frozen=True)
class Wide(Fusion):
    name = "wide"

    def __call__(self, target, draft, base):
        return target[..., :-1]


@dataclass(frozen=True)
class Undefined(Fusion):
    name = "undefined"

    def __call__(self, target, draft, base):
        return target * float("nan")
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with own parts, where the command runs, and a package that registers some."""
    site = tmp_path / "site"
    installed = site / "my_parts-1.0.dist-info"
    installed.mkdir(parents=True)
    shutil.copy(EXAMPLE, site)
    shutil.copy(EXAMPLE, tmp_path / "parts_here.py")
    (site / "my_parts.py").write_text(PARTS)
    (site / "bad_parts.py").write_text("import nothing_of_this_name\n")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[fsgen.routers]\nsurprise = own_parts:Surprise\ngone = bad_parts:Router\n\n"
        "[fsgen.fusions]\ncautious = own_parts:Cautious\n\n[fsgen.tasks]\nreverse = my_parts:Reverse\n\n"
        "[fsgen.backends]\nshelf = my_parts:shelf\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    caches = (plugins.registered, own_router, own_fusion, tasks._own)
    for each in caches:
        each.cache_clear()
    yield tmp_path
    for each in caches:
        each.cache_clear()
    for name in ("own_parts", "my_parts", "bad_parts", "parts_here"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["own_parts:Surprise", "surprise"])
def test_a_router(name: str) -> None:
    router: Any = parse_router(f"{name}:0.4")
    assert (router.share, str(router)) == (0.4, "own_parts:Surprise:0.4")
    members = trio(seed=3)
    written = fsgen.generate(members, "abc", "route", router=f"{name}:0.4", draft_tokens=4)[0]

    def consult(p: Any, position: int) -> bool:
        first, second = p.topk(2).values
        return bool(second > 0.4 * first) or position == 0

    expected, consulted = reference.routed(members, consult, members.tokenizer.encode("abc"), 128)
    assert written.token_ids == expected
    assert [token.consulted for token in written.tokens] == consulted
    whole = fsgen.generate(members, "abc", "speculative", router=f"{name}:0.4")[0]
    assert whole.token_ids == fsgen.generate(members, "abc", "plain")[0].token_ids


@pytest.mark.parametrize("name", ["own_parts:Cautious", "cautious"])
def test_a_fusion(name: str) -> None:
    method = parse(f"{name}:w=0.3")
    assert (method.name, method.fusion.w, method.adaptive) == (f"{name}:w=0.3", 0.3, True)  # type: ignore[attr-defined]
    members, prompt = trio(seed=3), [1, 2, 3]
    out: list[int] = []
    while len(out) < 20 and (not out or out[-1]):
        z = [reference.logits_of(members, role, [*prompt, *out]).log_softmax(-1) for role in ("target", "draft")]
        out.append(int((0.7 * z[0] + 0.3 * z[0].minimum(z[1])).argmax()))
    params = fsgen.SamplingParams(max_tokens=20)
    assert fsgen.generate(members, prompt, f"{name}:w=0.3", sampling=params)[0].token_ids == out
    with pytest.raises(ValueError, match="has no parameter 'v'; it has w, draft_tokens"):
        parse(f"{name}:v=1")
    if ":" not in name:
        assert parse(f"route:fusion={name}").fusion.name == "own_parts:Cautious"


@pytest.mark.parametrize("name", ["my_parts:Reverse", "reverse"])
def test_a_task_and_the_rest_in_a_study(name: str) -> None:
    assert tasks.get(name).score(tasks.get(name).load(limit=1)[0], " cba").value == 1.0
    assert "reverse" in tasks.names()
    config = parse_config(
        f"tasks: [{{name: '{name}', limit: 2}}]\npairs: [{{draft: pocket-0.25m, target: 'shelf:0.6m'}}]\n"
        "methods: [route, cautious]\nrouters: ['surprise:0.4']\n"
    )
    cells = make_plan(config).cells
    assert {cell.task.task.name for cell in cells} == {"reverse"}
    assert "own_parts:Surprise:0.4" in {cell.router for cell in cells}
    with pytest.raises(ValueError, match="takes no argument, but '5' was given"):
        tasks.get(f"{name}:5")


@pytest.mark.parametrize("name", ["my_parts:shelf", "shelf"])
def test_a_backend(name: str) -> None:
    assert open_checkpoint(f"{name}:0.25m").name == "pocket-0.25m"
    written = fsgen.generate(fsgen.load(target=f"{name}:0.25m"), "a", "plain", sampling=fsgen.SamplingParams(5))
    expected = fsgen.generate(fsgen.load(target="pocket-0.25m"), "a", "plain", sampling=fsgen.SamplingParams(5))
    assert written[0].text == expected[0].text


def test_the_command_line_takes_them(run: Any) -> None:
    options = ["--draft", "pocket-0.25m", "--target", "shelf:0.6m", "--max-tokens", "5"]
    assert run("generate", "a", *options, "--method", "route", "--router", "parts_here:Surprise:0.4").status == 0
    answer = run("generate", "a", *options, "--router", "my_parts:Numbers")
    assert answer.status == 2
    assert answer.err.startswith("error: router 'my_parts:Numbers' breaks the protocol: consult gives a list of one")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("router", "my_parts:NoRouter", "is no subclass of fsgen.methods.routers.Router"),
        ("router", "my_parts:Unfinished", "does not define consult"),
        ("router", "my_parts:Raises", "breaks the protocol: KeyError: 'oops'"),
        ("router", "my_parts:Mutable", "unhashable"),
        ("router", "my_parts:Nothing", "the module 'my_parts' has no 'Nothing'"),
        ("router", "my_parts:Numbers:3", "takes no argument, but '3' was given"),
        ("router", "bad_parts:Router", "cannot be imported: No module named 'nothing_of_this_name'"),
        ("router", "gone", "cannot be imported"),
        ("router", "no_such_module:Name", "unknown router 'no_such_module'; there are always"),
        ("method", "my_parts:Plain", "it is a frozen dataclass with a `name`"),
        ("method", "my_parts:Wide", "logits of the target's shape"),
        ("method", "my_parts:Undefined", "without NaN"),
        ("method", "my_parts:NoRouter", "is no subclass of fsgen.methods.fusions.Fusion"),
        ("method", "route:fusion=nothing", "unknown fusion 'nothing'"),
        ("task", "my_parts:NoRouter", "is no subclass of fsgen.tasks.base.Task"),
        ("task", "no_such_module:Name", "unknown task 'no_such_module:Name'; choose from"),
        ("model", "my_parts:broken:x", "it gives no fsgen.backends.checkpoint.Checkpoint"),
        ("model", "my_parts:broken:raise", "ZeroDivisionError"),
        ("model", "my_parts:PARTS", "has no 'PARTS'"),
    ],
)
def test_what_breaks_the_protocol_is_refused_by_name(kind: str, name: str, message: str) -> None:
    use: Any = {"router": parse_router, "method": parse, "task": tasks.get, "model": open_checkpoint}[kind]
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        use(name)
    assert message in str(refused.value)
