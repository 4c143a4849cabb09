"""The model card, from what a run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CARD = """---
license: apache-2.0
language: [en]
pipeline_tag: text-ranking
---
# Qwen3-python: a small reranker for Python functions

A Qwen3ForCausalLM of {layers} layers x {hidden} ({parameters:,} parameters, {bytes:,} bytes in bfloat16) with a
vocabulary of its own ({vocabulary:,} entries), trained by `rerank_demo` to answer Qwen3-Reranker's prompt with
`yes` or `no`. It exists so that a first run without a hub has a real gain to show. It is no general reranker.

## Data

Pairs of a docstring's first sentence and the function without its docstring: {queries:,} queries over {functions:,}
functions of Python packages with permissive licences, read from their wheels, never executed. {package_count} packages
are listed below; the held-out ones among them are evaluated on, not trained on.
Left out: functions of the standard library, whatever shares a sentence with one, and copies of them (more than 30% of
the runs of eight words), vendored folders and tests. The embedded tasks, which are made of the standard library, are
therefore a test of code that it has not seen. A share of the groups takes a topic's functions, of all
{instructed_functions:,}, under two instructions that contradict each other. Their sentences are the project's own;
those of PyInstructionRetrieval are worded otherwise, but have the same topics ("parse headers") and restrict the same
properties (kind, name, raise, return, decorator, asyncio, package), so p-MRR there is that of a familiar kind of
instruction on unfamiliar code.

## Training

{steps:,} steps of {groups} groups of {documents} documents ({pairs:,} pairs), {hours:.1f} hours on {hardware}, seed
{seed}. Listwise softmax over a group (what is wanted: the relevant documents, mixed with {teacher:.0%} of
all-MiniLM-L6-v2's own softmax), plus {pointwise} x binary cross-entropy.{told} Negatives: random ones of the same ten
thousand functions, and a share of {hard_start:.0%} growing to {hard_end:.0%} out of {sources}. Documents were cut at
{cut} tokens. The weights are a running average. Embeddings begin as all-MiniLM-L6-v2's vectors of the tokens
(Apache-2.0), attention as a search for equal tokens.{begun}{stages}

## Figures

Held-out packages ({held_out}), nDCG@10 of {eval_queries} queries:

| candidates | retriever alone | reranked |
|---|---|---|
| BM25 top {eval_depth} | {bm25:.3f} | {bm25_reranked:.3f} |
| MiniLM top {eval_depth} | {minilm:.3f} | {minilm_reranked:.3f} |

Of the documents that one instruction wants and another excludes, {followed:.0%} rank better under the first (50% for a
model that does not read instructions).
{test}
## Limits

Python functions and English sentences only. It compares words and near-synonyms; it does not reason. The tokenizer
lowers case. Beyond a few hundred tokens it was never trained.

## Packages

{packages}
"""


def model_card(record: Mapping[str, Any]) -> str:
    """Render the card.

    Args:
        record: What `export` gathered.
    """
    packages = ", ".join(f"{one['name']} {one['version']} ({one['licence']})" for one in record["packages"])
    rows = {key: value for key, value in record.items() if key != "packages"}
    rows |= {"test": _test(record["test"]), "stages": _stages(record["stages"]), "begun": _begun(record["begun"])}
    rows |= {"told": _instructed(record)}
    return _CARD.format(**rows, package_count=len(record["packages"]), packages=packages)


def _test(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tell what `training.figures` gathered of the embedded tasks, as a table."""
    if not rows:
        return ""
    lines = [
        "",
        "Embedded tasks, test split (nothing of it is trained on; docs/training.md says what it was looked at for),",
        "measured by `make demo-figures` in float32, with 95% BCa intervals and paired randomisation tests:",
        "",
        "| task | queries | what | score | against | difference | p |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for one in rows:
        p = "< 0.001" if one["p"] < 0.001 else f"{one['p']:.3f}"  # noqa: PLR2004
        interval = f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
        lines.append(
            f"| {one['scope']} ({one['measure']}) | {one['queries']} | {one['system']} | {one['mean']:.3f} "
            f"| {one['baseline']:.3f} ({one['baseline_name']}) | {interval} | {p} |"
        )
    return "\n".join([*lines, ""])


def _instructed(record: Mapping[str, Any]) -> str:
    """Tell what the loss has for instructions; nothing where an earlier release trained."""
    if "contrast" not in record:
        return ""
    return (
        f"\nWhere two instructions part documents, {record['contrast']} x the logistic loss of how these move between "
        f"them against the\nothers; and {record['probes']} x the cross-entropy of linear probes that ask what an "
        "instruction wants and what a\ndocument is, which are left behind."
    )


def _begun(runs: Sequence[Mapping[str, Any]]) -> str:
    """Tell of the runs whose weights this one began with."""
    told = [
        f"{one['steps']:,} steps ({one['pairs']:,} pairs, {one['hours']:.1f} hours, seed {one['seed']})" for one in runs
    ]
    return f"\nThis run began with the weights of an earlier one: {', then '.join(told)}." if told else ""


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    """Tell what was changed in mid-run."""
    told = []
    for one in stages:
        changed = [f"{key} {before} to {after}" for key, (before, after) in sorted(one["changed"].items())]
        if one["decay_steps"] is not None:
            changed.append(f"the rates fell to zero over {one['decay_steps']:,} steps")
        told.append(f"from step {one['step']:,}: {'; '.join(changed) or 'other code'}")
    return f"\nChanged in mid-run (`training.json` has all settings): {'. '.join(told)}." if told else ""
