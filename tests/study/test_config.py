"""The configuration says what it means, or is refused with every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsgen.study.config import LadderConfig, SamplingConfig, StudyConfig, load_config, parse_config

STUDY = """
name: small
tasks: [gsm8k, {name: mbpp, limit: 3, shots: 2}]
pairs: [{draft: a, target: b}]
methods: [oracle, {name: "contrastive:beta=0.3", draft_tokens: 4}]
sampling: [greedy, {temperature: 0.8, top_p: 0.9}]
"""


def test_shorthands() -> None:
    config = parse_config(STUDY)
    assert config.tasks is not None
    assert config.methods is not None
    assert [(task.name, task.limit, task.shots) for task in config.tasks] == [("gsm8k", None, None), ("mbpp", 3, 2)]
    assert [(method.name, method.draft_tokens) for method in config.methods] == [
        ("oracle", None),
        ("contrastive:beta=0.3", 4),
    ]
    assert config.sampling == (SamplingConfig(), SamplingConfig(temperature=0.8, top_p=0.9))
    assert (config.routers, config.candidates, config.seed, config.replay) == (("default",), 10, 0, True)


def test_definitions() -> None:
    assert parse_config(STUDY).definitions == "fsgen"
    assert parse_config(STUDY + "definitions: published").definitions == "published"
    with pytest.raises(ValueError, match="definitions: input should be 'fsgen' or 'published', not 'theirs'"):
        parse_config(STUDY + "definitions: theirs")


def test_grids_take_what_they_leave_out_from_the_study() -> None:
    config = parse_config(
        STUDY
        + "grids:\n- {methods: [plain]}\n"
        + "- {tasks: [mbpp], routers: [always, 'margin:0.2'], pairs: [{ladder: [a, b, c]}]}"
    )
    first, second = config.blocks()
    assert [task.name for task in first.tasks] == ["gsm8k", "mbpp"]
    assert [method.name for method in first.methods] == ["plain"]
    assert [task.name for task in second.tasks] == ["mbpp"]
    assert second.routers == ("always", "margin:0.2")
    assert second.pairs == (LadderConfig(ladder=("a", "b", "c")),)
    assert second.sampling == config.sampling


def test_the_bundled_study_is_one() -> None:
    config = load_config()
    tasks = {task.name for block in config.blocks() for task in block.tasks}
    methods = {method.name for block in config.blocks() for method in block.methods}
    assert tasks == {"chains", "facts", "lookup", "tiny_python", "pocket_math", "gsm8k", "mmlu_stem", "mbpp"}
    assert methods == {"oracle", "contrastive", "proxy", "route"}
    assert load_config(config) is config


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a", "not a mapping"),
        ("tasks: [", "not YAML"),
        (STUDY + "candidate: 5", "candidate: unknown key"),
        (STUDY + "candidates: -1", "candidates: input should be greater than or equal to 0, not -1"),
        ("tasks: [{name: gsm8k, shot: 1}]", "tasks.0.shot: unknown key"),
        ("tasks: [{limit: 3}]", "tasks.0.name: missing"),
        ("tasks: [gsm8k]\npairs: [{draft: a}]", "pairs.0.target: missing"),
        ("pairs: [{draft: a, target: b, bass: c}]", "pairs.0.bass: unknown key"),
        ("pairs: [{ladder: stairs}]", "pairs.0.ladder: must be pocket, or a list of models"),
        ("pairs: [{ladder: [a]}]", "a ladder has two models at least"),
        ("tasks: []", "tasks: tuple should have at least 1 item"),
        ("sampling: [{temperature: -1}]", "sampling.0.temperature: input should be greater than or equal to 0, not -1"),
        ("tasks: [gsm8k]\nmethods: [oracle]", "the study has no pairs"),
        ("grids: [{tasks: [gsm8k], pairs: [{target: a}]}]", "grids.0 has no methods"),
        ("grids: [{task: [gsm8k]}]", "grids.0.task: unknown key"),
    ],
)
def test_faults(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match="study") as caught:
        parse_config(text)
    assert fault in str(caught.value)


def test_every_fault_at_once() -> None:
    with pytest.raises(ValueError, match="is not a study") as caught:
        parse_config("tasks: [{nam: x}]\nmethods: [1]\nbatch_size: 0\nextra: 1")
    lines = str(caught.value).splitlines()
    for fault in ("tasks.0.nam: unknown key", "tasks.0.name: missing", "batch_size", "extra: unknown key"):
        assert any(fault in line for line in lines), fault
    assert len(lines) == 1 + 5, "and none of them twice, in other words"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a file"):
        load_config(tmp_path / "study.yaml")


def test_unknown_yaml_tags_build_nothing() -> None:
    with pytest.raises(ValueError, match="not YAML"):
        parse_config("name: !!python/object/apply:os.getcwd []")


def test_is_frozen() -> None:
    config = parse_config(STUDY)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert isinstance(config, StudyConfig)


def test_settings_that_are_not_measured_are_refused_by_name() -> None:
    for key in ("repetition_penalty", "n", "logit_bias", "min_tokens", "stop_token_ids"):
        with pytest.raises(ValueError, match=rf"sampling\.0: {key} is no setting of a study"):
            parse_config(f"tasks: [gsm8k]\npairs: [{{target: a}}]\nmethods: [plain]\nsampling: [{{{key}: 1}}]")
    with pytest.raises(ValueError, match=r"sampling\.0\.max_tokens: unknown key"):
        parse_config("tasks: [gsm8k]\npairs: [{target: a}]\nmethods: [plain]\nsampling: [{max_tokens: 1}]")
