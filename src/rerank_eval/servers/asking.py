"""What a server says of itself: which software it is, which models it has, how much it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rerank_eval.config.schema import RerankerConfig, RetrieverConfig
from rerank_eval.config.server import AUTO, OPENAI
from rerank_eval.errors import ConfigError, ServerError
from rerank_eval.names import did_you_mean, some
from rerank_eval.registry import SERVERS
from rerank_eval.servers.client import Address, Connection, in_thread
from rerank_eval.servers.facts import Facts, Listed, Served
from rerank_eval.servers.protocol import Api

_INFINITY_TAKES = 2048
"""Texts in a request to Infinity, unless its --max-client-batch-size says otherwise, which no endpoint tells."""


def ask(address: Address) -> Facts:
    """Ask a server what it is.

    Raises:
        ConfigError: The key's variable is not set.
        ServerError: It does not answer, or refuses the key.
    """

    async def work() -> Facts:
        async with Connection(address, tries=1) as connection:
            return await _facts(connection)

    return in_thread(work)


async def _facts(connection: Connection) -> Facts:
    info = _mapping(await connection.get("/info"))
    if "model_id" in info and "max_client_batch_size" in info:  # Text Embeddings Inference, router/src/lib.rs
        model = Listed(
            _text(info["model_id"]),
            _text(info["model_id"]),
            _count(info.get("max_input_length")),
            _text(info.get("model_sha")),
        )
        return Facts("tei", _text(info.get("version")), (model,), _count(info["max_client_batch_size"]))
    prefix = "/v1"
    if (listed := await connection.get("/v1/models")) is None:
        prefix, listed = "", await connection.get("/models")
    data = _mapping(listed).get("data")
    rows = [row for row in data if isinstance(row, Mapping) and _text(row.get("id"))] if isinstance(data, list) else []
    models = tuple(Listed(_text(row["id"]), _text(row.get("root")), _count(row.get("max_model_len"))) for row in rows)
    owner = _text(rows[0].get("owned_by")) if rows else ""
    if owner == "sglang":
        told = _mapping(await connection.get("/get_server_info") or await connection.get("/server_info"))
    else:
        told = _mapping(await connection.get("/version")) if owner == "vllm" else {}
    if owner == "infinity":  # /models stands beside /rerank, behind its --url-prefix; it takes 2048 texts
        return Facts(owner, "", models, _INFINITY_TAKES, prefix)
    return Facts(owner, _text(told.get("version")), models)


def find_served(section: RerankerConfig | RetrieverConfig, where: str) -> Served:
    """Ask a config's server which model it has, and by which protocol.

    Args:
        section: The reranker or retriever whose `model` is an address.
        where: The section, for error messages.

    Raises:
        ConfigError: A key is wrong, or the server does not say what has to be known.
        ServerError: It does not answer, refuses the key, or has no model of that name.
    """
    address = Address.of(section.model, section, where)
    reranks = isinstance(section, RerankerConfig)
    hosted = _hosted(section.model) if reranks else None
    named = hosted if section.api == AUTO and hosted else section.api
    if named not in {AUTO, OPENAI} and reranks and not SERVERS.get(named, f"{where}.api").software:
        address.headers()  # a key that is not set is told before anything is computed
        if section.served_model is None:
            raise ConfigError(f"{where}.served_model: name the model; {section.model} is not asked for a list")
        return Served(named, section.served_model, Facts(), Listed(section.served_model))
    facts = ask(address)
    api = _api_of(section, facts, where) if named == AUTO else named
    return Served(api, *_model_of(section, facts, where))


def _hosted(url: str) -> str | None:
    host = urlsplit(url).hostname
    return next((name for name in SERVERS if host and SERVERS.get(name).host == host), None)


def _api_of(section: RerankerConfig | RetrieverConfig, facts: Facts, where: str) -> str:
    if isinstance(section, RetrieverConfig):
        return OPENAI
    known: dict[str, Api] = {name: SERVERS.get(name) for name in SERVERS}
    fitting = [name for name, api in known.items() if api.software and api.software == facts.software]
    if not fitting:
        said = f"calls itself {facts.software!r}" if facts.software else "does not say what it is"
        raise ConfigError(f"{where}.api: {section.model} {said}; set it to one of {', '.join(known)}")
    return fitting[0]


def _model_of(section: RerankerConfig | RetrieverConfig, facts: Facts, where: str) -> tuple[str, Facts, Listed]:
    names = {model.name: model for model in facts.models}
    wanted = section.served_model
    if wanted is None:
        if len(names) != 1:
            said = f"has {len(names)} models ({some(list(names))})" if names else "does not list its models"
            raise ConfigError(f"{where}.served_model: {section.model} {said}; name one")
        wanted = next(iter(names))
    if names and wanted not in names and facts.software != "tei":
        raise ServerError(
            f"{where}.served_model: {section.model} has no model {wanted!r}; {did_you_mean(wanted, names)}"
        )
    return wanted, facts, names.get(wanted) or Listed(wanted)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
