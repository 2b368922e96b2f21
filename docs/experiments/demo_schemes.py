"""Print the demo at every scheme as a table: the update, and the memory that comes back.

    quail demo quail-demo
    quail audit quail-demo/original quail-demo/unlearned --retrain quail-demo/retrain --data quail-demo/data \\
        --scheme all
    python docs/experiments/demo_schemes.py .quail/runs/RUN

Reads the report of a run, and prints a row a scheme, by stored bits. An hour on 2 busy cores, half of it GPTQModel's
schemes, which are there where it is installed (pip install 'quail-audit[gptq]').
"""

import sys
from pathlib import Path

from quail_audit.engine.schemes.registry import listed_schemes
from quail_audit.reports import wording
from quail_audit.runs.folder import read_report
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.verdict.standings import scheme_standings

METRIC = "verbmem"
BITS = {scheme.name: scheme.bits_per_weight for scheme in listed_schemes()}  # those of --scheme all
HEADINGS = (
    "scheme", "bits", "overlap", "survival", "noise", "forget: original", "unlearned", "recovered", "retain: original",
    "unlearned", "verdict",
)  # fmt: skip


def mean(measured: SchemeReport, metric: str, arm: str) -> str:
    return f"{measured.metrics[metric][arm].mean:.1f}"


def row(name: str, report: Report, verdict: str) -> tuple[str, ...]:
    measured = report.schemes[name]
    summary = measured.summary
    assert summary is not None
    known = measured.knowledge[f"{METRIC}_forget"].known
    found = None if known is None else known.percent
    return (
        f"`{name}`",
        f"{BITS[name]:.3g}",
        wording.ratio_text(summary.overlap),
        wording.ratio_text(summary.survival),
        wording.ratio_text(summary.noise),
        mean(measured, f"{METRIC}_forget", f"original/{name}"),
        mean(measured, f"{METRIC}_forget", f"unlearned/{name}"),
        "—" if found is None else f"{found:.0f} %",
        mean(measured, f"{METRIC}_retain", f"original/{name}"),
        mean(measured, f"{METRIC}_retain", f"unlearned/{name}"),
        verdict,
    )


def main(run: str) -> None:
    report = read_report(Path(run))
    print("|", " | ".join(HEADINGS), "|")
    print("|---|" + "---:|" * (len(HEADINGS) - 2) + "---|")
    for each in sorted(scheme_standings(report), key=lambda found: BITS[found.scheme]):
        if each.failure is None:
            print("|", " | ".join(row(each.scheme, report, each.standing)), "|")
        else:
            print(f"| `{each.scheme}` | not measured: {each.failure.message} |")


if __name__ == "__main__":
    main(sys.argv[1])
