"""YAML configs: schema, loading with `extends` and `--set`, grid expansion."""

from rerank_eval.config.loading import LoadedConfig, load_config
from rerank_eval.config.schema import EmbeddedConfig, RerankerConfig, RetrieverConfig, RunConfig, json_schema

__all__ = [
    "EmbeddedConfig",
    "LoadedConfig",
    "RerankerConfig",
    "RetrieverConfig",
    "RunConfig",
    "json_schema",
    "load_config",
]
