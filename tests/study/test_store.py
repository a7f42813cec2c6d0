"""What is written holds after a crash, is small, and is read by anybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from fsgen.engine.trace import Trace, TraceBuffer
from fsgen.generation import Generation
from fsgen.methods.learned.features import rounded
from fsgen.metrics import count
from fsgen.study.cells import Prompt
from fsgen.study.records import Text, generation_table, stored_texts, trace_table
from fsgen.study.store import GENERATION_SCHEMA, TRACE_SCHEMA, Store
from fsgen.tasks import Score
from fsgen.types import Token


def written(texts: int, length: int, vocab: int, top: int, seed: int = 0) -> list[Text]:
    """Texts with the traces of two similar models: frequent tokens, few confident positions."""
    draw = torch.Generator().manual_seed(seed)
    frequent = -1.1 * torch.log(torch.arange(1, vocab + 1.0))[torch.randperm(vocab, generator=draw)]
    made = []
    for number in range(texts):
        sharpness = 3.0 * torch.rand(1, length, 1, generator=draw)
        common = frequent + sharpness * torch.randn(1, length, vocab, generator=draw)
        p = common + 0.5 * torch.randn(1, length, vocab, generator=draw)
        q = common + 0.5 * torch.randn(1, length, vocab, generator=draw)
        buffer, traces = TraceBuffer(), [Trace() for _ in range(length)]
        for j, trace in enumerate(traces):
            buffer.add(trace, "draft", p[0], j, (top, None))
            buffer.add(trace, "target", q[0], j, (top, None))
            buffer.compare(trace, p[0], j, q[0], j)
        buffer.settle()
        tokens = []
        for j, trace in enumerate(traces):
            accepted = trace["draft_token"] == trace["target_token"]
            source = "accepted" if accepted else "recovered"
            tokens.append(Token(j, trace["target_token"], "x", source, j, **trace))  # type: ignore[arg-type]
        ids = [token.id for token in tokens]
        stats = count(tokens, sampled=False, target_calls=length)
        generation = Generation("x" * length, ids, tokens, stats, "length", 1)
        made.append(Text(f"task/{number}", 1, Prompt("p", (1,)), generation, Score(1.0, "1")))
    return made


@pytest.mark.parametrize(("vocab", "texts"), [(2048, 16), (32_000, 4)])
def test_a_token_takes_at_most_120_bytes(vocab: int, texts: int, tmp_path: Path) -> None:
    length = 80
    store = Store(tmp_path)
    store.write_part(
        "run", 0, texts, trace_table(found := written(texts, length, vocab, top=10)), generation_table(found)
    )
    size = sum(file.stat().st_size for file in (tmp_path / "traces").rglob("*.parquet"))
    assert size / (texts * length) <= 120


def test_a_trace_comes_back(tmp_path: Path) -> None:
    texts = written(2, 5, 50, top=3)
    store = Store(tmp_path)
    store.write_part("run", 0, 2, trace_table(texts), generation_table(texts))
    found = store.traces("run")
    assert found.columns == TRACE_SCHEMA.names
    assert store.generations("run").columns == GENERATION_SCHEMA.names
    tokens = [token for text in texts if text.generation for token in text.generation.tokens]
    assert found["example"].to_list() == ["task/0"] * 5 + ["task/1"] * 5
    for row, token in zip(found.iter_rows(named=True), tokens, strict=True):
        for name in ("position", "source", "round", "draft_token", "target_token"):
            assert row[name] == getattr(token, name)
        assert row["token"] == token.id
        for name in ("draft_prob", "draft_margin", "draft_entropy", "target_prob", "target_entropy", "total_variation"):
            assert row[name] == np.float32(getattr(token, name)), "as exact as the models are"
        for side in ("draft", "target"):
            top = getattr(token, f"{side}_top")
            assert row[f"{side}_top_ids"] == [i for i, _ in top]
            assert row[f"{side}_top_probs"] == pytest.approx([p for _, p in top], rel=2**-11)


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    text = written(1, 1, 50, top=0)[0]
    assert text.generation is not None
    bare = Token(0, 7, "x", "trusted", 0, draft_token=7, draft_prob=0.5, draft_top=((7, 0.5), (8, 0.25)))
    generation = Generation("x", [7], [bare], count([bare], sampled=False), "eos", 1)
    row = trace_table([Text("a", 1, text.prompt, generation, None)]).to_pylist()[0]
    assert row["draft_top_ids"] == [7, 8]
    for name in ("target_token", "target_prob", "target_entropy", "total_variation", "target_top_ids", "draft_entropy"):
        assert row[name] is None
    failed = Text("a", 1, text.prompt, None, None, "ValueError: no")
    assert trace_table([failed]).num_rows == 0
    row = generation_table([failed]).to_pylist()[0]
    assert (row["error"], row["text"], row["score"], row["tokens"]) == ("ValueError: no", None, None, 0)


def test_texts_for_replay_come_back(tmp_path: Path) -> None:
    texts = written(2, 4, 50, top=0)
    store = Store(tmp_path)
    store.write_part("run", 0, 2, trace_table(texts), generation_table(texts))
    found = stored_texts(store.generations("run"), store.traces("run"))
    for text in texts:
        back = found[text.example, 1]
        assert text.generation is not None
        assert back.generation is not None
        assert back.generation.token_ids == text.generation.token_ids
        assert (back.generation.text, back.generation.stop_reason) == (text.generation.text, "length")
        assert back.score == text.score


def test_rounding_keeps_what_half_precision_keeps() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.1, 1 / 3, 1e-3, 0.9999], dtype=np.float32)
    assert rounded(values).tolist() == values.astype(np.float16).astype(np.float32).tolist()
    # and where half precision runs out of range, it goes on
    assert rounded(np.array([1e-9], dtype=np.float32))[0] == pytest.approx(1e-9, rel=2**-11)


def part(number: int) -> tuple[pa.Table, pa.Table]:
    texts = written(1, 3, 20, top=2, seed=number)
    return trace_table(texts), generation_table(texts)


def test_only_whole_parts_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.done("run") == set()
    for start, stop in ((0, 4), (4, 6), (8, 9), (12, 14), (13, 15)):
        store.write_part("run", start, stop, *part(start))
    # a part of which only the traces were written, and files that a crash left unfinished
    pq.write_table(part(6)[0], tmp_path / "traces/run=run/part-000006-000008.parquet")
    (tmp_path / "traces/run=run/.part-000009-000010.parquet.part").write_bytes(b"half")
    expected = {*range(6), 8, 12, 13}
    assert store.done("run") == expected, "of two parts with one example, one is taken"
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {
        f"part-{at}.parquet" for at in ("000000-000004", "000004-000006", "000008-000009", "000012-000014")
    }
    assert store.done("run") == expected


def test_the_texts_of_some_examples(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for start in (0, 4, 8):
        store.write_part("run", start, start + 4, *part(start))
    assert store.done("run") == set(range(12))
    assert [len(store.texts("run", *place)[0]) for place in ((0, 12), (4, 8), (3, 5), (8, 9))] == [3, 1, 2, 1]
    generations, traces = store.texts("run", 4, 8)
    assert traces.equals(pl.from_arrow(part(4)[0]))  # type: ignore[arg-type]
    assert generations["text"].to_list() == ["xxx"]


def test_one_writer(tmp_path: Path) -> None:
    with Store(tmp_path).locked(), pytest.raises(ValueError, match="another study"), Store(tmp_path).locked():
        pass
    with Store(tmp_path).locked():
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not a folder"), Store(tmp_path / "file").locked():
        pass


def test_clear_removes_only_what_studies_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_part("run", 0, 1, *part(0))
    store.write_record("run", {"a": 1})
    store.write_examples("task", [{"example": "task/0", "prompt": "?", "reference": None}])
    store.write_vocabulary("words", [{"token": 0, "text": b"a", "special": False}])
    store.write_study({"name": "x"})
    mine = [tmp_path / "notes.txt", tmp_path / "runs" / "notes.txt", tmp_path / "traces" / "mine" / "part-0.parquet"]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    store.clear()
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(mine)


def test_another_plan_takes_the_old_summary_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_study({"name": "x"})
    summary = tmp_path / "summary.json"
    summary.write_text("[]")
    store.write_study({"name": "x"})
    assert summary.exists()
    store.write_study({"name": "y"})
    assert not summary.exists()


def test_every_reader_reads_all_runs_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run in ("a", "b"):
        store.write_part(run, 0, 1, *part(0))
    frame = pl.scan_parquet(tmp_path / "traces/**/*.parquet", hive_partitioning=True).collect()
    assert frame["run"].to_list() == ["a"] * 3 + ["b"] * 3
    table = pyarrow.dataset.dataset(tmp_path / "traces", partitioning="hive").to_table()
    assert table["run"].to_pylist() == frame["run"].to_list()
    assert frame.drop("run").equals(pl.from_arrow(table).drop("run"))  # type: ignore[union-attr]
