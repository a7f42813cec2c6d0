"""`fsgen judge`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fsgen.cli.options import StudyFolder, silence_libraries
from fsgen.cli.output import console, print_json


def judge(
    folder: StudyFolder,
    by: Annotated[str, typer.Option(help="The judge: openai:URL#MODEL, of any server that chats.")],
    pair: Annotated[
        tuple[str, str] | None, typer.Option(help="Compare the texts of these two runs instead, in both orders.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the judge's words.")] = False,
) -> None:
    """Have the MT-Bench texts of a study judged by a model.

    Each answer of both turns is rated from 1 to 10, with reference answers where the question has some. What the judge
    says is kept in the folder, and it is not asked again.

    \b
    Example:
      fsgen judge runs/my-study --by openai:http://127.0.0.1:8000#Qwen/Qwen2.5-72B-Instruct
    """
    silence_libraries()
    from fsgen.analysis.terminal import plain_table, print_wide
    from fsgen.study.judge import Judge, compare, judged_runs, mean, rate

    runs = judged_runs(folder)
    if pair is not None and (unknown := [run for run in pair if run not in runs]):
        raise ValueError(f"there is no judged run {unknown[0]!r}; there are {', '.join(runs)}")
    asked = Judge(by, folder)
    if pair is not None:
        compared = compare(folder, asked, *pair)
        counts = {winner: sum(one.winner == winner for one in compared) for winner in (1, 2, 0, None)}
        if as_json:
            print_json({"pair": pair, "comparisons": [asdict(one) for one in compared]})
            return
        names = {1: pair[0], 2: pair[1], 0: "neither", None: "not readable"}
        for winner, count in counts.items():
            print(f"{count:5,}  {names[winner]}")
        return
    ratings = rate(folder, asked, runs)
    if as_json:
        print_json({"ratings": [asdict(one) for one in ratings]})
        return
    table = plain_table("run", "rating", "first turn", "second turn", "answers", "not readable", left=1)
    for run in runs:
        own = [one for one in ratings if one.run == run]
        turns = (mean(one.rating for one in own if one.turn in chosen) for chosen in ((1, 2), (1,), (2,)))
        shown = ("-" if value is None else f"{value:.2f}" for value in turns)
        table.add_row(run, *shown, str(len(own)), str(sum(one.rating is None for one in own)))
    print_wide(console(), table)
