from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from rerank_demo import frames
from rerank_demo.batches import INSTRUCTIONS, Batches, BatchPlan, Group, Prompts, answer_ids
from rerank_demo.corpus import Package
from rerank_demo.data import TrainingData, mine_minilm, prepare
from rerank_demo.evaluation import instructions_followed, score_group
from rerank_demo.initialisation import initialise
from rerank_demo.instructions import InstructedGroups
from rerank_demo.loop import Run, RunPlan, group_loss
from rerank_demo.network import GroupTokens, Shape, forward, lay_out
from rerank_demo.probes import KEYS, PROPERTIES, RESTRICTIONS, Probes, States
from rerank_demo.session import Session, Settings, token_rarity
from rerank_demo.wordings import PHRASES, Clause, Wordings, kind_of, opposite, worded
from rerank_eval.engine import loading
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.tasks.embedded import rules as rules_module
from rerank_eval.tasks.embedded.rules import RULES, package_rules

SHAPE = Shape(hidden_size=64, intermediate_size=96, num_hidden_layers=3)
PLAN = BatchPlan(groups=3, negatives=5, tokens=48, instructed=0.0)


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def initial(data: TrainingData) -> Qwen3ForCausalLM:
    return initialise(data.tokenizer, token_rarity(data), SHAPE)


def _run(data: TrainingData, initial: Qwen3ForCausalLM, seed: int = 0, **changed: Any) -> Run:
    model = copy.deepcopy(initial)
    plan = replace(RunPlan(warmup=5, learning_rate=2e-3, embedding_rate=2e-3, compiled=False), **changed)
    return Run(model, Batches(data, PLAN, seed), plan, answer_ids(data), bfloat16=False)


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def test_the_loss_falls(data: TrainingData, initial: Qwen3ForCausalLM) -> None:
    run = _run(data, initial)
    losses = [run.train_step()["loss"] for _ in range(24)]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_a_run_that_is_taken_up_ends_with_the_same_bits(
    data: TrainingData, initial: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    whole = _run(data, initial)
    for _ in range(6):
        whole.train_step()
    first = _run(data, initial)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second = _run(data, initial)
    second.load(tmp_path / "state.pt")
    assert second.step == 3
    for _ in range(3):
        second.train_step()
    for name, value in _weights(whole).items():
        assert torch.equal(value, _weights(second)[name]), name
    averages = whole.averaged(lambda model: {n: v.detach().clone() for n, v in model.named_parameters()})
    again = second.averaged(lambda model: {n: v.detach().clone() for n, v in model.named_parameters()})
    assert all(torch.equal(averages[name], again[name]) for name in averages)


def test_parts_of_a_step_add_up_to_it(data: TrainingData, initial: Qwen3ForCausalLM) -> None:
    """Three groups in one part, in two (of two and one) by two threads, and in three."""
    runs = [_run(data, initial, parts=parts) for parts in (1, 2, 3)]
    told = [[run.train_step()["loss"] for _ in range(3)] for run in runs]
    np.testing.assert_allclose(told[1], told[0], rtol=1e-4)
    np.testing.assert_allclose(told[2], told[0], rtol=1e-4)
    again = _run(data, initial, parts=2)
    assert [again.train_step()["loss"] for _ in range(3)] == told[1]
    assert all(torch.equal(value, _weights(again)[name]) for name, value in _weights(runs[1]).items())


@pytest.mark.slow
def test_compiled_pieces_give_the_same_margins_and_gradients(data: TrainingData, initial: Qwen3ForCausalLM) -> None:
    groups = [group.tokens for group in Batches(data, PLAN, 0).step(0)]
    found = []
    for compiled in (False, True):
        model = copy.deepcopy(initial)
        scores = forward(model, lay_out(groups, 3), *answer_ids(data), compiled=compiled).margins
        found.append((scores.detach(), *torch.autograd.grad(scores.square().sum(), list(model.parameters()))))
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-3 * float(plain.abs().max()), rtol=1e-3)


