"""How fast a device does what a run asks of it: as told, as benchmarked on this very device, or as measured now.

A small model's rate is far from that of large matrix products: its layers are norms, rotary angles and attention as
much as products. So what is measured is layers of the model's own shape with constant weights, through the engine that
a run would take, on texts as long as the run's.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rerank_eval.config import LoadedConfig
from rerank_eval.engine.attention import register
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import resolve_device
from rerank_eval.engine.packing import Pack, Part
from rerank_eval.engine.prompts import TokenizedGroup
from rerank_eval.engine.quantize import check_quantization, quantize, weights_dtype
from rerank_eval.engine.runner import PackRunner, choose_attention
from rerank_eval.engine.shapes import PUBLISHED, EncoderShape, Shape
from rerank_eval.errors import ConfigError, DeviceError
from rerank_eval.files import load_json
from rerank_eval.names import did_you_mean
from rerank_eval.rerankers.loading import check_device

BENCH = Path("results/bench")

_SECONDS = 1.0
"""For how long a model is measured, once it is warm."""
_WEIGHTS = 500_000_000
"""Bytes of layers that are built to measure with; never fewer than two layers, never more than the model has."""
_VOCABULARY = 1024
_LAST = 0.9
"""Of the packed engine's last layer, what is not computed for all tokens (`engine.lastlayer`)."""
_FIRST_TOKENS = 64
_STEP = 4
_LONGEST_ROW = 16_384
_BM25_TEXTS, _BM25_QUERIES = 300, 30


@dataclass(frozen=True)
class DeviceLoad:
    """What is asked of a device.

    Attributes:
        prefix: Tokens that a query's documents share, on average; 0 where each text is on its own.
        own: Tokens of a document or a text, on average.
        group: Documents that share a prefix, or texts in a batch.
    """

    shape: Shape | EncoderShape
    dtype: str
    prefix: float
    own: float
    group: int


class _Benchmark(NamedTuple):
    """What a file of `make bench` says: FLOP/s of useful work of a model of one size on a device."""

    path: Path
    device: str
    shape: Shape
    dtype: str
    rate: float


@dataclass(frozen=True)
class Rater:
    """Finds a rate for each model: the one that was given, a benchmark's of the very device, or a measured one.

    Attributes:
        shown: What is reckoned for, in words.
        given: FLOP/s from the command line, or None.
        device: The device that runs here; None where another is reckoned for.
        name: Its name, which benchmarks go by.
    """

    shown: str
    given: float | None = None
    device: torch.device | None = None
    name: str = ""

    @classmethod
    def of(cls, loaded: LoadedConfig, given: float | None, name: str | None) -> Rater:
        """Say what to reckon for: a given rate, a named device, or the config's device.

        Raises:
            ConfigError: Nothing was benchmarked on a device of this name.
            DeviceError: The config's device is not here.
        """
        if given is not None:
            return cls(f"a device of {given / 1e12:g} TFLOP/s of useful work, as given by --rate", given)
        if name is not None:
            known = sorted({one.device for one in _benchmarks()})
            if name not in known:
                raise ConfigError(f"--device-name {name!r}: not benchmarked in {BENCH}; {did_you_mean(name, known)}")
            return cls(name, name=name)
        check_device(loaded.base.device, ", or reckon for another device with --rate TFLOPS")
        device = resolve_device(loaded.base.device)
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        return cls(f"{device} ({name_of(device)}{threads})", device=device, name=name_of(device))

    def rate(self, asked: DeviceLoad | None) -> tuple[float, str]:
        """Return FLOP/s of useful work and where that figure comes from; NaN where nothing is asked.

        Raises:
            ConfigError: The named device was not benchmarked with such a model.
            DeviceError: A model's layers do not run on the device.
        """
        if self.given is not None:
            return self.given, "as given"
        if asked is None:
            return float("nan"), "nothing to do, or of unknown size"
        for one in _benchmarks():
            if (one.device, one.shape, one.dtype) == (self.name, asked.shape, asked.dtype):
                return one.rate, f"benchmarked on {self.name}, {one.path}"
        if self.device is None:
            raise ConfigError(
                f"--device-name {self.name!r}: no benchmark of a model of this size in {asked.dtype} in {BENCH}; give "
                "--rate TFLOPS"
            )
        try:
            return measure(asked, self.device), "measured now, on layers of the model's shape"
        except (EngineError, RuntimeError) as error:
            raise DeviceError(
                f"device: {self.shown} cannot run {asked.dtype} layers of this size ({error}); reckon for another "
                "device with --rate TFLOPS"
            ) from error


def name_of(device: torch.device) -> str:
    """Return what a device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _benchmarks() -> Iterator[_Benchmark]:
    """Yield what `make bench` measured with models of published sizes, on any device."""
    for path in sorted(BENCH.glob("*.json")):
        try:
            document = load_json(path)
            rate = document["workloads"]["short"]["peers"]["ours"]["share_of_matmul_rate"] * document["matmul_flops"]
            device, shape = str(document["machine"]["device"]), PUBLISHED[document["shape"]]
            found = _Benchmark(path, device, shape, document["dtype"], rate)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield found


def useful_flops(shape: Shape | EncoderShape, prefix: float, documents: Sequence[float]) -> float:
    """Count a query's useful FLOP: documents of so many tokens behind a prefix, which encoders compute each time."""
    if isinstance(shape, EncoderShape):
        return sum(shape.useful_flops(prefix + own) for own in documents)
    return shape.useful_flops(prefix, documents)


