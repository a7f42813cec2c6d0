"""How an experiment is configured, run, resumed and shown, whatever it asks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console

from fsgen import cli
from fsgen.analysis.answers import Answer, Chart, Point, Table, from_dict, read_answers
from fsgen.analysis.intervals import Estimate
from fsgen.experiments import configured, names, run_experiment, scaling
from fsgen.experiments.base import Experiment, NoOptions, experiment
from fsgen.experiments.config import words
from fsgen.experiments.lab import Lab
from fsgen.experiments.run import _limited
from fsgen.files import write_json
from fsgen.report import write
from fsgen.study.config import Keys, StudyConfig
from fsgen.study.plan import make_plan
from fsgen.study.progress import Reporter
from fsgen.study.store import Store
from tests.experiments.conftest import Ask


@pytest.fixture
def mine(ask: Ask, ladder: dict[str, str], tmp_path: Path) -> Path:
    """A file of the scaling experiment on the tiny ladder."""
    config = ask("scaling", max_tokens=5, pairs=[{"ladder": [*ladder.values()]}], methods=["oracle", "contrastive"])
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return path


def answer(**changes: Any) -> Answer:
    """An answer with one of everything."""
    given: dict[str, Any] = {
        "statement": "It <b>rises</b> by 0.2 [0.1, 0.3].",
        "holds": True,
        "overturn": "A fall.",
        "numbers": {"rise": Estimate(0.2, 0.1, 0.3), "one text": Estimate(0.5)},
        "charts": (
            Chart("lines", "Lines", "They rise.", "A line each.", "size", "share", (Point(1, 0.1), Point(10, 0.3))),
            Chart(
                "bars", "Bars", "Two.", "A bar each.", "part", "share", kind="bar", series="draft",
                points=tuple(Point(x, 0.2, 0.1, 0.4, series, "t") for x in ("first", "last") for series in "ab"),
            ),
        ),
        "tables": (Table("t", "A table", "Rows.", ("name", "value"), (("x", 1.0), ("y", None))),),
        "remarks": ("Only two sizes.",),
    }  # fmt: skip
    return Answer(**given | changes)


def test_every_experiment_has_its_file_and_its_module() -> None:
    assert names()
    for name in names():
        config = configured(name)
        assert config.experiment == name
        assert config.title
        assert config.question.endswith("?")
        known = experiment(name)
        known.checked(config)
        assert set(known.options.model_fields) >= set(config.options)


def test_the_docs_tell_of_every_experiment() -> None:
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert [name for name in names() if f"\n### {name}\n" not in text] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("experiment: scaling\nstudies: {}", "studies: unknown key"),
        ("experiment: other", "is for the experiment 'other', not 'scaling'"),
        ("title: Mine", "experiment: missing"),
        ("- a", "is not a mapping with keys such as experiment, study and options"),
        ("experiment: [", "is not YAML"),
        ("experiment: scaling\nstudy: {tasks: [gsm8k]}", "the study has no pairs"),
    ],
)
def test_faults_of_a_configuration(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.yaml") as error:
        configured("scaling", path)
    assert fault in str(error.value)


def test_unknown_names_and_options_come_before_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown experiment 'skaling': choose one of .*scaling"):
        configured("skaling")
    with pytest.raises(ValueError, match="is not a file"):
        configured("scaling", tmp_path / "none.yaml")
    wrong = configured("scaling").model_copy(update={"options": {"speed": 3}})
    with pytest.raises(ValueError, match="speed: unknown key"):
        run_experiment("scaling", wrong, tmp_path / "out")
    with pytest.raises(ValueError, match="limit=0"):
        run_experiment("scaling", None, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()


def test_it_answers_resumes_and_is_reported(
    mine: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three pairs are no set of four: both methods are measured, and the laws are refused by name.
    with pytest.raises(ValueError, match="4 pairs that a fit needs"):
        run_experiment("scaling", mine, tmp_path / "out", console=quiet)
    runs = sorted(file.name for file in (tmp_path / "out" / "runs").iterdir())
    assert runs

    def estimate(points: pl.DataFrame) -> Answer:
        assert len(points) == 6
        return answer()

    monkeypatch.setattr(scaling, "EXPERIMENT", replace(scaling.EXPERIMENT, estimate=estimate))
    monkeypatch.setattr("fsgen.study.worker.generate", lambda *_, **__: pytest.fail("nothing is left to write"))
    few = run_experiment("scaling", mine, tmp_path / "out", console=quiet, limit=10**6)
    limits = [task["limit"] for task in few.config["study"]["tasks"]]
    found = run_experiment("scaling", mine, tmp_path / "out", console=quiet)
    assert limits == [task.get("limit", 10**6) for task in found.config["study"]["tasks"]]
    assert found.title == configured("scaling").title
    assert found.config["study"]["methods"] == [{"name": "oracle"}, {"name": "contrastive"}]
    assert read_answers(tmp_path / "out") == [from_dict(json.loads(json.dumps(found.as_dict())))]
    page = write(tmp_path / "out").read_text(encoding="utf-8")
    assert "It &lt;b&gt;rises&lt;/b&gt; by 0.2" in page
    assert found.question in page
    for anchor in ("scaling-lines-0", "scaling-bars-0", 'id="scaling-t"', 'id="scaling-numbers"'):
        assert anchor in page


def test_the_stored_configuration_has_the_limit_that_was_run() -> None:
    tasks = [{"name": "a", "limit": 64}, {"name": "b", "limit": 2}, {"name": "c"}]
    study = {"tasks": tasks, "grids": [{"tasks": [{"name": "d", "limit": 9}]}, {"pairs": []}]}
    found = _limited(copy.deepcopy({"study": study}), 4)["study"]
    assert [task["limit"] for task in found["tasks"]] == [4, 2, 4]
    assert found["grids"] == [{"tasks": [{"name": "d", "limit": 4}]}, {"pairs": []}]
    assert _limited({"study": study}, None) == {"study": study}
    assert _limited({"options": {}}, 4) == {"options": {}}


def lab_in(folder: Path, quiet: Console, study: StudyConfig | None = None) -> Lab:
    folder.mkdir(parents=True, exist_ok=True)
    return Lab(Store(folder), "tried", study, Reporter(quiet))


def test_a_table_is_measured_once(tmp_path: Path, quiet: Console) -> None:
    made: list[int] = []

    def make(value: int) -> Callable[[], pl.DataFrame]:
        def measured() -> pl.DataFrame:
            made.append(value)
            return pl.DataFrame({"value": [value]})

        return measured

    for _ in range(2):
        lab = lab_in(tmp_path, quiet)
        assert lab.table("v", {"at": 1}, make(1))["value"].to_list() == [1]
        assert lab.table("v", {"at": 2}, make(2))["value"].to_list() == [2]
    assert made == [1, 2]


def test_studies_of_one_folder_share_their_runs(ask: Ask, tmp_path: Path, quiet: Console) -> None:
    lab = lab_in(tmp_path, quiet, ask("scaling", name="first", limit=3, max_tokens=4).study)
    first = lab.study()
    second = lab.study(lab.varied(name="second", routers=["never"], methods=["route"]))
    again = lab.study()
    assert [row.run for row in first.rows] == [row.run for row in again.rows] != [row.run for row in second.rows]
    assert set(first.alone[first.rows[0].run]) == {"draft", "target"}
    assert len(first.texts(first.rows[0].run)) == 3
    assert first.traces(first.rows[0].run).collect()["differs"].null_count() == 0
    listed = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert [row["run"] for row in listed["rows"]] == [first.rows[0].run, second.rows[0].run]
    assert set(listed["config"]) == {"first", "second"}


def test_a_study_that_fails_stops_the_experiment(
    ask: Ask, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("the weights are gone")

    monkeypatch.setattr("fsgen.study.models.LoadedModels.members", fails)
    with pytest.raises(RuntimeError, match=r"runs of the experiment 'tried' failed(.|\n)*the weights are gone"):
        lab_in(tmp_path, quiet, ask("scaling", limit=2).study).study()


def test_an_answer_is_checked() -> None:
    with pytest.raises(ValueError, match="one name"):
        answer(tables=(Table("lines", "", "", ("a",), ()),))
    with pytest.raises(ValueError, match="2 columns"):
        answer(tables=(Table("t", "", "", ("a", "b"), ((1,),)),))


def test_the_words_of_a_file_are_filled_with_values() -> None:
    of = {"lines": {"title": "Lines {suffix}", "note": "Read {share:.1f}.", "x": "size", "log_x": True}}
    words: dict[str, Any] = {
        "statement": "It {holds} by {rise:+.1%} points. {small}",
        "overturn": "A fall.",
        "remarks": ["First."],
    }
    words |= {"phrases": {"holds": {True: "rises", False: "falls"}, "small": {True: "A little.", False: ""}}}
    words |= {"charts": of, "tables": {}}
    points = {"lines-2": [Point(1, 2)], "bars": []}
    found = Answer.of(words, True, {}, points, {}, ["Last."], share=0.25, small=False, rise=Estimate(0.5, 0.25, 0.75))
    assert found.statement == "It rises by +50.0 [+25.0, +75.0] points."
    assert (found.overturn, found.remarks) == ("A fall.", ("First.", "Last."))
    [chart] = found.charts
    assert (chart.title, chart.note, chart.x, chart.log_x) == ("Lines 2", "Read 0.2.", "size", True)


def test_a_table_of_rows_has_columns_for_intervals() -> None:
    table = Table.of("t", [{"name": "x", "rise": Estimate(1, 0, 2), "gain": Estimate(3)}])
    assert table.columns == ("name", "rise", "95 % from", "to", "gain", "95 % from ", "to ")
    assert table.rows == (("x", 1, 0, 2, 3, None, None),)


@pytest.mark.parametrize(("name"), names())
def test_the_words_fit_charts_and_tables(name: str) -> None:
    found = words(name)
    own = {"claims"} if name == "claims" else set()
    assert {*found} == {"statement", "phrases", "overturn", "remarks", "charts", "tables"} | own
    assert all({*claim} == {"short", "claim", "overturn"} for claim in found.get("claims", {}).values())
    assert all({*choices} <= {True, False, None} for choices in found["phrases"].values())
    assert all(Chart(chart, **of).title for chart, of in found["charts"].items())
    assert all(Table(table, **of).title for table, of in found["tables"].items())


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [(Estimate(2, 1.5, 3), True), (Estimate(0.5, 0.2, 0.9), False), (Estimate(1, 0.9, 1.2), None), (Estimate(9), None)],
)
def test_an_interval_decides_or_leaves_it_open(estimate: Estimate, expected: bool | None) -> None:
    assert estimate.above(1.0) is expected


class _Typed(Keys):
    width: int = 3


def test_options_are_typed() -> None:
    known = Experiment(_Typed, lambda lab, options: (), lambda: answer())
    config = configured("scaling")
    assert known.checked(config.model_copy(update={"options": {"width": 5}})).width == 5
    with pytest.raises(ValueError, match=r"width: .*not 'wide'"):
        known.checked(config.model_copy(update={"options": {"width": "wide"}}))
    assert Experiment(NoOptions, lambda lab, options: (), lambda: answer()).checked(config) == NoOptions()


def test_all_experiments_share_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some that fail do not keep the others from running; the folder is cleared once, and reported once."""
    ran: list[tuple[str, Path, bool]] = []
    written: list[Path] = []

    def run(name: str, config: object, out: Path, *, fresh: bool, **given: Any) -> Answer:
        ran.append((name, out, fresh))
        if name == "need":
            raise RuntimeError("a run failed")
        if name == "claims":
            raise ValueError("there are too few models")
        return answer(experiment=name)

    monkeypatch.setattr("fsgen.experiments.run_experiment", run)
    monkeypatch.setattr("fsgen.report.write", written.append)
    with pytest.raises(SystemExit) as end:
        cli.main(["experiment", "all", "--out", str(tmp_path), "--fresh"])
    assert end.value.code == 1
    assert [name for name, _, _ in ran] == names()
    assert {out for _, out, _ in ran} == {tmp_path}
    assert [fresh for _, _, fresh in ran] == [True, *[False] * (len(names()) - 1)]
    assert written == [tmp_path]


