"""A study whose target stands behind a server has the tables of the local study, whatever happens to the server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from fsgen.analysis.prediction import read_pairs
from fsgen.analysis.study import analyze
from fsgen.backends import load
from fsgen.report import write
from fsgen.serve.limits import Limits
from fsgen.study import run_study
from tests.serve.conftest import serving
from tests.servers import Fault, TestServer, answers
from tests.study.tables import TIMES

ROUNDED = ("target_prob", "target_entropy", "total_variation", "target_top_probs")


def study(ladder: dict[str, str], data: str, target: str, **changes: Any) -> dict[str, Any]:
    pairs = [{"draft": ladder["small"], "target": target}, {"draft": ladder["middle"], "target": target}]
    tasks = [{"name": "pocket_math", "limit": 8, "max_tokens": 6, "data": data}]
    return {
        "name": "remote",
        "batch_size": 4,
        "candidates": 3,
        "tasks": tasks,
        "pairs": pairs,
        "methods": ["oracle"],
    } | changes


def run(study: dict[str, Any], out: Path) -> dict[tuple[str, str, str], Any]:
    """Runs it: of each run of the oracle, by draft and method, its generations, its traces and its record."""
    from fsgen.files import read_json

    result = run_study(study, out, console=Console(file=io.StringIO()))
    assert not result.failed, result.failed
    found: dict[tuple[str, str, str], Any] = {}
    for file in sorted((out / "runs").glob("*.json")):
        record = read_json(file)
        key = record["members"].get("draft", {"name": "-"})["name"], record["method"]["name"]
        tables = (
            pl.concat(pl.read_parquet(part) for part in sorted((out / table / f"run={record['run']}").iterdir()))
            for table in ("generations", "traces")
        )
        found[*key, record["members"]["target"]["name"].rpartition(":")[2].rpartition("/")[2]] = (*tables, record)
    return found


def same(local: Any, remote: Any, full: bool) -> None:
    """Texts, scores and counts are equal, probabilities to what is rounded; the rest lies within its bounds."""
    assert local.keys() == remote.keys()
    for key, (texts, traces, record) in local.items():
        texts_there, traces_there, record_there = remote[key]
        clocked = [*TIMES, "variation", "compared"]
        assert texts.drop(clocked).equals(texts_there.drop(clocked)), key
        plain = [name for name in traces.columns if name not in ROUNDED]
        assert traces.select(plain).equals(traces_there.select(plain)), key
        assert record["engine"] == record_there["engine"]
        for name in ROUNDED[:1] if not full else ROUNDED[:3]:
            a, b = (table[name].to_list() for table in (traces, traces_there))
            assert [x is None for x in a] == [x is None for x in b], (key, name)
            assert [x for x in a if x is not None] == pytest.approx([x for x in b if x is not None], abs=2e-5)
        if full or key[2] != "big":
            assert "target_entropy_bounds" not in traces_there.columns
            continue
        assert traces_there["target_entropy"].is_null().all()
        assert traces_there["total_variation"].is_null().all()
        for name in ("target_entropy", "total_variation"):
            for value, bounds in zip(traces[name], traces_there[f"{name}_bounds"], strict=True):
                assert (value is None) == (bounds is None)
                assert value is None or bounds[0] - 2e-5 <= value <= bounds[1] + 2e-5


def called_big(found: dict[tuple[str, str, str], Any]) -> dict[tuple[str, str, str], Any]:
    """The runs of a local study, whose target goes by the name that it has at a server."""
    return {(draft, method, target.replace("large", "big")): it for (draft, method, target), it in found.items()}


@pytest.fixture(scope="module")
def local(ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return called_big(run(study(ladder, data, ladder["large"]), tmp_path_factory.mktemp("local")))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("top", [5, 258])
def test_the_tables_are_those_of_the_local_study(
    kind: str, top: int, ladder: dict[str, str], data: str, tmp_path: Path, local: Any
) -> None:
    with TestServer(answers(kind, ladder["large"], most=258)) as server:
        remote = run(study(ladder, data, f"{kind}:{server.url}#big?top={top}"), tmp_path)
        same(local, remote, full=top == 258)
        written = [
            body
            for path, body in server.bodies
            if (body.get("max_tokens") or body["sampling_params"]["max_new_tokens"]) == 6
        ]
    assert len(written) == 2 + 8  # the probe's two, and each text once: both drafts replay the same
    for name in ("summary.json", "study.json"):
        assert server.url not in (tmp_path / name).read_text() or name == "study.json"


@pytest.mark.parametrize(("kind", "top"), [("vllm", 258), ("openai", 20)])
def test_the_target_is_behind_our_own_server(
    kind: str, top: int, ladder: dict[str, str], data: str, tmp_path: Path, local: Any
) -> None:
    with serving(load(target=ladder["large"]), "plain", Limits(rows=4, logprobs=258), name="big") as server:
        remote = run(study(ladder, data, f"{kind}:{server.url}#big?top={top}"), tmp_path)
    same(local, remote, full=top == 258)


def test_analysis_and_report_of_a_remote_study(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    with TestServer(answers("vllm", ladder["large"])) as server:
        run(study(ladder, data, f"vllm:{server.url}#big?top=5"), tmp_path)
    assert len(analyze(tmp_path, projections=False).runs) >= 2
    assert "vllm:big" in write(tmp_path).read_text()


def test_runs_without_entropies_are_left_out_of_a_fit(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    with TestServer(answers("vllm", ladder["large"])) as server:
        remote = {"draft": ladder["small"], "target": f"vllm:{server.url}#big?top=5&parameters=9"}
        both = [remote, {"draft": ladder["small"], "target": ladder["middle"]}]
        run(study(ladder, data, "", pairs=both), tmp_path)
    with pytest.warns(RuntimeWarning, match=r"left out: entropies or sizes are not known of .* -> vllm:big"):
        (pair,) = read_pairs(tmp_path)
    assert pair.target == ladder["middle"]
    runs = [file.stem for file in (tmp_path / "runs").glob("*.json") if "vllm:big" in file.read_text()]
    with pytest.raises(ValueError, match=r"no run that a prediction can be fitted to: entropies or sizes .* vllm:big"):
        read_pairs(tmp_path, runs)


def test_a_draft_behind_a_server(ladder: dict[str, str], data: str, tmp_path: Path) -> None:
    """Both may be remote: the draft only reads the target's texts."""
    config = study(ladder, data, ladder["large"])
    config["pairs"] = config["pairs"][:1]
    local = run(config, tmp_path / "local")
    with TestServer(answers("sglang", ladder["small"], name="small")) as server:
        config["pairs"] = [{"draft": f"sglang:{server.url}#small?top=5", "target": ladder["large"]}]
        remote = run(config, tmp_path / "remote")
        assert len(analyze(tmp_path / "remote", projections=False).runs) >= 1
    (here,) = (value for key, value in local.items() if key[1] == "oracle")
    (there,) = (value for key, value in remote.items() if key[1] == "oracle")
    assert here[0]["differing"].to_list() == there[0]["differing"].to_list()
    assert here[1]["draft_token"].to_list() == there[1]["draft_token"].to_list()
    assert here[1]["draft_margin"].to_list() == pytest.approx(there[1]["draft_margin"].to_list(), abs=2e-5)


