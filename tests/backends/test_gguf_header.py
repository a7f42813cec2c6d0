"""GGUF files as far as they are read without llama.cpp: header, tokenizer, and what is refused."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fsgen import load
from fsgen.backends.alignment import first_difference
from fsgen.backends.identity import identity
from fsgen.backends.llama_cpp import library
from fsgen.backends.llama_cpp.checkpoint import GgufCheckpoint
from fsgen.backends.llama_cpp.header import Header, parameters, read_header
from fsgen.backends.llama_cpp.tokenizer import CONTROL, UNUSED, GgufTokenizer
from fsgen.backends.opening import open_checkpoint
from fsgen.backends.tokenizer import plain_tokenizer
from fsgen.cli import main
from fsgen.models.bundled import ROOT

FOLDER = ROOT / "pocket-0.6m"
# The numbers of the types of values.
UINT8, INT32, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, FLOAT64 = 0, 5, 4, 6, 7, 8, 9, 10, 12
LETTERS = {UINT8: "B", INT32: "i", UINT32: "I", FLOAT32: "f", BOOL: "?", UINT64: "Q", FLOAT64: "d"}
SIZES = {"context_length": 64, "embedding_length": 8, "block_count": 2}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    return struct.pack(f"<{LETTERS[kind]}", value)


def entry(key: str, kind: int, value: Any) -> bytes:
    """One value; a tuple (type, values) is a list."""
    if kind == ARRAY:
        inner, values = value
        return text(key) + struct.pack("<IIQ", ARRAY, inner, len(values)) + b"".join(packed(inner, v) for v in values)
    return text(key) + struct.pack("<I", kind) + packed(kind, value)


def gguf(
    values: Sequence[tuple[str, int, Any]],
    tensors: Sequence[tuple[str, tuple[int, ...]]] = (),
    version: int = 3,
    weights: bytes = bytes(64),
) -> bytes:
    """A file of float32 tensors."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    head += b"".join(entry(*value) for value in values)
    for name, shape in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, 0)
    return head + bytes(-len(head) % 32) + weights


def described(changes: dict[str, tuple[int, Any]] | None = None) -> bytes:
    """A small model, with some of its values changed; one that is None is left out."""
    values: dict[str, tuple[int, Any] | None] = {
        "general.architecture": (STRING, "llama"),
        **{f"llama.{name}": (UINT32, size) for name, size in SIZES.items()},
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, ["<end>", "a", "b", "ab"])),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, [CONTROL, 1, 1, 1])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
    }
    values |= changes or {}
    found = [(key, *value) for key, value in values.items() if value is not None]
    return gguf(found, [("token_embd.weight", (4, 8)), ("blk.0.attn_norm.weight", (8,))], weights=bytes(4 * 40))


def test_every_type_of_value(tmp_path: Path) -> None:
    values: list[tuple[str, int, Any]] = [
        ("a.byte", UINT8, 200),
        ("a.whole", INT32, -7),
        ("a.large", UINT64, 2**40),
        ("a.half", FLOAT32, 0.5),
        ("a.double", FLOAT64, 0.1),
        ("a.yes", BOOL, True),
        ("a.name", STRING, "größe"),
        ("a.words", ARRAY, (STRING, ["x", "", "▁y"])),
        ("a.numbers", ARRAY, (INT32, [1, -2])),
    ]
    file = tmp_path / "x.gguf"
    file.write_bytes(gguf(values, [("m", (3, 5)), ("v", (7,))], weights=bytes(4 * 15)))
    header = read_header(file)
    wanted = {key: value[1] if kind == ARRAY else value for key, kind, value in values} | {"a.numbers": (1, -2)}
    assert header.metadata == wanted
    assert header.shapes == {"m": (3, 5), "v": (7,)}
    assert header.types == {"m": 0, "v": 0}
    assert header.parts == (file,)


def test_parameters_with_and_without_embeddings() -> None:
    shapes = {"token_embd.weight": (10, 4), "output.weight": (10, 4), "blk.0.attn_norm.weight": (4,)}
    assert parameters(Header({}, shapes, {}, ())) == (84, 4)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file, whole = tmp_path / "x.gguf", described()
    for length in range(len(whole) - 4 * 40):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"empty|begins with|cut off") as refused:
            open_checkpoint(str(file))
        assert "\n" not in str(refused.value)
        assert "x.gguf" in str(refused.value)


