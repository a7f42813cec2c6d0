"""A finished study of tiny models, whose texts and names try to be more than text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from fsgen.report import write
from fsgen.study import run_study
from tests.study.ladder import save_ladder, small_study, write_study

HOSTILE = '</SCRIPT><script>window.broken = 1</script><img src=x onerror="window.broken = 2">'


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; the texts of some tokens, a question and the study's name are hostile."""
    root = tmp_path_factory.mktemp("report")
    questions = root / "questions.jsonl"
    rows = [{"question": f"{HOSTILE if i == 2 else 'What is'} {i} + 1?", "answer": f"#### {i + 1}"} for i in range(6)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study = small_study(save_ladder(root / "models"), str(questions), name=f"tiny {HOSTILE}")
    study["tasks"] = [{"name": "pocket_math", "max_tokens": 24, "data": str(questions)}]
    out = root / "out"
    run_study(write_study(root / "study.yaml", study), out, console=Console(file=io.StringIO()))
    (vocabulary,) = (out / "vocabularies").glob("*.parquet")
    table = pl.read_parquet(vocabulary)
    written = pl.concat([pl.read_parquet(file) for file in out.glob("traces/run=*oracle*/*.parquet")])
    letters = table.filter(pl.col("text").is_in([bytes([code]) for code in range(33, 127)]))
    (often,) = written.join(letters, on="token")["token"].mode().sort().head(1)
    hostile = pl.when(pl.col("token") == often).then(pl.lit(HOSTILE.encode())).otherwise("text")
    table.with_columns(text=hostile).write_parquet(vocabulary)
    return out


@pytest.fixture(scope="session")
def report(folder: Path) -> Path:
    """Its report."""
    return write(folder)
