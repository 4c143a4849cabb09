"""Rerankers that a server holds: vLLM, TEI, SGLang, Infinity, or a service such as Cohere's and Jina's.

The server renders the prompts, with whatever template it was started with, of which `reranker.recipe` says what is
known; or they are rendered here by that recipe, with a protocol that joins query and document as they stand
(`vllm-score`). Which of the two stands in the identity: as `template` or as `recipe`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from rerank_eval.config.renamed import spelled_before
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.config.server import ServerKeys
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.recipe import MAX_LENGTH, Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.own_recipe import own_recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.registry import SERVERS
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.listwise import list_identity, list_settings
from rerank_eval.servers.client import Address
from rerank_eval.servers.facts import Served
from rerank_eval.servers.fitting import Fitter, PairFitter, PromptFitter, Uncounted
from rerank_eval.servers.protocol import Api
from rerank_eval.servers.scoring import CONCURRENCY, KNOWN, KNOWN_INSTRUCTED, ServerEngine, Service

logger = logging.getLogger(__name__)

_SHORTEST = QueryGroup("x", None, ["y"])
_JOINED = 3
"""Tokens of `_SHORTEST` where at most a beginning-of-sequence token stands around it: an encoder's pair has more."""
_UNCOUNTED = "its prompts are not counted, and what the server cuts is not known: reranker.checkpoint tells"
_BARE = (
    "the server has no template: it joins query and document as they stand, which no decoder was trained to score; "
    "start it with the model's (vLLM: --chat-template)"
)
_NO_INSTRUCTION = "the server's template reads no instruction: its prompts are the same whichever is sent"
_READS_LISTS = "jina-reranker-v3"
_VLLM = "vllm"
_PROBES = 3
"""Tries of a request for known pairs: the server has just answered, and may be busy."""
_READ = {
    "listwise",
    "model",
    "revision",
    "instruction",
    "recipe",
    "head",
    "max_length",
    *ServerKeys.model_fields,
}


