"""`transformers` causal language models behind sessions: the key-value cache never shows outside this file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fsgen.models.base import ModelInfo, TokenIds, Usage
from fsgen.models.bundled import bundled_names, bundled_path, model_info
from fsgen.models.cache import SlotCache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What a layer may be so that the cache can rewind it. Anything else keeps a state that has no positions.
REWINDABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})
# What the session has to be able to tell a model's forward pass.
NEEDED_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "past_key_values")
# The tests show these to be exact; any other architecture has to show it once, when it is loaded.
PROVEN = frozenset(
    {"llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gpt2", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2"}
)
# Room that a model needs on a GPU beside its weights, for the cache and the activations.
HEADROOM = 1.25


# --- before the weights ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model of which only the configuration and the tokenizer have been read.

    Attributes:
        name: as the user gave it, or the short name of a bundled model.
        path: local folder or hub name.
        local: the folder, None for a model of the hub.
    """

    name: str
    path: str
    local: Path | None
    config: Any
    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        """Rows of the logits, padding rows included."""
        return int(_text_config(self.config).vocab_size)

    @property
    def context(self) -> int:
        """The longest sequence that the model can score, in tokens."""
        return context_of(self.config, self.tokenizer)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Finds a model and reads its configuration and tokenizer, and refuses it if no session could serve it.

    Args:
        name: a bundled model, a local folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: nothing of this name, no safetensors weights, or a model whose state cannot be rewound.
    """
    shown = str(name)
    local = bundled_path(shown) if isinstance(name, str) else None
    if local is None:
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file():
            local = folder
        elif folder.exists() or isinstance(name, Path) or shown.startswith(("/", ".", "~")) or shown.count("/") > 1:
            raise ValueError(f"no model at {shown!r}: there is no such folder with a config.json in it")
    if local is not None:
        _check_weights_format(shown, local)
    path = str(local) if local is not None else shown
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"no model {shown!r} can be opened: {_first_line(error)}. A model is a local folder, a name on the "
            f"Hugging Face hub, or a bundled one: {bundled_names()}"
        ) from error
    refuse_unrewindable(config, shown)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # many kinds, by tokenizer and by what is wrong with its files
        raise ValueError(f"the tokenizer of {shown!r} cannot be read: {_first_line(error)}") from error
    return Checkpoint(shown, path, local, config, tokenizer)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _check_weights_format(name: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise ValueError(
            f"{name!r} has its weights only as a pickle ({pickled[0].name}), which could run code when it is opened: "
            "convert them to safetensors"
        )
    raise ValueError(f"{name!r} has no weights in the safetensors format in {folder}")


def _text_config(config: Any) -> Any:
    """The part of a (perhaps multimodal) configuration that describes the language model."""
    return config.get_text_config(decoder=True)


def layer_kinds(config: Any) -> list[tuple[str, int | None]]:
    """For each layer its type and, for a sliding layer, its window in tokens."""
    config = _text_config(config)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        only = "full_attention"
        if window is not None:
            only = "sliding_attention"
        elif getattr(config, "attention_chunk_size", None) is not None:
            only = "chunked_attention"
        kinds = [only] * config.num_hidden_layers
    return [(kind, window if kind == "sliding_attention" else None) for kind in kinds]


def refuse_unrewindable(config: Any, name: str, architecture: type | None = None) -> None:
    """Refuses, by its configuration alone, a model that a session could not rewind.

    Raises:
        ValueError: a recurrent or hybrid model, or one whose positions or masks cannot be told from outside; names
            the model and its architecture.
    """
    if architecture is None:
        try:
            architecture = AutoModelForCausalLM._model_mapping[type(config)]
        except KeyError:
            raise ValueError(f"{name!r} ({config.model_type}) is not a causal language model") from None
        if isinstance(architecture, (tuple, list)):
            architecture = architecture[0]
    reason = _why_not_rewindable(config, architecture)
    if reason:
        raise ValueError(
            f"{name!r} ({architecture.__name__}) cannot be used: {reason}. Collaborative decoding rewinds a model to "
            "an earlier token, and needs attention layers with a key-value cache for it"
        )


def _why_not_rewindable(config: Any, architecture: type) -> str | None:
    text = _text_config(config)
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    if getattr(architecture, "_is_stateful", False):
        return "it carries a recurrent state, which cannot be rewound"
    try:
        odd = sorted({kind for kind, _ in layer_kinds(config)} - REWINDABLE_LAYERS)
    except AttributeError:
        return "its configuration does not say what its layers are"
    if odd:
        return f"it has layers of a type whose state cannot be rewound ({', '.join(odd)})"
    if getattr(text, "kv_sharing_modes", None) or getattr(text, "num_kv_shared_layers", None):
        return "its layers share their keys and values"
    if getattr(text, "alibi", False):
        return "its positions (ALiBi) cannot be told from outside"
    if getattr(text, "use_bidirectional_attention", False) or getattr(text, "is_causal", True) is False:
        return "its attention is not causal"
    arguments = inspect.signature(architecture.forward).parameters  # type: ignore[attr-defined]
    missing = [argument for argument in NEEDED_ARGUMENTS if argument not in arguments]
    if missing:
        return f"its forward pass does not take {', '.join(missing)}"
    return None


def context_of(config: Any, tokenizer: Any = None) -> int:
    """The longest sequence, in tokens, that a model scores with one and the same position encoding."""
    text = _text_config(config)
    longest = getattr(text, "max_position_embeddings", None)
    if longest is None:
        longest = getattr(tokenizer, "model_max_length", None)
    longest = min(int(longest), 2**20) if longest else 2**20
    rope = getattr(text, "rope_parameters", None) or {}
    for entry in [rope, *rope.values()]:
        # These encodings change for *all* positions once any row is longer: what is cached would no longer hold.
        if isinstance(entry, dict) and entry.get("rope_type") in ("longrope", "dynamic"):
            longest = min(longest, int(entry.get("original_max_position_embeddings") or longest))
    return longest


def check_dtype(dtype: str) -> None:
    """Raises ValueError for a type that no weights are loaded in."""
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose auto, {', '.join(DTYPES)}")


def check_device(device: str) -> None:
    """Raises ValueError for a device that does not exist here."""
    kind, _, number = device.partition(":")
    if device in ("auto", "cpu"):
        return
    if kind != "cuda" or (number and not number.isdecimal()) or device.endswith(":"):
        raise ValueError(f"device={device!r} is unknown: choose auto, cpu, cuda, or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise ValueError(f"device={device!r} is not there: this machine has {count or 'no'} GPU(s) that torch can use")


def place(checkpoint: Checkpoint, device: str, dtype: str = "auto") -> str:
    """Where a model goes: the device that was asked for; for `auto` the CPU, one GPU, or "auto" for all GPUs.

    Raises:
        ValueError: it has to be spread, and `accelerate`, which does that, is not installed.
    """
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    free = [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
    best = max(range(len(free)), key=free.__getitem__)
    size = _weight_bytes(checkpoint)
    if size is not None and dtype == "float32":
        size *= 2  # most checkpoints are in half precision
    if len(free) == 1 or (size is not None and size * HEADROOM <= free[best]):
        return f"cuda:{best}"
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(
            f"{checkpoint.name!r} may not fit on one GPU, and spreading a model over several needs the package "
            "accelerate: pip install 'fsgen[multi-gpu]', or name one device (cuda:0)"
        )
    return "auto"


def _weight_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes of the weight files, None where that is not known before they are fetched."""
    if checkpoint.local is not None:
        return sum(file.stat().st_size for file in checkpoint.local.glob("*.safetensors"))
    from huggingface_hub import get_safetensors_metadata

    try:
        files = get_safetensors_metadata(checkpoint.path).files_metadata.values()
    except Exception:  # offline, or a hub that does not tell: then the size is not known, and that is all
        return None
    return sum(max(tensor.data_offsets[1] for tensor in file.tensors.values()) for file in files)