def test_the_teacher_has_its_share_in_what_is_wanted(data: TrainingData) -> None:
    tokens = Batches(data, PLAN, 0).step(0)[0].tokens
    relevant = np.array([1, 0, 0], dtype=np.float32)
    cosines = np.array([0.5, 0.6, 0.1], dtype=np.float32)
    plan = RunPlan(teacher=0.25, sharpness=20.0, pointwise=0.0)
    scores = torch.tensor([0.3, -0.2, 0.9])
    loss, _ = group_loss(scores, [Group(tokens, relevant, cosines)], plan)
    opinion = np.exp(20 * cosines) / np.exp(20 * cosines).sum()
    wanted = 0.75 * relevant + 0.25 * opinion
    expected = -(wanted * torch.log_softmax(scores, 0).numpy()).sum()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    without, _ = group_loss(scores, [Group(tokens, relevant)], plan)
    assert float(without) == pytest.approx(-float(torch.log_softmax(scores, 0)[0]), rel=1e-5)


def test_what_is_mined_in_part_is_trained_on_in_part(
    listed: tuple[Path, list[Package]], data: TrainingData, tmp_path: Path
) -> None:
    folder, packages = listed
    shutil.copytree(folder, tmp_path / "work")

    def prepared() -> TrainingData:
        return prepare(tmp_path / "work", allow_download=False, vocabulary=3000, listed=packages)

    mine_minilm(tmp_path / "work", data, 1, max_tokens=48)
    part = prepared()
    assert part.minilm is not None
    assert part.teacher is not None
    assert set(part.shard[part.bm25.queries].tolist()) == {0}
    np.testing.assert_array_equal(part.minilm.queries, part.bm25.queries)
    for row in range(5):
        places = part.minilm.documents[row]
        found = part.teacher.cosines(row, [int(place) for place in places])
        np.testing.assert_allclose(found, part.minilm.scores[row], atol=2e-3)
    group = Batches(part, PLAN, 0).step(0)[0]
    assert group.teacher is not None
    assert len(group.teacher) == len(group.relevant)
    mine_minilm(tmp_path / "work", part, max_tokens=48)
    np.testing.assert_array_equal(prepared().bm25.queries, data.bm25.queries)


def test_steps_depend_on_seed_and_number_alone(data: TrainingData) -> None:
    first, second, other = (Batches(data, PLAN, seed) for seed in (0, 0, 1))
    second.step(7)
    assert [one.tokens for one in first.step(3)] == [one.tokens for one in second.step(3)]
    assert [one.tokens for one in first.step(3)] != [one.tokens for one in other.step(3)]


def test_an_epoch_asks_every_query_once(data: TrainingData) -> None:
    batches = Batches(data, PLAN, 0)
    asked = [tuple(group.tokens.prefix[-8:]) for step in range(batches.epoch_steps) for group in batches.step(step)]
    assert len(set(asked)) > 0.95 * len(asked)


def test_margins_are_the_engines(data: TrainingData, initial: Qwen3ForCausalLM, tmp_path: Path) -> None:
    session = Session(tmp_path, "parity", Settings(shape=SHAPE), data=data)
    model = copy.deepcopy(initial)
    folder = _exported(session, model, tmp_path / "checkpoint")
    engine = loading.load_engine(folder, recipe="card", dtype="float32", device="cpu")
    documents = [data.functions[i].code for i in range(30) if len(data.documents[i]) < 300]
    assert len(documents) > 10
    query, instruction = data.functions[0].summary, INSTRUCTIONS[0]
    expected = engine.score(QueryGroup(query, instruction, documents)).margins
    rounded = model.to(torch.bfloat16).float()
    tokens = Prompts(data, 10_000).text_group(query, documents, instruction)
    found = score_group(rounded, tokens, answer_ids(data), bfloat16=False)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)


