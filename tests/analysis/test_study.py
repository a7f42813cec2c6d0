"""The analysis of a whole study, as Python and as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from benchmarks.analysis import RUNS, make_study
from fsgen.analysis.study import StudyAnalysis, analyze
from fsgen.analysis.traces import scan_traces
from tests.analysis.conftest import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    make_study(out, 30_000)
    return out


@pytest.fixture(scope="module")
def analysis(folder: Path) -> StudyAnalysis:
    return analyze(folder)


def test_what_is_made_up_is_found(analysis: StudyAnalysis, folder: Path) -> None:
    assert [run.run for run in analysis.runs] == [run.key for run in RUNS]
    for row, run in zip(analysis.summary, analysis.runs, strict=True):
        frame = scan_traces(folder, run.run).collect()
        assert row.tokens == len(frame)
        low, high = row.intervals["collaboration_frequency"]
        assert "seconds" not in row.intervals  # of a text they are a share of those of its batch
        assert row.collaboration_frequency is not None
        assert low < row.collaboration_frequency < high
        if row.router == "always":
            assert run.uncertainty is not None
            assert run.position is not None
            assert run.routers is not None
            assert run.uncertainty.tokens == len(frame)
            assert run.uncertainty.measures[0].auroc.value > 0.6
            assert run.position.matters is not None
            differs = (frame["draft_token"] != frame["target_token"]).mean()
            assert run.routers.collaboration_frequency == pytest.approx(differs)
            assert run.signs == (), "oracle is a measurement, not a way to decode"
        else:
            assert run.position is None
            assert [sign.sign for sign in run.signs] == ["too few", "too many", "too late"]
            assert run.signs[0].numbers["missed"].value > 0, "counted on the run that asked everywhere"
        assert run.published is not None
        assert run.published.frequency.ours is not None


def test_a_picture_a_task(analysis: StudyAnalysis) -> None:
    pictured = [run.run for run in analysis.runs if run.projection is not None]
    assert len(pictured) == 2
    assert pictured == ["gsm8k-oracle-middle", "mbpp-oracle-middle"], "the median frequency"


def test_findings_over_all_runs(analysis: StudyAnalysis) -> None:
    matter = sum(bool(run.position.matters) for run in analysis.runs if run.position is not None)
    assert matter <= 1, "in the made-up study position acts through uncertainty alone"
    assert f"in {matter} of 6 runs" in analysis.findings[0]
    assert any("too few" in finding for finding in analysis.findings)


def test_json_has_everything(analysis: StudyAnalysis, folder: Path, run: Run) -> None:
    status, out, _ = run("analyze", folder, "--json", "--no-pictures", "--calls", "0.25")
    assert status == 0
    found = json.loads(out)
    assert found.keys() == asdict(analysis).keys()
    assert len(found["runs"]) == len(RUNS)
    budgets = {(c["budget"], c["allowed"]) for c in found["runs"][0]["routers"]["choices"]}
    assert budgets == {("calls", 0.25), ("misses", 0.01), ("misses", 0.02), ("misses", 0.05)}
    assert all(run["projection"] is None for run in found["runs"])


def test_tables_have_every_run(analysis: StudyAnalysis, folder: Path, run: Run) -> None:
    status, out, _ = run("analyze", folder)
    assert status == 0
    for title in ("Frequency", "Position", "Uncertainty", "Routers", "Projections", "published", "Failure signs"):
        assert title in out
    assert out.count("max-prob:0.5") >= 4
    low, high = analysis.summary[0].intervals["collaboration_frequency"]
    assert f"{analysis.summary[0].collaboration_frequency:.3f} [{low:.3f}, {high:.3f}]" in out


def test_all_about_one_run(folder: Path, run: Run) -> None:
    status, out, _ = run("analyze", folder, "--run", "gsm8k-oracle-s", "--no-pictures")
    assert status == 0
    assert "gsm8k-oracle-small" in out
    assert "matters once the draft's uncertainty is known" in out
    assert "tokens 32-63" in out
    assert "calls <= 20 %" in out
    assert "mbpp" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "gsm8k-oracle"], "fits 3 runs: gsm8k-oracle-small, gsm8k-oracle-middle"),
        (["--run", "nothing"], "'nothing' is no run of this study: gsm8k-oracle-small"),
        (["--calls", "20"], "a budget of calls of 20 is impossible"),
    ],
)
def test_what_is_asked_wrongly(folder: Path, run: Run, arguments: list[str], message: str) -> None:
    status, out, err = run("analyze", folder, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_folders_that_are_no_study(tmp_path: Path, run: Run) -> None:
    assert "no study.json" in run("analyze", tmp_path)[2]
    assert "no study.json" in run("analyze", tmp_path / "nowhere")[2]
    make_study(tmp_path, 2_000)
    for file in tmp_path.glob("traces/*/*.parquet"):
        file.unlink()
    status, _, err = run("analyze", tmp_path)
    assert status == 2
    assert "no traces of the run 'gsm8k-oracle-small'" in err
    for file in tmp_path.glob("generations/*/*.parquet"):
        file.unlink()
    assert "no finished run" in run("analyze", tmp_path)[2]


def test_what_is_stored_again_is_analysed_alike(analysis: StudyAnalysis, folder: Path, tmp_path: Path) -> None:
    """The cut into parts, and the order of the rows, change nothing."""
    for name in ("study.json", "runs", "generations"):
        (tmp_path / name).symlink_to(folder / name)
    for run in RUNS:
        (tmp_path / "traces" / f"run={run.key}").mkdir(parents=True)
        frame = scan_traces(folder, run.key).collect().sample(fraction=1.0, shuffle=True, seed=1)
        for i, part in enumerate(frame.iter_slices(len(frame) // 3 + 1)):
            part.write_parquet(tmp_path / "traces" / f"run={run.key}" / f"part-{i:06d}-{i + 1:06d}.parquet")
    again = analyze(tmp_path, projections=False)
    for one, other in zip(analysis.runs, again.runs, strict=True):
        if one.position is not None:
            assert other.position is not None
            assert one.routers == other.routers
            assert [place.frequency for place in one.position.relative] == [
                place.frequency for place in other.position.relative
            ]
        assert one.published == other.published


def test_the_analysis_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys\nfrom fsgen.cli import main\n"
        f"try: main(['analyze', {str(folder)!r}, '--json', '--no-pictures'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, cwd=root)


def test_a_reader_of_the_tables_gets_the_same(folder: Path, analysis: StudyAnalysis) -> None:
    """The line that docs/study.md shows."""
    traces = pl.scan_parquet(folder / "traces" / "**" / "*.parquet", hive_partitioning=True)
    shares = traces.group_by("run").agg((pl.col("draft_token") != pl.col("target_token")).mean()).collect()
    for run, share in shares.iter_rows():
        row = next(row for row in analysis.summary if row.run == run)
        assert row.collaboration_frequency == pytest.approx(share)