# --- the weights -------------------------------------------------------------------------------------------------


def load_weights(checkpoint: Checkpoint, dtype: str = "auto", device: str = "auto") -> HFModel:
    """Loads what `open_checkpoint` found.

    Args:
        dtype: auto (float32 on a CPU, the checkpoint's own type on a GPU), float32, bfloat16 or float16.
        device: auto (the GPUs if there are any, else the CPU), cpu, cuda or cuda:N.

    Raises:
        ValueError: an unknown dtype or device, no safetensors weights, or a model that turns out not to continue its
            cached state exactly.
    """
    check_dtype(dtype)
    check_device(device)
    where = place(checkpoint, device, dtype)
    if dtype == "auto":
        kind: torch.dtype | str = torch.float32 if where == "cpu" else "auto"
    else:
        kind = DTYPES[dtype]
    spread = {"device_map": "auto"} if where == "auto" else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            config=checkpoint.config,
            dtype=kind,
            use_safetensors=True,
            trust_remote_code=False,
            **spread,
        )
    except OSError as error:
        raise ValueError(f"the weights of {checkpoint.name!r} cannot be loaded: {_first_line(error)}") from error
    if where not in ("cpu", "auto"):
        model = model.to(where)
    info = None
    if checkpoint.local is not None and (checkpoint.local / "pocket.json").is_file():
        info = model_info(checkpoint.local)
    return HFModel(model, checkpoint.tokenizer, checkpoint.name, checkpoint.path, info)