def test_a_run_may_begin_with_an_exported_checkpoint(
    data: TrainingData, initial: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    settings = Settings(shape=SHAPE, batches=PLAN, run=RunPlan(compiled=False, parts=1), bfloat16=False)
    first = Session(tmp_path, "first", settings, data=data)
    folder = _exported(first, initial, tmp_path / "checkpoint")
    begun = Session(tmp_path, "second", settings, data=data).start(folder)
    for name, value in initial.named_parameters():
        assert torch.equal(_weights(begun)[name], value.to(torch.bfloat16).float()), name
    begun.train_step()
    again = Session(tmp_path, "second", settings, data=data).start()
    assert torch.equal(_weights(again)["model.norm.weight"], initial.model.norm.weight.to(torch.bfloat16).float())
    small = replace(settings, shape=replace(SHAPE, num_hidden_layers=2))
    with pytest.raises(DataError, match="another shape"):
        Session(tmp_path, "third", small, data=data).start(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no checkpoint of this training"):
        Session(tmp_path, "fourth", settings, data=data).start(folder)


def test_documents_of_a_row_do_not_see_each_other(data: TrainingData, initial: Qwen3ForCausalLM) -> None:
    model = initial
    groups = [group.tokens for group in Batches(data, PLAN, 0).step(0)]
    with torch.inference_mode():
        together = forward(model, lay_out(groups, 3), *answer_ids(data)).margins
        alone = torch.cat([forward(model, lay_out([one], 1), *answer_ids(data)).margins for one in groups])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_an_instruction_decides_what_is_relevant(data: TrainingData) -> None:
    source = InstructedGroups([one for one, shard in zip(data.functions, data.shard, strict=True) if shard >= 0])
    generator = np.random.default_rng(0)
    drawn = [source.draw(12, generator) for _ in range(20)]
    for one in drawn:
        first, second = one.relevant
        assert 2 <= first.sum() < 12
        assert (first != second).sum() >= 2, one.instructions
        assert one.instructions[0] != one.instructions[1]
        assert len(one.documents) == 12


def test_a_beginner_does_not_follow_instructions_yet(data: TrainingData, initial: Qwen3ForCausalLM) -> None:
    followed = instructions_followed(initial, data, groups=6, documents=8, tokens=64)
    assert 0.2 < followed < 0.8


def _moved(first: list[float], second: list[float], plan: RunPlan) -> tuple[float, dict[str, float]]:
    """The loss of three documents under two instructions, the first of which wants document 0, the second not."""
    tokens = GroupTokens([0], [[0]] * 3)
    groups = [
        Group(tokens, np.array([1, 1, 0], dtype=np.float32), parted=True),
        Group(tokens, np.array([0, 1, 0], dtype=np.float32)),
    ]
    loss, told = group_loss(torch.tensor([*first, *second]), groups, plan)
    return float(loss), told


def test_documents_that_two_instructions_part_have_to_move() -> None:
    plan = RunPlan(pointwise=0.0, contrast=1.0)
    alone = replace(plan, contrast=0.0)
    followed, against = ([2.0, 1.0, 0.0], [0.0, 1.0, 0.0]), ([0.0, 1.0, 0.0], [2.0, 1.0, 0.0])
    for margins_, right in ((followed, 1.0), (against, 0.0)):
        loss, told = _moved(*margins_, plan)
        assert told["moved"] == right
        # Document 0 moves by 2, the mean of all by 2/3.
        moved = (2 - 2 / 3) * (1 if right else -1)
        assert loss - _moved(*margins_, alone)[0] == pytest.approx(math.log1p(math.exp(-moved)), rel=1e-5)
    # A margin that moves all of them alike moves none against the others.
    assert _moved([5.0, 6.0, 5.0], [0.0, 1.0, 0.0], plan)[0] - _moved([5.0, 6.0, 5.0], [0.0, 1.0, 0.0], alone)[
        0
    ] == pytest.approx(math.log(2), rel=1e-5)


def test_probes_ask_for_what_is_named_wanted_and_met() -> None:
    generator = torch.Generator().manual_seed(0)
    told, said = ((torch.rand(n, RESTRICTIONS, generator=generator) < 0.2).float() for n in (40, 50))
    met = (torch.rand(60, len(PROPERTIES), generator=generator) < 0.3).float()
    hidden = 64
    states = States(*(torch.randn(n, hidden, generator=generator) / 10 for n in (40, 40, 60, 50)))
    named = RESTRICTIONS - len(KEYS)
    states.late[:, : len(KEYS)] += told[:, : len(KEYS)]
    states.early[:, :named] += told[:, len(KEYS) :]
    states.documents[:, : len(PROPERTIES)] += met
    states.clauses[:, :RESTRICTIONS] += said
    probes = Probes(hidden)
    begun, _ = probes.loss(states, told, met, said)
    assert begun.item() == pytest.approx(4 * math.log(2), rel=1e-5)
    optimizer = torch.optim.Adam(probes.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        probes.loss(states, told, met, said)[0].backward()
        optimizer.step()
    _, shares = probes.loss(states, told, met, said)
    assert shares == {"named": 1.0, "said": 1.0, "read": 1.0, "seen": 1.0}
    # What is wanted does not stand in the early states, nor what is named in the late ones.
    _, crossed = probes.loss(replace(states, early=states.late, late=states.early), told, met, said)
    assert crossed["named"] < 0.5
    assert crossed["read"] < 0.5
    # A batch may have instructions without a restriction alone.
    unsaid, _ = probes.loss(replace(states, clauses=states.clauses[:0]), told, met, said[:0])
    assert torch.isfinite(unsaid)


def test_every_sentence_of_an_instruction_ends_where_it_is_asked_about(data: TrainingData) -> None:
    source = InstructedGroups([one for one, shard in zip(data.functions, data.shard, strict=True) if shard >= 0])
    prompts, generator, asked = Prompts(data, 96), np.random.default_rng(0), set()
    for _ in range(300):
        text, told, clauses = source.instruction(generator)
        alone = prompts.alone(text, clauses)
        assert len(alone.clauses) == len(clauses)
        for end, one in zip(alone.clauses, clauses, strict=True):
            # The tokenizer keeps no blanks and no capitals, which is all that decoding loses.
            read = data.tokenizer.decode(alone.prefix[: end + 1])
            assert _letters(read).endswith(_letters(text[: one.end])), text
            assert text[one.end - 1] in ".;:,"
        assert {kind_of(one.key) for one in clauses} == {
            key for key, wanted in zip(KEYS, told[: len(KEYS)], strict=True) if wanted
        }
        asked.add(len(clauses))
    assert asked == {0, 1, 2, 3, 4}


def _letters(text: str) -> str:
    return "".join(text.lower().split())


def test_either_polarity_has_the_same_words() -> None:
    generator = np.random.default_rng(0)
    texts = {wanted: " ".join(frames.draw(wanted, False, generator) for _ in range(4000)) for wanted in (True, False)}
    for word in ("drop ", "keep ", " not ", " relevant", " except "):
        assert min(text.lower().count(word) for text in texts.values()) > 10, word
    for wanted, text in texts.items():
        kept = {True: frames.WANTED, False: frames.UNWANTED}[wanted][-frames.HELD_OUT_FRAMES :]
        assert not any(frame in text for frame in kept)


def test_a_clause_wants_what_it_names_or_the_opposite() -> None:
    assert Clause("methods", wanted=True, end=9).key == "methods"
    assert Clause("package:numpy", wanted=False, end=9).key == "package-not:numpy"


def test_probes_move_the_network_and_stay_out_of_it(
    data: TrainingData, initial: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    plan = replace(PLAN, groups=2, tokens=96, instructed=1.0, alone=4)
    settings = RunPlan(warmup=1, compiled=False, parts=1, contrast=0.0)
    asked, silent = (
        Run(copy.deepcopy(initial), Batches(data, plan, 0), replace(settings, probes=weight), answer_ids(data))
        for weight in (1.0, 0.0)
    )
    for _ in range(3):  # of zeros, they have no gradient for the network yet in the first step
        told, untold = asked.train_step(), silent.train_step()
    assert {"named", "said", "read", "seen"} <= set(told)
    assert not {"named", "said", "read", "seen"} & set(untold)
    assert not torch.equal(*(_weights(run)["model.layers.0.mlp.up_proj.weight"] for run in (asked, silent)))
    assert not any("probe" in name for name in _weights(asked))
    asked.save(tmp_path / "state.pt")
    silent.load(tmp_path / "state.pt")
    assert asked.probes.met.weight.abs().sum() > 0
    assert all(torch.equal(value, silent.probes.state_dict()[key]) for key, value in asked.probes.state_dict().items())


def test_a_state_of_an_earlier_release_is_named(data: TrainingData, initial: Qwen3ForCausalLM, tmp_path: Path) -> None:
    run = _run(data, initial)
    run.save(tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["probes"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(DataError, match="an earlier release left this run; begin another with --run NAME"):
        run.load(tmp_path / "state.pt")


def test_what_an_instruction_wants_is_told_by_its_restrictions(data: TrainingData) -> None:
    source = InstructedGroups([one for one, shard in zip(data.functions, data.shard, strict=True) if shard >= 0])
    drawn = [source.draw(12, np.random.default_rng(seed)) for seed in range(30)]
    for one in drawn:
        assert one.restrictions[0, : len(KEYS)].sum() in (1, 2)
        for wanted, relevant in zip(one.restrictions, one.relevant, strict=True):
            for key in (key for key, there in zip(KEYS, wanted, strict=False) if there and key in PROPERTIES):
                met = one.properties[:, PROPERTIES.index(key)]
                assert (met >= relevant).all(), key
    assert {key for one in drawn for key, there in zip(KEYS, one.restrictions.max(axis=0), strict=False) if there} > {
        "methods",
        "functions",
    }


@pytest.mark.slow
def test_no_instruction_is_worded_as_the_task_words_it() -> None:
    rules = {rule.key: rule for rule in RULES}
    rules |= {f"{rule.key}:numpy": rule for rule in package_rules("numpy")}
    assert {kind_of(key) for key in rules} == set(PHRASES)
    tasks = {sentence for rule in rules.values() for sentence in rule.wordings}
    assert not set[str]().union(*(worded(key, tasks) for key in rules))
    generator = np.random.default_rng(0)
    for key in rules:  # it finds those that are
        own = {Wordings().sentence(key, generator)[0] for _ in range(40)}
        assert worded(key, {*tasks, *own}), key
    assert not {*frames.OPEN, *frames.LIMITED} & {*rules_module.OPEN, *rules_module.LIMITED}


def test_wordings_of_the_evaluation_are_not_trained_on() -> None:
    generator = np.random.default_rng(0)
    trained, asked = (
        {Wordings(held_out=held_out).sentence(key, generator)[0] for key in PHRASES for _ in range(100)}
        for held_out in (False, True)
    )
    assert len(trained) > 500
    assert not trained & asked


def test_an_opposite_excludes_what_a_restriction_wants(data: TrainingData) -> None:
    assert all(opposite(opposite(key)) == key for key in PHRASES)
    assert opposite("package:numpy") == "package-not:numpy"
    rules = {rule.key: rule for rule in RULES}
    for key, rule in rules.items():
        assert [rule.holds(one) for one in data.functions] == [
            not rules[opposite(key)].holds(one) for one in data.functions
        ]


@pytest.mark.slow
def test_a_session_trains_evaluates_saves_and_exports(
    data: TrainingData, listed: tuple[Path, object], tmp_path: Path
) -> None:
    settings = Settings.parse(
        [
            "evaluation.queries=10",
            "evaluation.depth=10",
            "evaluation.instructed=2",
            "batches.tokens=48",
            "batches.groups=2",
            "run.compiled=false",
        ]
    )
    session = Session(tmp_path, "whole", settings, data=data)
    session.train(until=time.monotonic() + 600, steps=3)
    again = Session(tmp_path, "whole", settings, data=data).train(until=time.monotonic() + 600, steps=5)
    assert again.step == 5
    log = (tmp_path / "runs" / "whole" / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [0, 3, 5]
    assert Settings.stored(Session.settings_file(tmp_path, "whole")) == settings
    folder = session.export(tmp_path / "checkpoint")
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
    }
    assert "Held-out packages" in (folder / "README.md").read_text(encoding="utf-8")


def test_settings_of_a_run_are_kept_and_can_be_changed(tmp_path: Path) -> None:
    settings = Settings.parse(["run.learning_rate=0.002", "batches.groups=3"], Settings(seed=5))
    path = tmp_path / "settings.json"
    assert Settings.stored(path) is None
    path.write_text(json.dumps(asdict(settings)), encoding="utf-8")
    kept = Settings.stored(path)
    assert kept == settings
    assert Settings.parse(["batches.groups=4"], kept) == replace(settings, batches=replace(settings.batches, groups=4))


def test_export_without_weights_says_so(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train first"):
        Session(tmp_path, "none", Settings(), data=data).export(tmp_path / "checkpoint")


@pytest.mark.parametrize("text", ["run.speed=1", "nothing", "run.learning_rate=fast", "seed.x=1"])
def test_a_bad_setting_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        Settings.parse([text])


def _figures() -> dict[str, float]:
    return {"step": 0, "seconds": 0.0, "bm25": 0.0, "bm25_reranked": 0.0, "minilm": 0.0, "minilm_reranked": 0.0}


def _plan() -> dict[str, object]:
    return asdict(Settings(shape=SHAPE))


def _exported(session: Session, model: Qwen3ForCausalLM, target: Path) -> Path:
    """Export a model as if it were the best of a session's run."""
    best = {"weights": dict(model.named_parameters()), "figures": _figures(), "plan": _plan()}
    torch.save(best, session.best)
    return session.export(target)
