"""Make the truth set, tell its truth, audit it, and write docs/validity.md.

python -m tests.validity [--work FOLDER] [--page FILE] [--items 12 32 64 96] [--made] [--cases PATTERN …]
"""

from __future__ import annotations

import argparse
import time
from fnmatch import fnmatchcase
from pathlib import Path

from tests.validity.audits import is_audited
from tests.validity.page import page
from tests.validity.results import Interval, Result, earlier_interval, folder_of, results_of
from tests.validity.telling import Teller
from tests.validity.truth_set import FORGET, GROUPS, Case, build_group, cases_of

ITEMS = (12, 32, 64, FORGET)
EARLIER_ITEMS = (6, 12, 24, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/validity"), help="folder that keeps what was made")
    parser.add_argument("--page", type=Path, default=Path("docs/validity.md"), help="page to write")
    parser.add_argument("--items", type=int, nargs="+", default=ITEMS, help="numbers of items to judge on")
    parser.add_argument("--made", action="store_true", help="take only the cases that were audited already")
    parser.add_argument("--cases", nargs="+", default=["*"], help="cases, as llama/confined-*")
    arguments = parser.parse_args()
    every = [case for group in GROUPS for case in cases_of(group)]
    chosen = [case for case in every if any(fnmatchcase(case.key, pattern) for pattern in arguments.cases)]
    if arguments.made:
        chosen = [case for case in chosen if is_audited(folder_of(arguments.work, case), case)]
    results, earlier = run(chosen, arguments.work, arguments.items)
    arguments.page.write_text(page(results, len(every), earlier))


def run(cases: list[Case], work: Path, numbers: list[int]) -> tuple[list[Result], dict[int, list[Interval]]]:
    """Make and audit the cases, and return the results, and the earlier rule's intervals on the partial leaks."""
    results: list[Result] = []
    earlier: dict[int, list[Interval]] = {number: [] for number in EARLIER_ITEMS}
    for group in GROUPS:
        own = [case for case in cases if case.group == group]
        if not own:
            continue
        folder = folder_of(work, own[0])
        for line in build_group(group, folder, own):
            print(line, flush=True)
        teller = Teller(group, folder)
        for case in own:
            started = time.monotonic()
            found = list(results_of(teller, case, numbers))
            results += found
            print(f"{case.key}: {time.monotonic() - started:.0f} s,", _in_words(found), flush=True)
            if case.kind == "partial leak":
                for number, intervals in earlier.items():
                    one = earlier_interval(teller, case, group.leaking, number)
                    intervals += [] if one is None else [one]
    return results, earlier


def _in_words(results: list[Result]) -> str:
    wrong = [f"{each.judged} at {each.scheme} of {each.items}" for each in results if each.judged != "right"]
    return ", ".join(wrong) or "all right"


if __name__ == "__main__":
    main()