class HFModel:
    """A `transformers` causal language model (see `fsgen.models.base.Model`).

    Args:
        model: the loaded model; it is put into eval mode.
        tokenizer: its tokenizer.
        name, path: how lists and records call it.
        info: all of that, where it is known already.

    Raises:
        ValueError: a model whose state cannot be rewound, or that turns out not to continue a cached state exactly.
    """

    full_logits = True

    def __init__(
        self, model: Any, tokenizer: Any = None, name: str = "", path: str = "", info: ModelInfo | None = None
    ) -> None:
        config = model.config
        name = name or getattr(config, "name_or_path", "") or type(model).__name__
        refuse_unrewindable(config, name, type(model))
        self.module = model.eval()
        self.tokenizer = tokenizer
        self.info = info or _info(model, name, path)
        self.vocab_size = int(_text_config(config).vocab_size)
        self.context = context_of(config, tokenizer)
        self.eos_ids = _eos_ids(model, tokenizer)
        # Logits come back to where the tokens went in, also when the layers lie on several GPUs.
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.layers = layer_kinds(config)
        self.kinds = dict(self.layers)
        if not _slides(model):
            self.kinds = dict.fromkeys(self.kinds)
        # Only scaled_dot_product_attention reads a boolean mask; everywhere else a mask is added to the scores.
        self.boolean_masks = config._attn_implementation == "sdpa"
        self.keeps_logits = "logits_to_keep" in inspect.signature(type(model).forward).parameters
        if config.model_type not in PROVEN:
            check_exact(self)

    def __repr__(self) -> str:
        return f"HFModel({self.info.name!r})"

    def session(self, batch_size: int) -> HFSession:
        """An empty session of `batch_size` rows."""
        return HFSession(self, batch_size)


def _info(model: Any, name: str, path: str) -> ModelInfo:
    parameters = sum(tensor.numel() for tensor in model.parameters())  # a tied head counts once
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding = inputs.weight.numel()
    if head is not None and head.weight is not inputs.weight:
        embedding += head.weight.numel()
    return ModelInfo(name, path, model.config.model_type, parameters, parameters - embedding)


