"""A recipe as a chat template, for servers and libraries that write their prompts by one.

Who renders it hands over a pair as the last two turns: vLLM and sentence-transformers by the roles `query` and
`document`, SGLang both as `user`. The instruction is a turn before them (sentence-transformers), the variable
`instruction` (vLLM 0.32, P/scoring/io_processor.py `get_score_prompt`) or the variable `instruct` (SGLang,
serving_rerank.py). Where none of these is given it is the recipe's default; an empty one leaves its part out.
"""

from __future__ import annotations

import string
from itertools import takewhile

from rerank_eval.engine.recipe import Part, Recipe

_ASKED = "messages[0].content if messages | length > 2 else instruction if instruction is defined else instruct if "


def chat_template(recipe: Recipe) -> str:
    """Write a recipe as a Jinja chat template.

    Args:
        recipe: What to write; its `bos`, tokenisation and truncation are not a template's to say.

    Returns:
        One line; its prompts equal `Recipe.prompt` for every query, document and instruction.
    """
    full, bare = recipe.parts(instructed=True), recipe.parts(instructed=False)
    first = _shared(full, bare)
    last = _shared(full[first:][::-1], bare[first:][::-1])
    middle = [_written(parts[first : len(parts) - last]) for parts in (full, bare)]
    default = _literal(recipe.default_instruction or "")
    return "".join(
        [
            f"{{#- Recipe {recipe.name}, for turns of the roles 'query' and 'document'. -#}}",
            "{%- set query = messages[-2].content -%}{%- set document = messages[-1].content -%}",
            f"{{%- set instruction = {_ASKED}instruct is defined else {default} -%}}",
            _written(full[:first]),
            f"{{%- if instruction -%}}{middle[0]}",
            f"{{%- else -%}}{middle[1]}" if middle[1] else "",
            "{%- endif -%}",
            _written(full[len(full) - last :]),
        ]
    )


def _shared(one: tuple[Part, ...], other: tuple[Part, ...]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def _written(parts: tuple[Part, ...]) -> str:
    pieces: list[str] = []
    for part in parts:
        if not part.texts:  # fixed text may hold braces of its own
            pieces.append(_literal(part.template))
            continue
        for text, name, _, _ in string.Formatter().parse(part.template):
            pieces += [_literal(text)] if text else []
            pieces += [name] if name else []
    return "".join(f"{{{{- {piece} -}}}}" for piece in pieces)


def _literal(text: str) -> str:
    # Single quotes: SGLang looks for `answer can only be "yes" or "no"` in the template's own text.
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
