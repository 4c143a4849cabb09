"""The command `eval`."""

from __future__ import annotations

import time

from rerank_eval.commands import ConfigOption, SetOption, SplitOption, TaskOption, app, console, with_split


@app.command("eval")
def evaluate(
    task: TaskOption = None, config: ConfigOption = None, set_: SetOption = None, split: SplitOption = None
) -> None:
    """Retrieve, rerank, score, and write the leaderboard.

    Examples:
        rerank-eval eval

        rerank-eval eval --task PyFunctionRetrieval --set embedded.size=medium

        rerank-eval eval --task SciFact --config qwen3-0.6b

        rerank-eval eval --task path/to/my_beir_folder --split dev

    What is done already is not done again; Ctrl-C loses nothing, a crash the block of queries under way at most.
    """
    from rerank_eval.session.choice import choose_and_read

    started = time.monotonic()
    loaded = choose_and_read(task or [], config, with_split(set_, split), console)
    from rerank_eval.analysis.leaderboard import show_leaderboard
    from rerank_eval.session.start import start

    session = start(loaded, console)
    plan, say = session.plan, session.reporter.say
    say(f"tasks: {', '.join(task.told for task in plan.tasks)}")
    say(f"runs: {len(plan.retrievers)} retriever(s), {len(plan.rerankers())} reranker run(s); log: {session.log}")
    _, outcome = session.run()
    seconds = time.monotonic() - started
    say(f"computed {len(outcome.computed)}, done before {len(outcome.skipped)}, {seconds:.0f} s in all")
    show_leaderboard(plan.results_dir, outcome.revisions, console)
    session.tracker.table((plan.results_dir / "leaderboard.csv").read_text(encoding="utf-8"))
    session.tracker.finish()