def test_experiments_of_the_same_pairs_share_their_runs() -> None:
    """The same task, pair and settings are one run in one folder, whichever experiment asks for it."""

    def runs(name: str) -> set[str]:
        study = configured(name).study
        assert study is not None
        return {row.cell.key for row in make_plan(study).rows}

    scaling_runs = runs("scaling")
    assert runs("prediction") <= scaling_runs
    assert len(runs("families") & scaling_runs) == len(runs("prediction"))


def test_the_page_of_findings_is_made_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs" / "answers" / "scaling.json"
    write_json(file, answer(experiment="scaling", title="Ratios").as_dict())
    kept, page = tmp_path / "answers", tmp_path / "page.md"
    for arguments in ([str(tmp_path / "runs"), "--keep", str(kept), "--out", str(page)], [str(kept)]):
        with pytest.raises(SystemExit) as end:
            cli.main(["findings", *arguments])
        assert end.value.code == 0
    out, _ = capsys.readouterr()
    assert page.read_text(encoding="utf-8") in out
    assert "## Ratios" in out
    for arguments, fault in (
        ([str(tmp_path / "nothing")], "has no answers"),
        ([str(kept), "--keep", str(tmp_path / "other")], "must be named answers"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["findings", *arguments])
        assert end.value.code == 2
        assert fault in capsys.readouterr()[1]


def test_the_command_lists_and_shows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["experiment", *arguments])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    status, out, _ = run("--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == names()
    status, out, _ = run("scaling", "--show")
    assert status == 0
    assert yaml.safe_load(out)["experiment"] == "scaling"
    status, _, err = run()
    assert status == 2
    assert "name an experiment" in err
    status, _, err = run("scaling", "--config", str(tmp_path / "none.yaml"))
    assert status == 2
    assert "is not a file" in err
    status, _, err = run("nothing")
    assert status == 2
    assert "unknown experiment 'nothing'" in err


def test_fresh_removes_nothing_for_an_experiment_that_cannot_run(ask: Ask, tmp_path: Path, quiet: Console) -> None:
    kept = tmp_path / "out" / "runs" / "kept" / "run.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}", encoding="utf-8")
    (tmp_path / "out" / "study.json").write_text("{}", encoding="utf-8")
    wrong = ask("scaling", pairs=[{"draft": "no-such-model", "target": "no-such-model"}])
    with pytest.raises(ValueError, match="no-such-model"):
        run_experiment("scaling", wrong, tmp_path / "out", fresh=True, console=quiet)
    assert kept.is_file()