BROKEN = {
    "its version is 1": gguf([], version=1),
    "begins with b'\\\\x93NUM'": b"\x93NUMPY and more",
    "a value is of type 99": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<I", 99),
    "a list is of type 9,": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<IIQ", 9, 9, 1),
    "its general.alignment is 0": gguf([("general.alignment", UINT32, 0)]),
    "cut off within": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63),
    "it names no architecture": described({"general.architecture": None}),  # type: ignore[dict-item]
    "no model, but: adapter": described({"general.type": (STRING, "adapter")}),
    "its context_length is None": described({"llama.context_length": None}),  # type: ignore[dict-item]
    "its context_length is 0": described({"llama.context_length": (UINT32, 0)}),
    "its embedding_length is 'x'": described({"llama.embedding_length": (STRING, "x")}),
    "its block_count is 4000": described({"llama.block_count": (UINT32, 4000)}),
    "is not causal": described({"llama.attention.causal": (BOOL, False)}),
    "of the kind 'bert'": described({"tokenizer.ggml.model": (STRING, "bert")}),
    "of the kind None": described({"tokenizer.ggml.model": None}),  # type: ignore[dict-item]
    "has no tokens": described({"tokenizer.ggml.tokens": (STRING, "a")}),
    "the token 'a' twice": described({"tokenizer.ggml.tokens": (ARRAY, (STRING, ["<end>", "a", "a", "b"]))}),
    "4 tokens and the kinds of 2": described({"tokenizer.ggml.token_type": (ARRAY, (INT32, [1, 1]))}),
    "no embedding": gguf([("general.architecture", STRING, "llama"), *(("llama." + k, UINT32, n) for k, n in
                                                                       SIZES.items())]),
    "one of 3 files": described({"split.count": (INT32, 3)}),
}  # fmt: skip


