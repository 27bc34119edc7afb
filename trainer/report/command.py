"""`prefstream report bdhs`. Light to import."""

import asyncio
import os
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markdown import Markdown

from service import logs
from service.client import AsyncClient, PrefstreamError
from service.commands.console import DEFAULT_URL, Namespace, Url, fail, progress_bars
from service.commands.local_stack import LocalStack, LocalStackError, free_port
from trainer.data import FORMATS, TOY, Example, InvalidDataset, InvalidRow, read

console = Console(highlight=False)

report = typer.Typer(
    no_args_is_help=True, help="What a policy's pairs look like, before anybody trains on them."
)


@report.command()
def bdhs(
    data: Annotated[
        str, typer.Option(help="As in `prefstream feed`: `toy`, a file, a folder, OWNER/NAME.")
    ] = TOY,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report-bdhs"),
    url: Annotated[
        str | None,
        typer.Option(
            envvar="PREFSTREAM_URL",
            help="A service that runs. Without one, starts the toy model for the time it takes.",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples at most, for each variant.", min=1)] = 200,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of the images; may be given again.")
    ] = None,
    dataset_format: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = None,
    similarity_threshold: Annotated[float | None, typer.Option(help="ε_s.")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="N.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="New tokens of a sentence.")] = None,
) -> None:
    """The paper's Figure 10: share of pairs that differ in meaning, by iteration and variant."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        fail("The plot needs matplotlib: pip install 'prefstream[experiment]'.")
    named = {
        "similarity_threshold": similarity_threshold,
        "max_iterations": max_iterations,
        "max_tokens": max_tokens,
    }
    settings = {name: value for name, value in named.items() if value is not None}
    logs.configure()
    try:
        found = list(
            islice(read(data, dataset_format=dataset_format, images=images or ()), examples)
        )
        if not found:
            fail(f"{data} has no example.")
        if url is not None:
            asyncio.run(_run(url, data, found, settings, out))
        else:
            with LocalStack(
                model="toy",
                embedder="embedded",
                host="127.0.0.1",
                port=free_port(),
                data=out / "work",
            ) as stack:
                stack.run(_run(stack.url, data, found, settings, out))
    except ValidationError as error:
        fail("\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
    except (InvalidDataset, InvalidRow, LocalStackError, PrefstreamError, RuntimeError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Interrupted.")
    console.print(f"\nThe report: [bold]{out}[/bold] (bdhs.md, bdhs.png, examples.html)")


@report.command()
def pairs(
    run: Annotated[str, typer.Option(help="The run.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for pairs.md and pairs.json, too.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Pairs whose words are compared, at most; the oldest.", min=1)
    ] = 10_000,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """What came of a run's jobs, how its pairs' figures are spread, which words replace which."""
    try:
        asyncio.run(_pairs(url, namespace, run, limit, out))
    except PrefstreamError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Interrupted.")


async def _pairs(url: str, namespace: str | None, run: str, limit: int, out: Path | None) -> None:
    from trainer.report.pairs import collect, markdown, write

    key = os.environ.get("PREFSTREAM_API_KEY")
    async with AsyncClient(url, api_key=key, namespace=namespace, retry_for_s=10) as client:
        with console.status("Reading pairs …"):
            found = await collect(client, run, limit)
    console.print(Markdown(markdown(found)))
    if out is not None:
        write(found, out)
        console.print(f"The same: [bold]{out}[/bold] (pairs.md, pairs.json)")


async def _run(
    url: str, data: str, examples: list[Example], settings: dict[str, Any], out: Path
) -> None:
    from trainer.report.bdhs import VARIANTS, make, show, table, write

    key = os.environ.get("PREFSTREAM_API_KEY")
    async with AsyncClient(url, api_key=key, retry_for_s=600) as client:
        with progress_bars(console) as progress:
            found = []
            for variant in VARIANTS:
                bar = progress.add_task(variant.name, total=len(examples))
                found.append(
                    await make(
                        client, variant, examples, settings, lambda b=bar: progress.advance(b)
                    )
                )
        about = f"{len(examples)} examples of `{data}`, ε_s {found[0].threshold:g}."
        page = await show(client, found)
    await asyncio.to_thread(write, out, found, about, page)
    console.print(table(found))