class Server:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.origin == "server"

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`.

        Raises:
            ModelError: A setting means nothing to the server.
            ServerError: It does not answer.
        """
        served, api = _served(ref)
        for key in config.set_beside(_READ):
            raise ModelError(
                f"reranker.{key}: a server's reranker does not read it; start the server so, and take it out"
            )
        recipe = _recipe(prompting, ref, api)
        reads, max_length = _limit(config, ref, served, recipe)
        service = _service(config, ref, recipe)
        notes, tokens = _looked_at(service, ref, recipe)
        notes = notes if reads else [*notes, _UNCOUNTED]
        identity = _identity(service, ref, recipe, max_length if reads else None)
        if tokens is not None:
            identity["known_pairs_tokens"] = tokens
        if listwise := _reads_lists(ref):
            identity["listwise"] = list_identity(config, ref, by_windows=False)
            if config.request_size is not None:
                raise ModelError(f"reranker.request_size: {ref.label} reads a query's documents together; take it out")
        return Prepared(
            config,
            dataclasses.replace(ref, notes=(*ref.notes, *notes)),
            dataclasses.replace(prompting, recipe=recipe),
            _policy(config, api, prompting, service.recipe),
            identity,
            max_length=max_length if reads else None,
            listwise=listwise,
        )

    def load(self, prepared: Prepared, device: str) -> ServerEngine:
        """See `Family.load`."""
        config, ref = prepared.config, prepared.ref
        served, _ = _served(ref)
        recipe = prepared.prompting.recipe
        service = _service(config, ref, recipe)
        for note in ref.notes[1:]:
            if note != _UNCOUNTED:  # a reader of the table is told, and nobody has to be warned
                logger.warning("%s: %s", ref.label, note)
        fitter = _fitter(ref, recipe, _limit(config, ref, served, recipe)[1])
        order = list_settings(config).order if prepared.listwise else None
        return ServerEngine(service, fitter, config.concurrency or CONCURRENCY, order)


def _identity(service: Service, ref: ModelRef, recipe: Recipe | None, max_length: int | None) -> dict[str, Any]:
    """Return what can change a score, as far as it is known; `max_length` None where the server alone cuts."""
    served, api = _served(ref)
    identity: dict[str, Any] = {"api": served.api, "served_model": served.name}
    if served.server:
        identity["server"] = served.server
    known = None if recipe is None else recipe.name
    identity |= {"recipe": known} if api.whole else {"template": known or "the server's"}
    if not service.raw:
        identity["head"] = spelled_before("recipe_softmax") if api.raw else "as served"
    if max_length is not None:
        identity |= {"checkpoint": _checkpoint(ref).revision, "max_length": max_length}
    elif served.listed.max_length is not None and served.facts.software != _VLLM:  # which refuses, and never cuts
        identity["served_max_length"] = served.listed.max_length
    return identity


def _served(ref: ModelRef) -> tuple[Served, Api]:
    assert ref.served is not None  # noqa: S101 - `models.sections` fills it in for every server
    return ref.served, SERVERS.get(ref.served.api, "reranker.api")


def _checkpoint(ref: ModelRef) -> ModelRef:
    assert ref.checkpoint is not None  # noqa: S101 - asked for where the config names it
    return ref.checkpoint


def _service(config: RerankerConfig, ref: ModelRef, recipe: Recipe | None) -> Service:
    served, api = _served(ref)
    sizes = [size for size in (config.request_size, served.facts.largest) if size is not None]
    return Service(
        Address.of(config.model, config, "reranker"),
        api,
        served.name,
        raw=api.raw and config.head == "float32",
        recipe=recipe if api.whole else None,
        request_size=min(sizes, default=None),
        prefix=served.facts.prefix,
    )


def _reads_lists(ref: ModelRef) -> bool:
    """Tell whether a served model reads a query's documents together, as jina-reranker-v3 does, by its names."""
    served, _ = _served(ref)
    names = (served.name, served.listed.root, "" if ref.checkpoint is None else ref.checkpoint.name)
    return any(_READS_LISTS in name.lower() for name in names)


def _recipe(prompting: Prompting, ref: ModelRef, api: Api) -> Recipe | None:
    """Return the recipe of the prompts: the config's, else the served checkpoint's own; None where none is known."""
    checkpoint = ref.checkpoint
    reads_prompt = checkpoint is not None and checkpoint.architecture.endswith("ForCausalLM")
    recipe = prompting.recipe or (own_recipe(_checkpoint(ref)) if reads_prompt else None)
    if recipe is None and api.whole:
        raise ModelError(
            "reranker.recipe: prompts are rendered here, and nothing says how; name the recipe, or the model as "
            "reranker.checkpoint"
        )
    if recipe is not None and recipe.reads == "pooled":
        raise ModelError(f"reranker.recipe: {recipe.name} is a classifier's, whose prompts no server is known to take")
    return recipe


def _limit(config: RerankerConfig, ref: ModelRef, served: Served, recipe: Recipe | None) -> tuple[bool, int]:
    """Say whether prompts are counted here, and how long they may be."""
    if ref.checkpoint is not None:
        if recipe is None and config.max_length not in {None, served.listed.max_length}:
            raise ModelError(
                "reranker.max_length: a classifier's pairs are cut by the server, which is not told; take it out"
            )
        return True, min(effective_max_length(config, ref.checkpoint), served.listed.max_length or 2**40)
    if config.max_length is not None:
        raise ModelError(
            "reranker.max_length: a server cuts texts as it was started to; name its model as reranker.checkpoint, and "
            "documents are cut here before"
        )
    return False, MAX_LENGTH


def _fitter(ref: ModelRef, recipe: Recipe | None, max_length: int) -> Fitter:
    if ref.checkpoint is None:
        return Uncounted()
    tokenizer, refused = load_tokenizer(ref.checkpoint), _served(ref)[0].facts.software == _VLLM
    try:
        if recipe is None:
            return PairFitter(tokenizer, max_length, refused=refused)
        default = None if _served(ref)[1].whole else recipe.default_instruction
        return PromptFitter(tokenizer, recipe, max_length, default)
    except EngineError as error:
        raise ModelError(f"reranker.checkpoint: {ref.checkpoint.name}: {error}") from error


def _policy(config: RerankerConfig, api: Api, prompting: Prompting, recipe: Recipe | None) -> InstructionPolicy:
    instructions = prompting.instructions
    if recipe is not None:
        return InstructionPolicy(
            config.instruction,
            recipe.default_instruction,
            reads_task_prompt=recipe.reads_task_prompt,
            joins_own=recipe.joins_query_and_instruction,
            instructions=instructions,
        )
    if api.instructed:
        if config.instruction == "none":
            raise ModelError(
                "reranker.instruction: the server's template puts its own where none is sent; set this to default, or "
                "have prompts rendered here (vllm-score)"
            )
        return InstructionPolicy(config.instruction, None, instructions=instructions, place="in the request")
    if config.instruction not in {"task", "none"}:
        raise ModelError(
            "reranker.instruction: a request of this protocol has no place for one; set this to task (a query's own, "
            "FollowIR's kind, then stands behind the query) or none"
        )
    return InstructionPolicy(config.instruction, None, reads_task_prompt=False, place="behind the query")


def _looked_at(service: Service, ref: ModelRef, expected: Recipe | None) -> tuple[list[str], list[int] | None]:
    """Have known pairs scored, and look at the prompt tokens that the server counts: they tell of its template.

    Returns:
        What a reader of a result has to know; and the tokens of `KNOWN`, and of `KNOWN_INSTRUCTED` where instructions
        are read, None where the server does not say.

    Raises:
        ModelError: The server puts a template around prompts that are rendered here.
    """
    served, _ = _served(ref)
    if served.facts.software != _VLLM:  # others do not count, or let one pay for it
        return [], None
    joined = _tokens(dataclasses.replace(service, recipe=None), _SHORTEST)
    # Sent to a template without one: its default instruction is what most tasks are scored with.
    known = dataclasses.replace(
        KNOWN, instruction=None if service.recipe is None else service.recipe.default_instruction
    )
    tokens = _tokens(service, known)
    if joined is None or tokens is None:
        return [], None
    if service.recipe is not None and joined > _JOINED:
        raise ModelError(
            f"reranker.recipe: {ref.label} puts a template of its own around texts ({joined} tokens for two letters), "
            f"so that {service.recipe.name} would stand in it; start it without --chat-template, or let it render the "
            "prompts (reranker.api: vllm-rerank)"
        )
    if service.recipe is None and joined <= _JOINED:
        return [_BARE], [tokens]
    instructed = _tokens(service, KNOWN_INSTRUCTED) if service.reads_instructions else None
    notes = [_NO_INSTRUCTION] if service.api.instructed and tokens == instructed else []
    counts = [tokens] if instructed is None else [tokens, instructed]
    if ref.checkpoint is None or expected is None:
        return notes, counts
    counted = int(_fitter(ref, expected, MAX_LENGTH).fit(known).tokens.sum())
    if counted == tokens:
        return notes, counts
    return [
        *notes,
        f"the server's prompts of known pairs have {tokens} tokens where {expected.name}'s have {counted}: its "
        "template is not that recipe",
    ], counts


def _tokens(service: Service, group: QueryGroup) -> int | None:
    return service.score_now(group, tries=_PROBES).tokens


PART = Server()
