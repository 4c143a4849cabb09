"""A recipe as a chat template writes what the recipe writes, whoever renders it."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from rerank_eval.engine.chat_template import chat_template
from rerank_eval.engine.recipes import RECIPES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [" a \n", "\n\tan {x} <b>'s&amp;\n", "{{ query }}{% if x %}\\n", "'\\'", ""]
)


def turns(query: str, document: str, roles: tuple[str, str] = ("query", "document")) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, (query, document), strict=True)]


@pytest.mark.parametrize("recipe", [one for one in RECIPES.values() if one.reads == "last"], ids=lambda one: one.name)
@given(query=TEXTS, document=TEXTS, instruction=TEXTS.filter(bool) | st.none())
def test_all_who_render_it_get_the_recipes_prompt(recipe, query, document, instruction):
    template, expected = chat_template(recipe), recipe.prompt(query, document, instruction)
    # vLLM: a variable, which it filters by the names that the template has.
    [by_variable], _ = render_jinja_template(
        [turns(query, document)], chat_template=template, instruction=instruction or ""
    )
    assert by_variable == expected
    # SGLang: plain Jinja, two turns of the user.
    told = {"messages": turns(query, document, ("user", "user")), "instruct": instruction or ""}
    assert jinja2.Environment(autoescape=False).from_string(template).render(**told) == expected  # noqa: S701
    # sentence-transformers: a turn before the two.
    if instruction is not None:
        asked = [{"role": "system", "content": instruction}, *turns(query, document)]
        assert render_jinja_template([asked], chat_template=template)[0] == [expected]


@pytest.mark.parametrize("recipe", [one for one in RECIPES.values() if one.reads == "last"], ids=lambda one: one.name)
def test_where_nothing_is_asked_it_is_the_recipes_default(recipe):
    [written], _ = render_jinja_template([turns("q", "d")], chat_template=chat_template(recipe))
    assert written == recipe.prompt("q", "d", recipe.default_instruction)