def _slides(model: Any) -> bool:
    """Whether the code of a model masks by windows at all: a configuration may name a window that nothing reads."""
    files = {type(part).__module__ for part in model.modules()}
    return any(hasattr(sys.modules.get(file), "create_sliding_window_causal_mask") for file in files)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            found.update(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset(found)


# --- the session -------------------------------------------------------------------------------------------------


class HFSession:
    """The key-value state of one batch (see `fsgen.models.base.Session`).

    Every call runs one forward pass over the rows from the first active one to the last. What is new in each row
    stands at the right of the input; the pads before it are written where nothing reads them.
    """

    def __init__(self, model: HFModel, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is impossible: a session has at least one row")
        self.usage = [Usage() for _ in range(batch_size)]
        self._model = model
        self._rows = batch_size
        self._known: list[list[int]] = [[] for _ in range(batch_size)]
        self._cache = SlotCache(len(model.layers), batch_size, model.context)
        self._positions = torch.empty(1, 0, dtype=torch.long)
        self._counting = np.empty(0, dtype=np.int64)
        self._smallest_window = min((w for w in model.kinds.values() if w is not None), default=model.context)

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> torch.Tensor:
        """Logits [rows, max(last), vocab] of the last positions of each row; see `Session.score`.

        They are inference tensors: outside `torch.inference_mode` they are read, not written.
        """
        work = self._plan(sequences, last)
        if not work:
            return torch.empty(self._rows, 0, self._model.vocab_size, device=self._model.device)
        keep = max(wanted for _, _, _, wanted in work)
        first, active = work[0][0], work[-1][0] - work[0][0] + 1
        for row, start, _, _ in work:
            del self._known[row][start:]  # should the call fail, these slots are no longer trusted
        logits = self._forward(work, first, active, keep)
        for row, _, fresh, _ in work:
            self._known[row] += fresh
            usage = self.usage[row]
            usage.calls += 1
            usage.tokens += len(fresh)
        if active == self._rows:
            return logits
        everything = logits.new_zeros(self._rows, keep, logits.shape[2])
        everything[first : first + active] = logits
        return everything

    def _plan(
        self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]
    ) -> list[tuple[int, int, list[int], int]]:
        """What each active row needs: (row, position of the first token to run, those tokens, logits wanted)."""
        rows, context, vocab = self._rows, self._model.context, self._model.vocab_size
        if len(sequences) != rows:
            raise ValueError(f"{len(sequences)} sequences for a session of {rows} rows")
        lasts = [last] * rows if isinstance(last, int) else last
        if len(lasts) != rows:
            raise ValueError(f"{len(lasts)} values of last for a session of {rows} rows")
        work = []
        for row, given in enumerate(sequences):
            if given is None:
                continue
            tokens = given if type(given) is list else _as_list(given)
            length, wanted = len(tokens), int(lasts[row])
            if length == 0:
                raise ValueError(f"the sequence of row {row} is empty")
            if length > context:
                raise ValueError(
                    f"the sequence of row {row} has {length} tokens, and {self._model.info.name} takes {context}"
                )
            if not 1 <= wanted <= length:
                raise ValueError(f"last={wanted} is impossible for row {row}: it has {length} tokens")
            start = min(common_prefix(self._known[row], tokens), length - wanted)
            fresh = tokens[start:]
            if min(fresh) < 0 or max(fresh) >= vocab:
                bad = next(token for token in fresh if not 0 <= token < vocab)
                raise ValueError(f"token {bad} of row {row} is outside the vocabulary of {vocab}")
            work.append((row, start, fresh, wanted))
        return work

    def _forward(self, work: list[tuple[int, int, list[int], int]], first: int, active: int, keep: int) -> torch.Tensor:
        """Runs the new tokens of all rows: logits [active, keep, vocab], float32."""
        model, cache, device = self._model, self._cache, self._model.device
        _, start, fresh, _ = work[0]
        width = len(fresh)
        even = len(work) == active
        longest = start + width
        for _, begin, tokens, _ in work[1:]:
            even = even and begin == start and len(tokens) == width
            width = max(width, len(tokens))
            longest = max(longest, begin + len(tokens))
        cache.reserve(longest)
        if self._positions.shape[1] < cache.capacity:
            self._counting = np.arange(cache.capacity)
            self._positions = torch.from_numpy(self._counting).unsqueeze(0).to(device)

        if even:  # every row gets the same positions: no pads, no index, often no mask
            ids = torch.tensor([tokens for _, _, tokens, _ in work], device=device)
            positions = self._positions.narrow(1, start, width)  # [1, width]
            cache.aim(first, active, start, width, longest, None)
            # A single query sees everything there is, and a fresh start is plainly causal, unless a window is full.
            plain = (width == 1 or (start == 0 and model.boolean_masks)) and longest <= self._smallest_window
            masks = None if plain else self._masks(positions, longest)
        else:
            inputs = np.zeros((3, active, width), dtype=np.int64)  # ids, positions, flat slots; pads: token 0 at 0
            inputs[2] = cache.trash
            for row, begin, tokens, _ in work:
                column, end = width - len(tokens), begin + len(tokens)
                inputs[0, row - first, column:] = tokens
                inputs[1, row - first, column:] = inputs[2, row - first, column:] = self._counting[begin:end]
            inputs[2] += (np.arange(first, first + active) * cache.capacity)[:, None]
            ids, positions, slots = torch.from_numpy(inputs).to(device, non_blocking=True)
            cache.aim(first, active, 0, width, longest, slots.flatten())
            masks = self._masks(positions, longest)

        extra = {"logits_to_keep": keep} if model.keeps_logits else {}
        logits: torch.Tensor = model.module(
            input_ids=ids,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).logits
        if logits.shape[1] != keep:
            logits = logits[:, -keep:]
        return logits.to(device, torch.float32)

    def _masks(self, positions: torch.Tensor, longest: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """What each query may see: [rows or 1, 1, width, longest], one mask for each type of layer the model has.

        A pad stands at position 0 and so sees one slot, since a query that sees nothing has no softmax.
        """
        slots = self._positions[0].narrow(0, 0, longest)
        queries = positions[:, None, :, None]  # [rows or 1, 1, width, 1]
        causal = slots <= queries
        masks = {}
        for kind, window in self._model.kinds.items():
            mask = causal
            if window is not None and longest > window:
                mask = causal & (slots > queries - window)
            if not self._model.boolean_masks:
                dtype = self._model.module.dtype
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
            masks[kind] = mask
        # A model with one type of layer takes the mask as it is; one with several asks for them by name.
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _as_list(tokens: Any) -> list[int]:
    """Token ids of any sequence (tuple, array, tensor) as a list of int."""
    return list(tokens.tolist()) if hasattr(tokens, "tolist") else list(tokens)


def common_prefix(known: list[int], tokens: list[int]) -> int:
    """How many tokens two lists share at their beginning. Halving, so that slices are compared and no Python loop."""
    low, high = 0, min(len(known), len(tokens))
    if known[:high] == tokens[:high]:
        return high
    while high - low > 1:  # they agree before low, and differ somewhere in low .. high - 1
        middle = (low + high) // 2
        if known[low:middle] == tokens[low:middle]:
            low = middle
        else:
            high = middle
    return low


def check_exact(model: HFModel) -> None:
    """Shows on a few tokens that a session gives what plain forward passes give.

    For architectures that the tests do not cover: rows of several lengths, rewound and grown, against each text alone.

    Raises:
        ValueError: it does not; names the model and its architecture.
    """
    vocab = min(model.vocab_size, 1000)
    texts = [[(7 * i + 11 * row + 3) % vocab for i in range(12 + row)] for row in range(2)]
    calls: list[list[list[int]]] = [
        [texts[0][:9], texts[1][:5]],
        [texts[0][:6], texts[1]],
        [texts[0], texts[1][:8] + texts[0][:2]],
    ]
    architecture = type(model.module).__name__
    refusal = f"{model.info.name!r} ({architecture}) cannot be used: "
    # Half precision rounds differently in batches of different shape; a wrong mask or position is far beyond that.
    tolerance = 1e-3 if model.module.dtype == torch.float32 else 0.1
    session = model.session(2)
    for rows in calls:
        try:
            got = session.score(rows, 2)
            with torch.inference_mode():
                alone = [model.module(torch.tensor([row], device=model.device), use_cache=False) for row in rows]
        except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(f"{refusal}its forward pass fails on a rewound state ({_first_line(error)})") from error
        for row, plain in enumerate(alone):
            expected = plain.logits[0, -2:].to(got)
            off = (got[row] - expected).abs().max()
            if not off <= tolerance * expected.abs().max().clamp(min=1e-6):
                raise ValueError(f"{refusal}a rewound state does not give the logits of a fresh one (off by {off:.2g})")
