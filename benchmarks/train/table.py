"""The Markdown of a results file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = (
    "row", "what", "tokens/s", "learned/s", "CPU s/epoch", "peak MiB", "of the floor", "of the prepacked floor",
    "real/computed", "tokens/step", "first losses", "correct",
)  # fmt: skip


def markdown(found: Mapping[str, Any]) -> str:
    """A report of one session: conditions, rows, ratios."""
    return "\n".join([*conditions(found), "", *rows_table(found), "", *ratios(found), ""])


def line(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def conditions(found: Mapping[str, Any]) -> list[str]:
    """What was measured where."""
    work, machine = found["workload"], found["machine"]
    rates = ", ".join(f"{name} {rate['gflops']:.0f} GFLOP/s" for name, rate in found["matrix_rate"].items())
    floors = ", ".join(f"{name} {floor:.0f}" for name, floor in found["floor"].items())
    return [
        f"# Training, workload {work['name']}",
        "",
        f"- Command: `{found['command']}`",
        f"- {found['date']}, {machine['cpu']}, {machine['cores']} cores, {found['threads']} threads, "
        f"load before and after {machine['load']}",
        f"- {work['dialogues']} dialogues, {work['tokens']} tokens ({work['supervised']} learned), median "
        f"{work['length']['p50']}, longest {work['longest']}; {work['dialogues_per_step']} dialogues a step",
        f"- Best matrix rate: {rates}; floor in counted tokens/s: {floors}",
        f"- {found['rounds']} rounds of {found['steps']} steps after {found['warm_up']} of warm-up "
        f"(hantune {found['hantune_steps']}); medians; epochs are extrapolated from these steps",
        *(f"- {tool}: " + ", ".join(f"{k} {v}" for k, v in used.items()) for tool, used in found["versions"].items()),
    ]


def rows_table(found: Mapping[str, Any]) -> list[str]:
    """A line for each row."""
    lines = [line(HEAD), line("---" for _ in HEAD)]
    for name, row in found["rows"].items():
        check = found["checks"].get(name)
        useful = row["useful_share"]
        speed = f"{row['tokens_per_second']:.0f} (±{row['spread'] / 2:.0%})"
        cells = (
            name, row["what"], speed, f"{row['supervised_per_second']:.0f}", f"{row['cpu_seconds_per_epoch']:.0f}",
            row["peak_mib"], f"{row['share_of_floor']:.0%}", f"{row['share_of_prepacked']:.0%}",
            "" if useful is None else f"{useful:.0%}", row["tokens_per_step"],
            "" if check is None else " ".join(f"{off:+.4f}" for off in check["losses_off"]),
            "" if check is None else "yes" if check["is_correct"] else "NO",
        )  # fmt: skip
        lines.append(line(cells))
    return lines


def ratios(found: Mapping[str, Any]) -> list[str]:
    """How many times as fast as a peer's row hantune's are, by wall and processor time; their share of its memory."""
    rows = found["rows"]
    ours = [name for name, row in rows.items() if row["tool"] == "hantune"]
    head = ("times as fast as", *ours, *(f"{name}, CPU" for name in ours), "memory")
    lines = [line(head), line("---" for _ in head)]
    for name, row in rows.items():
        if row["tool"] == "hantune":
            continue
        marks = " (default)" * row["is_default"] + " (fastest correct)" * (fastest_correct(found, row["tool"]) == name)
        wall = (f"{rows[own]['tokens_per_second'] / row['tokens_per_second']:.2f}" for own in ours)
        cpu = (f"{rows[own]['tokens_per_cpu_second'] / row['tokens_per_cpu_second']:.2f}" for own in ours)
        memory = ", ".join(f"{rows[own]['peak_mib'] / row['peak_mib']:.2f}" for own in ours)
        lines.append(line((name + marks, *wall, *cpu, memory)))
    return lines


def fastest_correct(found: Mapping[str, Any], tool: str) -> str | None:
    """The row of a tool with the most tokens a second among those whose check passed."""
    good = {
        name: row["tokens_per_second"]
        for name, row in found["rows"].items()
        if row["tool"] == tool and found["checks"].get(name, {}).get("is_correct")
    }
    return max(good, key=lambda name: good[name]) if good else None