def faulty(kind: str) -> Fault:
    """Every third request after the probe goes wrong."""
    faults: dict[str, tuple[str, Any]] = {
        "500": ("status", (500, {})),
        "429": ("status", (429, {"Retry-After": "0.05"})),
        "503": ("status", (503, {})),
        "reset": ("reset", None),
        "half": ("half", None),
        "slow": ("slow", 0.2),
    }
    return lambda number, path: faults[kind] if number > 9 and number % 3 == 0 else None


@pytest.mark.parametrize("kind", ["500", "429", "503", "reset", "half", "slow"])
def test_faults_cost_time_and_nothing_else(
    kind: str, ladder: dict[str, str], data: str, tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsgen.backends.remote.http.FIRST_WAIT", 0.01)
    with TestServer(answers("vllm", ladder["large"], most=258), faulty(kind)) as server:
        remote = run(study(ladder, data, f"vllm:{server.url}#big?top=258"), tmp_path)
    same(local, remote, full=True)


def test_a_study_goes_on_where_its_server_was_away(
    ladder: dict[str, str], data: str, tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails and not its texts; started again, at another port, it ends with the same tables."""
    monkeypatch.setattr("fsgen.backends.remote.http.FIRST_WAIT", 0.01)
    said = answers("vllm", ladder["large"], most=258)

    def gone(number: int, path: str) -> tuple[str, Any] | None:
        return ("reset", None) if number > 13 else None

    with TestServer(said, gone) as server:
        name = f"vllm:{server.url}#big?top=258&patience=0.2"
        result = run_study(study(ladder, data, name), tmp_path, console=Console(file=io.StringIO()))
        assert result.failed
        assert all("has not answered" in reason or "target alone" in reason for reason in result.failed.values())
        assert result.failed_texts == 0
    with TestServer(said) as server:
        remote = run(study(ladder, data, f"vllm:{server.url}#big?top=258"), tmp_path)
    same(local, remote, full=True)
