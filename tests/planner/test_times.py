"""Seconds: worked out by hand for constant calls, read between measured points, computed and fitted for shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fsgen.bench.shapes import COMMON, SHAPES
from fsgen.methods.method import parse
from fsgen.planner import times
from fsgen.planner.hardware import (
    HARDWARE,
    Shape,
    fit,
    hardware,
    memory_bytes,
    require_room,
    roofline,
    shape_of,
)
from fsgen.planner.predict import PER_TEXT, Loop, seconds, target_share
from fsgen.planner.reading import Reading
from fsgen.planner.texts import Written
from tests.doubles import Table, group


@dataclass
class Constant:
    """Every call takes as long, whatever it reads; reading prompts takes nothing."""

    taken: float
    model: str = "constant"
    weight_bytes: int = 10
    token_bytes: float = 1.0
    error: float = 0.0
    packed: bool = True

    def call(self, rows: float, tokens: float, context: float) -> float:
        return self.taken

    def reading(self, tokens: int) -> float:
        return 0.0


def reading(accepted: list[int], flags: list[int] = (), prompt: int = 3) -> Reading:  # type: ignore[assignment]
    text = Written((1,) * prompt, (1,) * len(accepted), cut=True)
    chances = np.array(accepted, float)
    return Reading(text, chances, chances, np.full(len(accepted), 0.9), {"max-prob:0.5": np.array(flags, bool)})


def test_seconds_worked_out_by_hand() -> None:
    target, draft, loop = (
        Constant(10.0),
        Constant(1.0),
        Loop(round_seconds=0.5, verify_seconds=0.25, drafted_seconds=0.1),
    )
    all_right = [reading([1] * 6)]
    assert seconds(all_right, parse("plain"), 1, target, None, loop).tolist() == [6 * 10.5]
    # Two rounds, of two drafted tokens and a bonus.
    two = seconds(all_right, parse("speculative", None, 2), 1, target, draft, loop)
    assert two.tolist() == pytest.approx([2 * (10 + 2 * 1 + 0.5 + 0.25 + 2 * 0.1)])
    assert target_share(all_right, parse("speculative", None, 2), 1, target, draft, loop) == pytest.approx(10 / 12.95)
    # Three tokens in a call take twice as long; the first call reads the end of the prompt, too, five in all.
    slower = replace(loop, verified=((2, 1.0), (4, 3.0)))
    found = seconds(all_right, parse("speculative", None, 2), 1, target, draft, slower)
    assert found.tolist() == pytest.approx([two[0] + 2 * 10 + 10])
    # Nothing is right: a token a round; the last one has room for one drafted token alone.
    wrong = seconds([reading([0] * 6)], parse("speculative", None, 2), 1, target, draft, loop)
    assert wrong.tolist() == pytest.approx([6 * (10 + 0.75) + (5 * 2 + 1) * 1.1])
    # A router that trusts all but the third token: the target is called once.
    route = seconds([reading([1] * 6, [0, 0, 1, 0, 0, 0])], parse("route", None, 3), 1, target, draft, loop)
    assert route.tolist() == pytest.approx([10 + 6 * 1.1 + 2 * 0.75])
    routed = replace(loop, routed_seconds=0.05)
    stopped = seconds([reading([1] * 6, [0] * 6)], parse("speculative", "max-prob:0.5", 2), 1, target, draft, routed)
    assert stopped.tolist() == pytest.approx([two[0] + 4 * 0.05])


def test_texts_share_the_seconds_of_their_batch() -> None:
    target, texts = Constant(10.0), [reading([1] * 2), reading([1] * 4)]
    found = seconds(texts, parse("plain"), 2, target)
    assert found.tolist() == [2 * 5, 2 * 5 + 2 * 10]
    slow = seconds(texts, parse("plain"), 2, target, None, Loop(round_seconds=1.0))
    assert slow.sum() == pytest.approx(4 * 10 + 2 * 1 + 2 * (1 - PER_TEXT / 2))
    # A batch is as large as it says: both are written twice at once.
    assert seconds(texts, parse("plain"), 4, target).tolist() == [5, 5 + 10]
    # Three texts in two rows: the third one gets the row that is free first.
    assert seconds([*texts, reading([1] * 2)], parse("plain"), 2, target).sum() == 4 * 10


def test_an_adaptive_length_is_chosen_by_the_seconds_that_are_predicted() -> None:
    texts = [reading([1] * 60) for _ in range(4)]
    plain = seconds(texts, parse("plain"), 1, Constant(10.0)).sum()
    cheap = seconds(texts, parse("speculative", None, "auto"), 1, Constant(10.0), Constant(0.01)).sum()
    dear = seconds(texts, parse("speculative", None, "auto"), 1, Constant(10.0), Constant(30.0)).sum()
    assert cheap < plain / 5
    assert dear < 1.5 * plain  # soon it drafts no more, but for trials


def test_a_profile_is_read_between_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = times.Profile(
        "m", None, "here", "float32", (1, 4), (1, 3), ((1.0, 2.0), (2.0, 6.0)), 0.01, 0.1, 0.2, 0.05, 100, 4.0
    )
    at = times.PROMPT
    assert found.call(1, 1, at) == 1.0
    assert found.call(1, 2, at) == 1.5
    assert found.call(2.5, 3, at) == 4.0
    assert found.call(4, 5, at) == 10.0  # beyond, by the last slope
    assert found.call(4, 1, at + 100) == 2.0 + 0.01 * 4 * 100
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = times.keep(found)
    assert path.is_relative_to(tmp_path)
    assert times.read_profile(path) == found
    path.write_text(json.dumps(found.as_dict() | {"version": 0}), encoding="utf-8")
    with pytest.raises(ValueError, match="another version"):
        times.read_profile(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="no profile of fsgen"):
        times.read_profile(path)


def test_a_model_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = group(target=Table()).target
    assert model is not None
    found = times.profile_of(model, 2, seconds=0.5)
    assert found.rows == (1, 2)
    assert (np.diff(np.array(found.seconds), axis=0) >= 0).all()
    assert (np.diff(np.array(found.seconds), axis=1) >= 0).all()
    assert 0 < found.call(2, 4, 64) < 1
    monkeypatch.setattr(times, "measure", lambda *arguments, **options: pytest.fail("measured again"))
    assert times.profile_of(model, 2) == found
    monkeypatch.undo()
    with pytest.raises(ValueError, match="at least one row"):
        times.measure(model, 0)


def test_parameters_of_a_shape() -> None:
    found = shape_of("random:0.5B")
    assert found.parameters == pytest.approx(0.494e9, rel=0.01)
    assert shape_of("random:7B").parameters == pytest.approx(7.6e9, rel=0.02)
    assert found.kept == 24 * 2 * 2 * 64
    with pytest.raises(ValueError, match="no configuration of 'nowhere'"):
        shape_of("nowhere")
    with pytest.raises(ValueError, match="mixture of experts"):
        Shape.of("m", COMMON | SHAPES["0.5B"] | {"num_experts": 8})
    for odd in ({"head_dim": [1]}, {"intermediate_size": "x"}, {"max_position_embeddings": 0}, {"vocab_size": 2**31}):
        with pytest.raises(ValueError, match=f"has an impossible {next(iter(odd))}"):
            Shape.of("m", COMMON | SHAPES["0.5B"] | odd)
    with pytest.raises(ValueError, match="has no hidden_size"):
        Shape.of("m", {})


def test_a_roofline_reads_weights_or_computes() -> None:
    one = roofline(shape_of("random:7B"), hardware("h100"))
    reading_weights = one.shape.weights * 2 / (one.bandwidth_share * one.machine.bandwidth)
    assert one.call(1, 1, 0) == pytest.approx(one.fixed + reading_weights)
    assert one.call(1, 5, 0) == one.call(1, 1, 0)
    assert one.call(256, 8, 0) > 2 * one.call(1, 1, 0)
    with pytest.raises(ValueError, match="unknown type of weights 'int3'"):
        roofline(one.shape, one.machine, "int3")


def test_a_roofline_is_fitted_to_a_profile() -> None:
    start = roofline(shape_of("random:0.5B"), HARDWARE["epyc-9654"], "bfloat16")
    true = replace(start, bandwidth_share=0.4, peak_share=0.2, fixed=0.004)
    rows, tokens = (1, 4, 16), (1, 4, 13)
    grid = tuple(tuple(true.call(n, count, times.PROMPT) for count in tokens) for n in rows)
    measured = times.Profile("m", None, "here", "bfloat16", rows, tokens, grid, 0.0, 0.0, 0.0, 0.0, 1, 1.0)
    found = fit(measured, start)
    larger = shape_of("random:1.5B")
    for n, count in ((1, 1), (8, 6)):
        told, right = (replace(one, shape=larger).call(n, count, 256) for one in (found, true))
        assert told == pytest.approx(right, rel=0.1)


def test_hardware_that_is_unknown_or_too_small() -> None:
    with pytest.raises(ValueError, match=r"unknown hardware 'H1': choose measured .*H100"):
        hardware("H1")
    for name in ("9xH100", "1xH100", "4xRyzen-7950X", "4x", "0xH100"):
        with pytest.raises(ValueError, match=f"unknown hardware '{name}'"):
            hardware(name)
    several, shape = hardware("8xH100"), shape_of("random:72B")
    assert (several.memory, several.name) == (640e9, "8xH100")
    assert 72e9 < shape.parameters < 73.5e9
    one, eight = (roofline(shape, machine).call(1, 1, 256) for machine in (hardware("H100"), several))
    assert one / 8 < eight < one / 5, "GPUs that share a model wait for each other in every layer"
    assert roofline(shape, several).weight_bytes < several.memory
    models = {"target": roofline(shape_of("random:32B"), hardware("L4"))}
    needed = memory_bytes(models, 1, 1024)
    assert needed > 60e9
    with pytest.raises(ValueError, match=r"x need 6.* GB, and L4 has 24 GB"):
        require_room(needed, hardware("L4"), "x")
    require_room(needed, hardware("H100"), "x")
