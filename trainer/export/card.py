"""The data card of an export: what its pairs are, and how to make them again."""

import importlib.metadata
import json
import shlex
from collections.abc import Iterator

from service.schemas import Pair, Run
from trainer.export.folder import Record
from trainer.export.formats import FORMATS
from trainer.export.plan import ExportPlan
from trainer.export.tally import Counts
from trainer.report.pairs import histogram

ROWS = 20
"""Of a table of counts, the most frequent ones."""
UNSTATED = "not stated: whoever publishes these pairs states it (`--license`, `--origin`)"


def card(plan: ExportPlan, name: str, run: Run, record: Record) -> str:
    """In Markdown, with the header that the hub and `load_dataset` read."""
    return "\n".join([*_header(plan, name, record), *_body(plan, name, run, record), ""])


def _header(plan: ExportPlan, name: str, record: Record) -> Iterator[str]:
    header = {
        "pretty_name": name,
        "license": plan.license or "unknown",
        "task_categories": ["image-text-to-text"],
        "tags": ["preference", "dpo", "prefstream", plan.to],
    }
    yield "---"
    for field, value in header.items():
        yield f"{field}: {json.dumps(value, ensure_ascii=False)}"  # JSON is YAML
    if record.shards:
        path = f"data/*.{FORMATS[plan.to].suffix}"
        files = [{"config_name": "default", "data_files": [{"split": "train", "path": path}]}]
        yield f"configs: {json.dumps(files)}"
    yield "---"


def _body(plan: ExportPlan, name: str, run: Run, record: Record) -> Iterator[str]:
    tally = record.tally
    size = sum(shard.size for shard in record.shards)
    yield f"# {name}"
    yield f"{tally.written} preference pairs about images, in {tally.rows} rows"
    yield f"of {len(record.shards)} files ({size / 1e6:.1f} MB), in the format `{plan.to}`."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| licence | {_cell(plan.license or UNSTATED)} |"
    yield f"| origin of images, prompts and references | {_cell(plan.origin or UNSTATED)} |"
    yield f"| run | {run.name}, epoch {run.epoch}, {run.pairs} pairs in all |"
    yield f"| made with | prefstream {importlib.metadata.version('prefstream')} |"
    yield ""
    usage = FORMATS[plan.to].usage
    yield usage.replace("{out}", str(plan.out)).replace("{name}", name)
    yield ""
    yield "## What they are"
    yield from _counts("method", tally.methods)
    yield from _counts("weights version of the rejected side", tally.versions)
    yield from _counts("data set, as the metadata name it", tally.origins)
    yield from _counts("outcome of the run's jobs, whether exported or not", run.outcomes)
    yield from _counts("left out", tally.left_out)
    if plan.where.model_fields_set:
        where = plan.where.model_dump_json(exclude_none=True)
        yield f"\n{tally.filtered_pairs} pairs lay beyond `{_cell(where)}`."
        yield from _counts("filter", tally.filtered)
    yield "\n## Settings of the requests"
    for setting, counts in sorted(tally.settings.items()):
        values = sorted(counts.items(), key=lambda row: -row[1])
        yield f"- {setting}: " + ", ".join(f"`{value}` ({count})" for value, count in values)
    yield "\n## Figures"
    for figure, distribution in tally.distributions.items():
        yield f"\n**{figure.replace('_', ' ')}**, mean {distribution.mean:.3g}\n"
        yield from ("```", *histogram(distribution), "```")
    yield "\n## To make them again"
    yield from _again(plan)
    if FORMATS[plan.to].features is not None:
        yield "\n## What a row says of its pair"
        yield "Columns that begin with `chosen_` and `rejected_` lack that in rows of one side.\n"
        for field, info in Pair.model_fields.items():
            yield f"- `{field}`: {' '.join((info.description or '').split())}"


def _again(plan: ExportPlan) -> Iterator[str]:
    yield "A pair's `seed`, its `settings` and the weights of its version make the same pair again:"
    yield "\n```bash"
    yield f"prefstream replay PAIR_ID --run {plan.run}"
    yield "```\nThis folder, from the same log of the run:\n\n```bash"
    command = ["prefstream", "export", plan.run, "--to", plan.to, "--out", str(plan.out)]
    if plan.where.model_fields_set:
        command += ["--where", plan.where.model_dump_json(exclude_none=True)]
    yield shlex.join(command)
    yield "```"


def _counts(what: str, counts: Counts) -> Iterator[str]:
    if not counts:
        return
    rows = sorted(counts.items(), key=lambda row: -row[1])
    yield f"\n| {what} | pairs |"
    yield "| --- | --- |"
    for name, count in rows[:ROWS]:
        yield f"| {_cell(name)} | {count} |"
    if rest := rows[ROWS:]:
        yield f"| {len(rest)} more | {sum(count for _, count in rest)} |"


def _cell(text: str) -> str:
    """Somebody's text, in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
