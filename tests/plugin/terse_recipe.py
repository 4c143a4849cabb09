"""A recipe with a short instruction line, in the three forms that a package may give it, and two that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rerank_eval.engine.recipes.card import RECIPE as CARD

TERSE = {"extends": "card", "instruct_template": "Task: {instruction}\n", "models": ["made-up/terse-reranker"]}
FILE = Path(__file__).with_name("terse_recipe.yaml")
OBJECT = dataclasses.replace(CARD, name="whatever", instruct_template="Task: {instruction}\n")
MISSPELT = {"instruct_tempalte": "Task: {instruction}\n"}
NO_RECIPE = 7
