"""Whether the command lines of a sweep can be parsed, before the first run begins."""

import json
import subprocess
from collections.abc import Sequence

from lorattt.errors import UserError
from lorattt.sweep.plan import Run


def check(runs: Sequence[Run], checker: Sequence[str]) -> None:
    """Have all command lines parsed in one process of its own, as that takes torch; seeds of a run differ in nothing.

    Args:
        runs: The runs.
        checker: The program that reads command lines and says what is wrong with each.

    Raises:
        UserError: If a key or a value of one is wrong, or they cannot be checked.
    """
    chosen: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        chosen.setdefault((run.command, run.row, run.dataset), run)
    lines = json.dumps([run.arguments for run in chosen.values()])
    done = subprocess.run([*checker], input=lines, capture_output=True, text=True, encoding="utf-8")
    try:
        problems = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"the command lines cannot be checked: {last[:300]}") from None
    wrong = [(run, problem) for run, problem in zip(chosen.values(), problems, strict=True) if problem]
    if wrong:
        run, problem = wrong[0]
        more = f" ({len(wrong) - 1} more of {len(chosen)} are wrong as well)" if len(wrong) > 1 else ""
        raise UserError(f"{run.name}: {problem}{more}")