@pytest.mark.parametrize(("message", "content"), BROKEN.items(), ids=BROKEN)
def test_what_is_no_model_is_refused_before_llama_cpp_sees_it(message: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        open_checkpoint(str(file))
    assert str(refused.value).startswith(f"the GGUF file {str(file)!r} cannot be used: ")


@pytest.mark.parametrize(
    "name", ["no.gguf", "~nobody7/x.gguf", "a\0b.gguf", "x" * 5000 + ".gguf", "\udcff.gguf", ".gguf"]
)
def test_files_that_are_not_there(name: str) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        open_checkpoint(name)


def test_a_folder_of_such_files_asks_for_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(described())
    with pytest.raises(ValueError, match="name one of them"):
        open_checkpoint(str(tmp_path))


def test_a_model_in_several_files(tmp_path: Path) -> None:
    split = ("split.count", INT32, 2)
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(gguf([("general.architecture", STRING, "llama"), split], [("a", (3,))]))
    with pytest.raises(ValueError, match=r"m-00002-of-00002\.gguf: No such file"):
        read_header(first)
    second.write_bytes(gguf([split], [("b", (4, 2))]))
    header = read_header(first)
    assert header.shapes == {"a": (3,), "b": (4, 2)}
    assert header.parts == (first, second)
    with pytest.raises(ValueError, match="the first has to be named"):
        read_header(second)


def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(described())
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    monkeypatch.setattr("fsgen.backends.llama_cpp.checkpoint.library", library.library)
    with pytest.raises(SystemExit) as end:
        main(["generate", "x", "--draft", "ngram", "--target", str(file)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: GGUF files are run by the package llama-cpp-python")
    assert "pip install 'fsgen[llama-cpp]'" in line


# --- the tokenizer


def same_as_bundled(**changes: Any) -> Header:
    """The tokenizer of the bundled models, as a GGUF file has it, with padding."""
    rules = json.loads((FOLDER / "tokenizer.json").read_text())
    ids = rules["model"]["vocab"] | {token["content"]: token["id"] for token in rules["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "[PAD0]"],
        "tokenizer.ggml.token_type": (CONTROL, *[1] * (len(tokens) - 1), UNUSED),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in rules["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": 0,
    }
    return Header(metadata | changes, {}, {}, ())


class Split(GgufTokenizer):
    """Splits texts as the bundled tokenizer does."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        bundled = plain_tokenizer(FOLDER)
        assert bundled is not None
        return bundled.encode(text, add_special_tokens)


def test_it_is_the_same_tokenizer_where_it_is() -> None:
    ours, bundled = Split(same_as_bundled()), plain_tokenizer(FOLDER)
    assert bundled is not None
    assert len(ours) == len(bundled) + 1
    assert ours.get_vocab() == bundled.get_vocab()
    assert ours.get_added_vocab() == bundled.get_added_vocab()
    assert (ours.eos_token_id, ours.all_special_ids) == (bundled.eos_token_id, bundled.all_special_ids)
    assert first_difference(ours, bundled, ("a", "b")) is None
    assert first_difference(bundled, ours, ("a", "b")) is None


def test_texts_and_the_digest_of_a_vocabulary_are_the_same() -> None:
    ours, bundled = GgufTokenizer(same_as_bundled()), plain_tokenizer(FOLDER)
    assert bundled is not None
    for some in ("naïve façade 价格 🙂\n\t12,345", "<|endoftext|>x<|endoftext|>", ""):
        ids = bundled.encode(some)
        for cut in range(len(ids) + 1):  # also inside of characters
            assert ours.decode(ids[cut:]) == bundled.decode(ids[cut:])
            assert ours.decode(ids[:cut], skip_special_tokens=True) == bundled.decode(ids[:cut], True)
    unpadded = same_as_bundled()
    unpadded.metadata["tokenizer.ggml.tokens"].pop()
    left, right = (GgufCheckpoint("x", "", None, t, unpadded, frozenset()) for t in (GgufTokenizer(unpadded), bundled))
    assert identity(_Named(left)).vocabulary == identity(_Named(right)).vocabulary


class _Named:
    """A checkpoint as far as its tokenizer goes."""

    name, path, digest = "x", "", "0"

    def __init__(self, checkpoint: GgufCheckpoint) -> None:
        self.tokenizer = checkpoint.tokenizer


def test_what_differs_is_named() -> None:
    bundled, merges = plain_tokenizer(FOLDER), same_as_bundled().metadata["tokenizer.ggml.merges"]
    swapped = Split(same_as_bundled(**{"tokenizer.ggml.merges": [merges[1], merges[0], *merges[2:]]}))
    assert "merges 0 is" in str(first_difference(swapped, bundled, ("a", "b")))
    fewer = Split(same_as_bundled(**{"tokenizer.ggml.merges": merges[:-1]}))
    assert f"a has {len(merges) - 1} merges and b {len(merges)}" == first_difference(fewer, bundled, ("a", "b"))
    tokens = list(same_as_bundled().metadata["tokenizer.ggml.tokens"])
    tokens[7], tokens[8] = tokens[8], tokens[7]
    moved = Split(same_as_bundled(**{"tokenizer.ggml.tokens": tokens}))
    assert f"the token {tokens[7]!r} is 7 in a and 8 in b" == first_difference(moved, bundled, ("a", "b"))


def test_sentencepiece_spells_spaces_and_bytes() -> None:
    tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁Hello", "▁", "y"]
    kinds = (2, 3, 3, 6, 6, 1, 1, 1)
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds,
    }  # fmt: skip
    ours = GgufTokenizer(Header(metadata, {}, {}, ()))
    assert ours.decode([1, 5, 3, 4, 6, 7, 2]) == "<s> Helloé y</s>"
    assert ours.decode([1, 5, 3, 4, 6, 7, 2], skip_special_tokens=True) == "Helloé y"
    assert ours.decode([3]) == "\ufffd"
    assert (
        GgufTokenizer(Header(metadata | {"tokenizer.ggml.add_space_prefix": False}, {}, {}, ())).decode([5]) == " Hello"
    )


def test_messages_become_a_prompt() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:{% endif %}"
    ours = GgufTokenizer(same_as_bundled(**{"tokenizer.chat_template": template}))
    text = ours.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "user: Hi<|endoftext|>assistant:"
    broken = GgufTokenizer(same_as_bundled(**{"tokenizer.chat_template": "{{ raise_exception('no system') }}"}))
    with pytest.raises(ValueError, match=r"the chat template fails: .*no system"):
        broken.apply_chat_template([], tokenize=False)
    with pytest.raises(ValueError, match="has no chat template"):
        GgufTokenizer(same_as_bundled()).apply_chat_template([], tokenize=False)


def test_weights_stay_as_they_are_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(described())
    header = read_header(file)
    checkpoint = GgufCheckpoint(str(file), str(file), file, GgufTokenizer(header), header, frozenset())
    assert (checkpoint.vocab_size, checkpoint.context, checkpoint.model_type) == (4, 64, "llama")
    assert checkpoint.info.parameters == 40
    with pytest.raises(ValueError, match=r"x\.gguf' cannot have int8 weights: those of a GGUF file stay"):
        checkpoint.load("int8")
    with pytest.raises(ValueError, match="dtype='float8' is unknown"):
        checkpoint.load("float8")
    monkeypatch.setattr("fsgen.backends.opening.open_gguf", lambda name, device: checkpoint)
    with pytest.raises(ValueError, match="cannot have bfloat16 weights"):
        load(draft=str(file), target=str(file), weights="draft=bfloat16")


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a", described()), ("b", described()), ("c", described()[:-1] + b"\1")):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        header = read_header(file)
        digests.append(GgufCheckpoint(name, str(file), file, GgufTokenizer(header), header, frozenset()).digest)
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