def measure(asked: DeviceLoad, device: torch.device) -> float:
    """Measure useful FLOP/s for about a second, with a model whose size is known.

    Raises:
        EngineError: The number format does not run on the device.
        RuntimeError: Its memory does not suffice for two of the model's layers.
    """
    check_quantization(asked.dtype, device)
    whole = asked.shape.layers
    a_layer = asked.shape.layer_parameters / whole * weights_dtype(asked.dtype).itemsize
    layers = min(whole, max(2, int(_WEIGHTS // a_layer)))
    if isinstance(asked.shape, EncoderShape):
        run, share = _encoder(asked, asked.shape, layers, device), layers / whole
    else:
        run, share = _decoder(asked, asked.shape, layers, device), (layers - _LAST) / (whole - _LAST)
    try:
        return _timed(run, asked, device) * share
    finally:
        del run
        gc.collect()


def _timed(run: Callable[[int], None], asked: DeviceLoad, device: torch.device) -> float:
    """Return useful FLOP of the whole model over the seconds that the layers at hand take.

    The group grows until it is as large as a run's, or takes long enough: a large model on a small device is measured
    on a few tokens.
    """

    def seconds(documents: int) -> float:
        started = time.perf_counter()
        run(documents)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    own = max(asked.own, 1)
    group = max(1, min(asked.group, int((_LONGEST_ROW - asked.prefix) // own)))
    documents = max(1, min(group, int((_FIRST_TOKENS - asked.prefix) // own)))
    seconds(documents)  # warms up
    while (took := seconds(documents)) < _SECONDS / _STEP and documents < group:
        documents = min(group, documents * _STEP)
    times = [took]
    while sum(times) < _SECONDS:
        times.append(seconds(documents))
    flops = useful_flops(asked.shape, round(asked.prefix), [max(round(asked.own), 1)] * documents)
    return flops / (sum(times) / len(times))


def _decoder(asked: DeviceLoad, shape: Shape, layers: int, device: torch.device) -> Callable[[int], None]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config: Any = Qwen3Config(
        vocab_size=_VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        attn_implementation=register(),
    )
    network = _filled(Qwen3ForCausalLM, config, asked.dtype, device)
    quantize(network, asked.dtype)
    runner = PackRunner(network.model, 0, choose_attention("auto", network.model))
    shared, text = [1] * round(asked.prefix), [1] * max(round(asked.own), 1)

    def run(documents: int) -> None:
        group = TokenizedGroup(shared, [text] * documents, np.zeros(documents, dtype=np.bool_))
        budget = max(1, (runner.packer.token_budget - len(shared)) // len(text))
        for start in range(0, documents, budget):
            runner.run(Pack((Part(0, group, tuple(range(start, min(start + budget, documents)))),)))

    return run


def _encoder(asked: DeviceLoad, shape: EncoderShape, layers: int, device: torch.device) -> Callable[[int], None]:
    from transformers import BertConfig, BertModel

    tokens = max(round(asked.prefix + asked.own), 1)
    config: Any = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=max(1, shape.hidden // 64),
        max_position_embeddings=tokens,
        attn_implementation="sdpa",
    )
    network = _filled(BertModel, config, asked.dtype, device)

    def run(documents: int) -> None:
        ids = torch.ones((documents, tokens), dtype=torch.long, device=device)
        with torch.inference_mode():
            network(ids, attention_mask=torch.ones_like(ids))

    return run


def _filled(kind: Any, config: Any, dtype: str, device: torch.device) -> Any:
    """Build a network of constant weights: what they are changes nothing about how long products take."""
    with torch.device("meta"):
        network = kind(config)
    network = network.to(weights_dtype(dtype)).to_empty(device=device).eval()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    return network


def measure_bm25(texts: tuple[int, float], queries: tuple[int, float], depth: int) -> float:
    """Measure in a fraction of a second how long BM25 takes for a corpus.

    Args:
        texts: Documents and their mean length in characters.
        queries: Queries and the same.
        depth: Candidates of a query.

    Returns:
        Seconds: the corpus read in proportion to its characters, each query to the corpus's documents.
    """
    import bm25s

    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(2_000)]

    def sample(number: int, characters: float) -> list[str]:
        return [" ".join(rng.choice(words, max(1, round(characters / 6)))) for _ in range(number)]

    some, asked = min(texts[0], _BM25_TEXTS), min(queries[0], _BM25_QUERIES)
    corpus, wanted = sample(some, texts[1]), sample(asked, queries[1])
    started = time.perf_counter()
    tokens = bm25s.tokenize(corpus, show_progress=False)
    retriever: Any = bm25s.BM25()
    retriever.index(tokens, show_progress=False)
    indexed = time.perf_counter()
    retriever.retrieve(bm25s.tokenize(wanted, show_progress=False), k=min(depth, some), show_progress=False)
    searched = time.perf_counter() - indexed
    share = texts[0] / some
    return (indexed - started) * share + searched * share * queries[0] / asked
