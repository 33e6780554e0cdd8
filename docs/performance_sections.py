"""Write the sections of the performance page: the results of benchmark runs as tables, each with command and date."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docs.performance_figures import SHAPES, THREADS, Records, predicted_tokens_per_second

Record = Mapping[str, Any]
Rows = Sequence[Sequence[str]]


def table(header: Sequence[str], rows: Rows) -> str:
    """Return a table as Markdown; all columns but the first hold numbers."""
    lines = [header, ["---", *(["---:"] * (len(header) - 1))], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def source_of(*runs: Record) -> str:
    """Return the commands and dates of the runs behind a table."""
    commands = "\n".join(dict.fromkeys(run["command"] for run in runs))
    dates = sorted({run["date"] for run in runs})
    return f"Measured {' and '.join(dates)} by:\n\n```sh\n{commands}\n```\n"


def _figure(name: str, text: str) -> str:
    return f"![{text}](performance/{name}.svg)\n"


def chosen(found: Records, *names: str) -> list[Record]:
    """Return the records of some runs."""
    return [found[name] for name in names]


def percent(share: float) -> str:
    """Format a fraction as a percentage."""
    return f"{share:.0%}"


# ---- sections ----------------------------------------------------------------------------------------------------
def machines(found: Records) -> Iterator[str]:
    machines = list({json.dumps(record["machine"]): record["machine"] for record in found.values()}.values())
    yield "## Machine\n"
    yield table(
        ["", *(f"machine {i + 1}" if len(machines) > 1 else "" for i in range(len(machines)))],
        [[name.replace("_", " "), *(str(machine[name]) for machine in machines)] for name in machines[0]],
    )


def walls(found: Records) -> Iterator[str]:
    rows = []
    for n in THREADS:
        [read], [peak], [fma] = (chosen(found, f"{wall}-{n}") for wall in ("read", "peak", "fma"))
        walls = read["result"]["read_gb_per_second"], peak["result"]["peak_gmacs_per_second"]
        rows.append([str(n), f"{walls[0]:.1f}", f"{walls[1]:.0f}", f"{fma['result']['fma_giga_per_second']:.0f}"])
    yield "## Walls\n"
    yield table(["threads", "read, GB/s", "int8 multiply-adds, G/s", "float multiply-adds, G/s"], rows)
    yield source_of(*chosen(found, *(f"{wall}-{n}" for wall in ("read", "peak", "fma") for n in THREADS)))


def decoding(found: Records) -> Iterator[str]:
    names = [f"decode-{shape}-{n}" for shape in SHAPES for n in THREADS]
    rows = []
    for shape in SHAPES:
        for n in THREADS:
            result = found[f"decode-{shape}-{n}"]["result"]
            rows.append(
                [
                    f"{shape}, {n} thread{'s' if n > 1 else ''}",
                    f"{result['bytes_per_token'] / 1e6:,.0f}",
                    f"{result['read_gb_per_second']:.1f}",
                    f"{predicted_tokens_per_second(result):.1f}",
                    f"{result['tokens_per_second']:.1f}",
                    percent(result["mbu"]),
                ]
            )
    yield "## Decoding: model size and threads\n"
    header = ["context 64, exact head", "MB a token", "read test, GB/s", "predicted tokens/s", "measured", "share"]
    yield table(header, rows)
    yield _figure("model-size", "Time of a token against the bytes that it reads")
    yield _figure("threads", "Time of a token against threads")
    yield source_of(*chosen(found, *names))


def context(found: Records) -> Iterator[str]:
    run = found["context"]
    yield "## Decoding: context\n"
    header = ["context", "MB a token", "predicted tokens/s", "measured", "share"]
    yield table(
        header,
        [
            [
                f"{row['context']:,}",
                f"{row['bytes_per_token'] / 1e6:,.0f}",
                f"{row['predicted_tokens_per_second']:.1f}",
                f"{row['tokens_per_second']:.1f}",
                percent(row["mbu"]),
            ]
            for row in run["result"]["contexts"]
        ],
    )
    yield _figure("context", "Time of a token against the context")
    yield source_of(run)


def prompts(found: Records) -> Iterator[str]:
    names = [f"prefill-{shape}-{n}" for shape in SHAPES for n in THREADS]
    rows = []
    for name, record in [*((name, found[name]) for name in names), ("prompts", found["prompts"])]:
        for row in record["result"]["prompts"]:
            what = name.removeprefix("prefill-") if name != "prompts" else "2B-4T-2"
            shape, _, n = what.rpartition("-")
            rows.append(
                [
                    f"{shape}, {n} thread{'s' if n > '1' else ''}",
                    f"{row['tokens']:,}",
                    f"{row['prompt_tokens_per_second']:.1f}",
                    percent(row["mac_share"]),
                    percent(row["bound_share"]),
                    f"x {row['time_growth']:.2f}",
                    f"x {row['arithmetic_growth']:.2f}",
                ]
            )
    yield "## Reading prompts\n"
    yield (
        "The share of the peak counts the products of linear layers alone; the share of the bound counts attention's\n"
        "float multiply-adds too, at the speed of a loop of these. Growth is that of a token's time, and of its\n"
        "arithmetic at these speeds, over the shortest prompt of the command.\n"
    )
    header = ["", "tokens", "tokens/s", "of int8 peak", "of the bound", "time a token", "arithmetic a token"]
    yield table(header, rows)
    yield _figure("prompts", "Time of a prompt's token against the prompt's length")
    yield source_of(*chosen(found, *names, "prompts"))


def batches(found: Records) -> Iterator[str]:
    run = found["batch"]
    speeds = run["result"]["tokens_per_second"]
    first = next(iter(speeds.values()))
    yield "## Several sequences at once\n"
    shares = run["result"]["bound_share"]
    rows = [[size, f"{speed:.1f}", f"{speed / first:.2f}", percent(shares[size])] for size, speed in speeds.items()]
    yield "The bound is that of memory or arithmetic, whichever takes longer, for the layers and for the head.\n"
    yield table(["sequences", "tokens/s together", "of the first", "of the bound"], rows)
    yield _figure("batch", "Time of a token against the sequences of a batch")
    yield source_of(run)


def layers(found: Records) -> Iterator[str]:
    rows = []
    for n in THREADS:
        for row in found[f"kernels-{n}"]["result"]["products"]:
            if row["layer"] == "all":
                shares = percent(row["read_share"]), percent(row["mac_share"])
                rows.append([f"{n} thread{'s' if n > 1 else ''}", f"{row['tokens']:,}", *shares])
    yield "## Linear layers\n"
    yield "The four products of a 2B-4T layer, without anything else; the greater share is that of what bounds them.\n"
    yield table(["", "tokens of a step", "of the read test", "of the int8 peak"], rows)
    yield _figure("layers", "Time of a token in the linear layers against the tokens of a step")
    yield source_of(*chosen(found, *(f"kernels-{n}" for n in THREADS)))


def start(found: Records) -> Iterator[str]:
    run = found["startup"]
    result = dict(run["result"])
    size = result.pop("model_bytes")
    yield "## Start\n"
    yield table(
        [f"a file of {size / 1e6:,.0f} MB", "seconds"],
        [[name.removesuffix("_seconds").replace("_", " "), f"{value:.2f}"] for name, value in result.items()],
    )
    yield source_of(run)


def contention(found: Records) -> Iterator[str]:
    run = found["contend"]
    speeds = run["result"]["tokens_per_second"]
    alone = next(iter(speeds.values()))
    yield "## Beside other programs\n"
    yield table(
        ["beside", "tokens/s", "time of a token, one thread alone = 1"],
        [[name, f"{speed:.1f}", f"{alone / speed:.2f}"] for name, speed in speeds.items()],
    )
    ratio = run["result"]["python_thread_to_process"]
    yield f"Beside a busy Python thread a token takes {ratio:.2f} times as long as beside a busy process.\n"
    yield source_of(run)


def instruction_sets(found: Records) -> Iterator[str]:
    yield "## Instruction sets\n"
    if "isa" not in found:
        yield "Not measured yet; `python -m bench.suite isa` does.\n"
        return
    run = found["isa"]
    yield table(
        ["", "prompt tokens/s", "tokens/s", "SHA-256 of the logits"],
        [
            [
                isa,
                f"{result['prompt_tokens_per_second']:.1f}",
                f"{result['tokens_per_second']:.1f}",
                " ".join(f"`{digest[:16]}`" for digest in result["digests"]),
            ]
            for isa, result in run["result"]["isas"].items()
        ],
    )
    yield source_of(run)


def number_formats(found: Records) -> Iterator[str]:
    yield "## Number formats of keys and values\n"
    if "kv" not in found:
        yield "Not measured yet; `python -m bench.suite kv` does.\n"
        return
    run = found["kv"]
    result = run["result"]
    yield (
        f"Accuracy is that of the embedded model at {result['positions']} positions of a text, against f32;\n"
        f"speed that of the 2B-4T shape at context {result['context']:,}.\n"
    )
    yield table(
        ["", "bytes a position", "tokens/s", "mean divergence, nats", "greatest", "same likeliest token"],
        [
            [
                row["kv_type"],
                f"{row['bytes_per_position']:,}",
                f"{row['tokens_per_second']:.1f}",
                f"{row['mean_kl_nats']:.1e}",
                f"{row['max_kl_nats']:.1e}",
                percent(row["greedy_agreement"]),
            ]
            for row in result["kv_types"]
        ],
    )
    yield source_of(run)


def prompt_lookup(found: Records) -> Iterator[str]:
    yield "## Prompt lookup\n"
    if "lookup" not in found:
        yield "Not measured yet; `python -m bench.suite lookup` does.\n"
        return
    run = found["lookup"]
    result = run["result"]
    yield (
        "A step of several tokens reads each weight once, as a step of one does, until arithmetic is the bound.\n"
        "Time of a step of n tokens, all of them verified, relative to a step of one:\n"
    )
    times = result["step_ms"]
    yield table(["tokens", *times], [["2B-4T", *(f"{time / times['1']:.2f}" for time in times.values())]])
    yield (
        "The embedded model retells a story in its own words. The 2B-4T shape has random weights and cannot\n"
        f"summarise, so a prepared summary of {result['summary_tokens']} tokens is forced on it, after its text of\n"
        f"{result['text_tokens']}. Steps, drafts and verification are those of a model that would choose these words.\n"
        "The expected speed-up is that of its steps at the times above.\n"
    )
    yield table(
        ["", "`--lookup`", "tokens a step", "drafted", "accepted", "tokens/s", "speed-up", "expected"],
        [
            *(_lookup_row("embedded model, own words", row, result["own_tokens"]) for row in result["own"]),
            *(_lookup_row("2B-4T, dictated summary", row, result["summary_tokens"]) for row in result["summary"]),
        ],
    )
    yield source_of(run)


def _lookup_row(what: str, row: Mapping[str, Any], n_tokens: int) -> list[str]:
    expected = row.get("expected_speed_up")
    return [
        what,
        str(row["lookup"]),
        f"{(n_tokens - 1) / row['steps']:.2f}",
        str(row["draft_tokens"]),
        str(row["accepted_tokens"]),
        f"{row['tokens_per_second']:,.1f}",
        f"x {row['speed_up']:.2f}",
        "" if expected is None else f"x {expected:.2f}",
    ]


def peers(found: Records) -> Iterator[str]:
    run = found["peers"]
    yield "## Other programs\n"
    yield table(
        ["", "prompt tokens/s", "tokens/s"],
        [
            [name, f"{result['prompt_tokens_per_second']:.1f}", f"{result['tokens_per_second']:.1f}"]
            for name, result in run["result"]["peers"].items()
        ],
    )
    yield "".join(f"Skipped: {name}: {reason}.\n" for name, reason in run["result"]["skipped"].items())
    yield source_of(run)


SECTIONS = (
    machines,
    walls,
    decoding,
    context,
    prompts,
    batches,
    layers,
    start,
    contention,
    instruction_sets,
    number_formats,
    prompt_lookup,
    peers,
)
