"""Prompts of other forms than Qwen3-Reranker's: each recipe's ids against its authors' own code, written out anew.

The authors' code is named in each recipe's docstring; `python -m rerank_bench.parity` compares with the packages.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rerank_bench.parity_families import gemma_tokenizer
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipe import Part
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.special_tokens import EscapedTokenizer
from rerank_eval.engine.splitting import LLAMA3_PATTERN, QWEN2_PATTERN, Joints, lay_out
from rerank_eval.models.demo import SHIPPED
from tests.engine.test_prompts import TEXT

CHAT = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 "
    "for not relevant, 1 for relevant).\nRelevance:"
)
ASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
CHECK = "Check whether a given document contains information helpful to answer the query."
JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
GOLDEN = {
    "mxbai_v2": (
        f"{CHAT}<|im_start|>user\nquery: q\ndocument: d\n{TASK}<|im_end|>\n<|im_start|>assistant\n",
        f"{CHAT}<|im_start|>user\ninstruction: i\nquery: q\ndocument: d\n{TASK}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "zerank": (
        "<|im_start|>system\nq<|im_end|>\n<|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n<query>q</query>\n<instruction>i</instruction><|im_end|>\n<|im_start|>user\nd<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "ctxl_v2": (
        f"{CHECK}\n<Document> d\n<Query> q ??",
        f"{CHECK}\n<Document> d\n<Query> q i ??",
    ),
    "bge_gemma": (f"A: q\nB: d\n{ASK}", f"A: q i\nB: d\n{ASK}"),
    "qwen3_vl": (
        f"{JUDGE}<Query>:q\n<Document>:d<|im_end|>\n<|im_start|>assistant\n",
        f"{JUDGE}<Instruct>: i<Query>:q\n<Document>:d<|im_end|>\n<|im_start|>assistant\n",
    ),
    "sglang": (
        f"{JUDGE}<Query>: q\n<Document>: d<|im_end|>\n<|im_start|>assistant\n",
        f"{JUDGE}<Instruct>: i\n<Query>: q\n<Document>: d<|im_end|>\n<|im_start|>assistant\n",
    ),
}
GOLDEN["nemotron"] = ("question:q \n \n passage:d", "question:q i \n \n passage:d")
SEEN_ELSEWHERE = {"card", "mteb", "qwen_eval"}


def test_every_built_in_recipe_has_a_golden_prompt() -> None:
    assert GOLDEN.keys() | SEEN_ELSEWHERE == RECIPES.keys()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_prompts(name: str) -> None:
    assert (RECIPES[name].prompt("q", "d", None), RECIPES[name].prompt("q", "d", "i")) == GOLDEN[name]


def apart(tokenizer, pieces, limit):
    """mxbai-rerank's and FlagEmbedding's way: pieces one by one, the query cut to three quarters, then the document."""
    ids = {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in pieces}
    fixed = sum(len(one) for name, one in ids.items() if name not in {"query", "document"})
    room = limit - fixed
    query = ids["query"][: room * 3 // 4]
    document = ids["document"][: room - len(query)]
    cut = len(query) < len(ids["query"]) or len(document) < len(ids["document"])
    found = [one for name in ids for one in {"query": query, "document": document}.get(name, ids[name])]
    return found, cut


def mxbai_pieces(query, document, instruction):
    asked = f"query: {query}" if instruction is None else f"instruction: {instruction}\nquery: {query}"
    return [
        ("prefix", f"{CHAT}<|im_start|>user\n"),
        ("query", asked),
        ("separator", "\n"),
        ("document", f"document: {document}"),
        ("second separator", "\n"),
        ("task", TASK),
        ("suffix", "<|im_end|>\n<|im_start|>assistant\n"),
    ]


def gemma_pieces(query, document, instruction):
    asked = query if instruction is None else f"{query} {instruction}"
    return [
        ("bos", "<bos>"),
        ("query", f"A: {asked}"),
        ("separator", "\n"),
        ("document", f"B: {document}"),
        ("second separator", "\n"),
        ("task", ASK),
    ]


@pytest.fixture(scope="module")
def made(tokenizer):
    found = {"mxbai_v2": (tokenizer, mxbai_pieces), "bge_gemma": (gemma_tokenizer(), gemma_pieces)}
    return {
        (name, limit): (one, pieces, PromptTokenizer(one, RECIPES[name], limit))
        for name, (one, pieces) in found.items()
        for limit in (250, 300, 8192)
    }


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.tuples(st.sampled_from(["mxbai_v2", "bge_gemma"]), st.sampled_from([250, 300, 8192])),
    query=st.one_of(TEXT, TEXT.map(lambda text: f"{text} word" * 40)),
    instruction=st.one_of(st.none(), TEXT),
    documents=st.lists(st.one_of(TEXT, TEXT.map(lambda text: f"{text} word" * 40)), min_size=1, max_size=3),
)
def test_pieces_are_tokenised_and_cut_as_the_authors_do(made, which, query, instruction, documents):
    tokenizer, pieces, maker = made[which]
    group = QueryGroup(query, instruction, documents)
    expected = [apart(tokenizer, pieces(query, one, instruction), which[1]) for one in documents]
    whole, factored = maker.whole(group), maker.factored(group)
    assert whole.own == [ids for ids, _ in expected]
    assert [factored.shared + ids for ids in factored.own] == whole.own
    assert whole.truncated.tolist() == factored.truncated.tolist() == [cut for _, cut in expected]


WHOLE = ["ctxl_v2", "qwen3_vl", "zerank"]


@pytest.fixture(scope="module")
def wholes(tokenizer):
    demo = AutoTokenizer.from_pretrained(SHIPPED)
    return {
        (name, kind, limit): (one, PromptTokenizer(one, RECIPES[name], limit))
        for kind, one in (("qwen", tokenizer), ("demo", demo))
        for name in WHOLE
        for limit in (110, 130, 8192)
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.tuples(st.sampled_from(WHOLE), st.sampled_from(["qwen", "demo"]), st.sampled_from([110, 130, 8192])),
    query=st.one_of(TEXT, TEXT.map(lambda text: f"{text} word" * 40)),
    instruction=st.one_of(st.none(), st.sampled_from(["i", " only x.\n", "<|im_end|>"])),
    documents=st.lists(st.one_of(TEXT, TEXT.map(lambda text: f"{text} word" * 40)), min_size=1, max_size=3),
)
def test_whole_prompts_lose_tokens_of_document_and_query_alone(wholes, which, query, instruction, documents):
    tokenizer, maker = wholes[which]
    name, _, limit = which
    group = QueryGroup(query, instruction, documents)
    whole, factored = maker.whole(group), maker.factored(group)
    assert [factored.shared + ids for ids in factored.own] == whole.own
    assert factored.truncated.tolist() == whole.truncated.tolist()
    for document, ids, cut in zip(documents, whole.own, whole.truncated, strict=True):
        full = tokenizer(RECIPES[name].prompt(query, document, instruction), add_special_tokens=False)["input_ids"]
        if not cut:
            assert ids == full
            continue
        assert len(ids) <= limit < len(full) or len(ids) < len(full)
        rest = iter(full)
        assert all(one in rest for one in ids), "what is left stands in the order of the whole"
        suffix = tokenizer(RECIPES[name].suffix, add_special_tokens=False)["input_ids"]
        assert ids[-len(suffix) :] == suffix


def test_a_document_is_cut_and_what_stands_behind_it_is_not(tokenizer):
    for name, behind in (("ctxl_v2", "\n<Query> which cat? ??"), ("zerank", "<|im_end|>\n<|im_start|>assistant\n")):
        limit = len(tokenizer(RECIPES[name].prompt("which cat?", "", None))["input_ids"]) + 10
        maker = PromptTokenizer(tokenizer, RECIPES[name], limit)
        prompts = maker.factored(QueryGroup("which cat?", None, ["a cat" + " a cat" * 29, "a cat"]))
        texts = [tokenizer.decode(prompts.shared + ids) for ids in prompts.own]
        assert prompts.lengths[0] == limit
        assert texts[0].endswith(f"a cat a cat{behind}")
        assert prompts.truncated.tolist() == [True, False]
        assert not prompts.query_cut


def test_a_long_query_keeps_three_quarters_of_the_room(tokenizer):
    recipe = RECIPES["zerank"]
    frame = len(tokenizer(recipe.prompt("", "", None))["input_ids"])
    maker = PromptTokenizer(tokenizer, recipe, frame + 40)
    prompts = maker.factored(QueryGroup("cat " * 100, None, ["dog " * 100]))
    text = tokenizer.decode(prompts.shared + prompts.own[0])
    assert (text.count("cat"), text.count("dog")) == (30, 10)


def test_an_instruction_that_leaves_no_room_is_refused(tokenizer):
    maker = PromptTokenizer(tokenizer, RECIPES["mxbai_v2"], 130)
    with pytest.raises(EngineError, match=r"max_length 130 leaves no room: .* without query and document takes"):
        PromptTokenizer(tokenizer, RECIPES["ctxl_v2"], 130).factored(QueryGroup("q", "word " * 200, ["d"]))
    assert maker.factored(QueryGroup("q", "word " * 200, ["d"])).truncated.all()  # its authors cut both together


def test_what_is_shared_in_front_of_a_document(tokenizer):
    """With the document first nothing of a query can be shared; the root still can."""
    group = QueryGroup("which cat?", "Find cats", ["a cat", "a dog"])
    shared = {name: PromptTokenizer(tokenizer, RECIPES[name], 8192).factored(group) for name in RECIPES}
    ctxl = shared.pop("ctxl_v2")
    assert tokenizer.decode(ctxl.shared).endswith("to answer the query.\n")
    assert ctxl.root == len(ctxl.shared)
    for name, prompts in shared.items():
        assert tokenizer.decode(prompts.shared).count("which cat?") == 1, name
        assert prompts.root < len(prompts.shared)


def test_the_beginning_of_sequence_token(tokenizer):
    gemma = gemma_tokenizer()
    with pytest.raises(EngineError, match="the tokenizer adds special tokens around a text"):
        PromptTokenizer(gemma, replace(RECIPES["bge_gemma"], bos=None), 8192)
    first = {
        bos: PromptTokenizer(gemma, replace(RECIPES["bge_gemma"], bos=bos), 8192).render("q", "d", None).token_ids[0]
        for bos in (True, False)
    }
    assert first == {True: gemma.bos_token_id, False: gemma.convert_tokens_to_ids("A:")}
    assert tokenizer.bos_token is None
    ids = PromptTokenizer(tokenizer, RECIPES["ctxl_v2"], 8192).render("q", "d", None).token_ids
    assert ids[0] == tokenizer.encode("Check")[0]
    gemma.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(one, gemma.convert_tokens_to_ids(one)) for one in ("<bos>", "<eos>")]
    )
    with pytest.raises(EngineError, match="adds other special tokens than '<bos>'"):
        PromptTokenizer(gemma, RECIPES["bge_gemma"], 8192)


def test_special_tokens_of_every_template_are_spelled_anew(tokenizer):
    """An escaped tokenizer gives a recipe's own special tokens, and none for a text's."""
    for name in sorted(RECIPES.keys() - {"bge_gemma"}):
        maker = PromptTokenizer(tokenizer, RECIPES[name], 8192, "escape")
        for instruction in (None, "Find <|im_end|>"):
            kept = PromptTokenizer(tokenizer, RECIPES[name], 8192).render("q", "d", None).token_ids
            plain = maker.render("q", "d", None).token_ids
            assert plain == kept
            escaped = maker.render("<|im_end|>", "<|im_start|>", instruction).token_ids
            ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
            assert [escaped.count(one) for one in ends] == [kept.count(one) for one in ends]
    assert EscapedTokenizer.of(tokenizer).spelled


PATTERNS = {"qwen2": QWEN2_PATTERN, "llama3": LLAMA3_PATTERN}
JOINTS = [
    ("{query}\n", "<Document>{document}"),
    ("{query}\n", "x{document}"),
    ("{query}\n", "7{document}"),
    ("{query}:", " {document}"),
    ("{query}3", " {document}"),
    ("{query}", " ??{document}"),
    ("{query}", " a{document}"),
    ("{query}'", " {document}"),
]
NO_JOINTS = [
    ("{query}", "\n{document}"),
    ("{query}", " {document}"),
    ("{query} ", "x{document}"),
    ("{query}\n", "\n{document}"),
    ("{query}\n", "{document}"),
    ("{query}x", "y{document}"),
    ("{query}:", "{document}"),
]


@pytest.fixture(scope="module")
def by_pattern(tokenizer):
    found = {}
    for name, pattern in PATTERNS.items():
        one = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        one.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        found[name] = PreTrainedTokenizerFast(tokenizer_object=one)
    return found


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(joint=st.sampled_from(JOINTS), name=st.sampled_from(sorted(PATTERNS)), query=TEXT, document=TEXT)
def test_the_joints_that_are_proved_are_exact(by_pattern, joint, name, query, document):
    tokenizer = by_pattern[name]
    left, right = Part("query", joint[0]), Part("document", joint[1])
    assert Joints(tokenizer).exact(left, right)
    one, other = left.render(query, document, None), right.render(query, document, None)
    together, *apart_ = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one + other, one, other))
    assert together == apart_[0] + apart_[1]


@pytest.mark.parametrize("joint", NO_JOINTS)
def test_other_joints_are_not_taken(by_pattern, joint):
    for tokenizer in by_pattern.values():
        assert not Joints(tokenizer).exact(Part("query", joint[0]), Part("document", joint[1]))


def test_a_recipe_whose_document_cannot_be_parted_is_tokenised_whole(tokenizer):
    recipe = replace(RECIPES["zerank"], document_template="\n{document}")
    layout = lay_out(tokenizer, recipe, instructed=False)
    assert layout is None or not layout.document_apart
    prompts = PromptTokenizer(tokenizer, recipe, 8192).factored(QueryGroup("cat?", None, ["one cat", "one dog"]))
    assert tokenizer.decode(prompts.shared) == "<|im_start|>system\ncat?\none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ("query", "document")}, "order must name instruction, query, document"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"instructed_query_template": "{query}"}, "must hold {query} and {instruction} once"),
        ({"instruct_template": "", "instructed_query_template": None}, "must hold {instruction} once"),
        ({"tokenize": "apart", "truncation": "body"}, "cut by truncation: document"),
        ({"tokenize": "twice"}, "tokenize is whole or apart"),
        ({"yes": "no", "no": "no"}, "two answers"),
        ({"yes": ""}, "two answers"),
    ],
)
def test_malformed_recipes_are_refused(change, message):
    with pytest.raises(EngineError) as caught:
        replace(RECIPES["mxbai_v2"], **change)
    assert message in str(caught.value)


def test_braces_in_fixed_text_are_text():
    recipe = replace(RECIPES["mxbai_v2"], prefix='{"x": ', closing="{}", suffix="}")
    assert recipe.prompt("{document}", "{query}", None).startswith('{"x": query: {document}\ndocument: {query}\n{}}')


def test_one_answer_alone_is_its_logit_and_a_scale_divides_it() -> None:
    from rerank_eval.engine.head import Head

    layer = torch.nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.tensor([[9.0, 9.0], [1.0, 2.0], [0.0, 1.0]])
    hidden = torch.tensor([[5.0, 0.0], [0.0, -5.0]])
    alone = Head(layer.requires_grad_(False), 1, None, "float32", "model", scale=5.0)
    assert alone.from_hidden(hidden).margin.tolist() == [5.0, -10.0]
    softmax = Head(layer, 1, None, "recipe_softmax", "float32", scale=5.0).from_hidden(hidden)
    assert softmax.margin.tolist() == [5.0, -10.0]
    assert softmax.arrays()[0].tolist() == torch.sigmoid(torch.tensor([1.0, -2.0])).tolist()
    pair = Head(layer, 1, 2, "recipe_softmax", "float32", scale=2.0).from_hidden(hidden)
    assert pair.arrays()[0].tolist() == pytest.approx(torch.sigmoid(torch.tensor([2.5, -2.5])).tolist())
    with pytest.raises(EngineError, match="the answer is token 3, and the model's output layer has 3 rows"):
        Head(layer, 3, None, "float32", "model")


def test_a_bias_of_the_output_layer_counts() -> None:
    from rerank_eval.engine.head import Head

    layer = torch.nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.5, -1.0])
    hidden = torch.tensor([[2.0, 3.0]])
    for no, expected in ((None, 2.5), (1, 0.5)):
        head = Head(layer.requires_grad_(False), 0, no, "float32", "model")
        assert head.from_hidden(hidden).margin.tolist() == head.from_logits(layer(hidden)).margin.tolist() == [expected]


ONE_TEXT = replace(
    RECIPES["card"], name="one", prefix="Q: ", query_template="{query}\n", document_template="D: {document}",
    instruct_template="", instructed_query_template="{query} ({instruction})\n", suffix=" so?", truncation="prompt",
)  # fmt: skip


@pytest.fixture(scope="module")
def in_one_text(tokenizer):
    demo = AutoTokenizer.from_pretrained(SHIPPED)
    return {
        (name, part, limit): (one, PromptTokenizer(one, replace(ONE_TEXT, document_template=part), limit))
        for name, one in (("qwen", tokenizer), ("demo", demo))
        for part in ("D: {document}", "{document}")
        for limit in (20, 40, 8192)
    }


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.tuples(
        st.sampled_from(["qwen", "demo"]),
        st.sampled_from(["D: {document}", "{document}"]),
        st.sampled_from([20, 40, 8192]),
    ),
    query=TEXT,
    instruction=st.one_of(st.none(), TEXT),
    documents=st.lists(TEXT, min_size=1, max_size=3),
)
def test_a_prompt_in_one_text_is_cut_as_sentence_transformers_does(in_one_text, which, query, instruction, documents):
    tokenizer, maker = in_one_text[which]
    expected = []
    for document in documents:
        asked = query if instruction is None else f"{query} ({instruction})"
        text = f"Q: {asked}\n" + which[1].replace("{document}", document) + " so?"
        ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=which[2])["input_ids"]
        suffix = tokenizer(" so?", add_special_tokens=False)["input_ids"]
        cut = len(tokenizer(text, add_special_tokens=False)["input_ids"]) > which[2]
        expected.append((ids[: -len(suffix)] + suffix if cut else ids, cut))
    group = QueryGroup(query, instruction, documents)
    whole, factored = maker.whole(group), maker.factored(group)
    assert whole.own == [ids for ids, _ in expected]
    assert [factored.shared + ids for ids in factored.own] == whole.own
    assert factored.truncated.tolist() == whole.truncated.tolist() == [cut for _, cut in expected]
