"""``tvmopt compile``: an ONNX file to a stand-alone shared object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvmopt.cli import flags


def compile(  # noqa: A001  (the verb)
    model: Annotated[
        Path, typer.Argument(metavar="model.onnx", help="What to compile.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="model.so", help="Its header goes beside it."),
    ] = Path("model.so"),
    target: flags.Target = "native",
    shape: flags.Shapes = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|r.toml",
            help="Compress it first: int8, int8-dynamic, w4a8, w4, fp16, ..., or a file.",
            show_default=False,
        ),
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            "--calib",
            metavar="calib.npz",
            help="What the recipe learns from: arrays named as the inputs, samples along axis 0.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what the recipe would do to each layer, and write nothing."
        ),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Keep the layers that matter most in floats until --eval-data loses no more.",
            show_default=False,
        ),
    ] = None,
    eval_data: Annotated[
        Path | None,
        typer.Option(
            "--eval-data",
            metavar="test.npz",
            help="What --max-drop is measured on; with labels by accuracy, else by same classes.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Prefix of the C functions, so that several models link into one program.",
            show_default="the file's name",
        ),
    ] = None,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd/--no-winograd", help="Whether 3x3 convolutions may use Winograd's form."
        ),
    ] = True,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> int:
    """Compile an ONNX model into model.so and model.h."""
    import time

    from tvmopt.cli import compressing, drop_limit, show
    from tvmopt.cli.files import check_writable
    from tvmopt.cli.shapes import parse_shapes

    shapes = parse_shapes(shape)
    compressing.check_flags(recipe, calib, dry_run=dry_run)
    limit = drop_limit.read_limit(recipe, calib, max_drop, eval_data, dry_run=dry_run)
    if not dry_run:
        check_writable(output)
    start = time.perf_counter()
    with show.spinner(f"loading {model.name}", quiet=json):
        import tvmopt

        wanted = tvmopt.Recipe.load(recipe) if recipe is not None else None
        loaded = tvmopt.load(model, shapes)
    if dry_run:
        assert wanted is not None  # check_flags saw to it
        compressing.forecast(loaded, wanted, calib, target, json=json)
        return 0
    kept = None
    if wanted is not None and limit is not None:
        loaded, kept = drop_limit.apply_within(loaded, wanted, limit, target, quiet=json)
    elif wanted is not None:
        loaded = compressing.apply(loaded, wanted, calib, target, quiet=json)
    with show.spinner(f"compiling {model.name} for {target}", quiet=json):
        artifact = tvmopt.compile(loaded, target, name=name, winograd=winograd)
        path = artifact.save(output)
    described = _describe(path, dict(artifact.manifest), time.perf_counter() - start)
    described["max_drop"] = kept
    show.document(described) if json else _print(described)
    return 1 if kept is not None and not kept["holds"] else 0


def _describe(path: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    layers = manifest["layers"]
    return {
        "output": str(path),
        "header": str(path.with_suffix(".h")),
        "name": manifest["name"],
        "target": manifest["target"]["name"],
        "seconds": seconds,
        "bytes": path.stat().st_size,
        "weights_bytes": manifest["weights_bytes"],
        "arena_bytes": manifest["arena_bytes"],
        "scratch_bytes": manifest["scratch_bytes"],
        "macs": sum(layer["macs"] or 0 for layer in layers),
        "kernels": len({layer["kernel"] for layer in layers}),
        "inputs": manifest["inputs"],
        "outputs": manifest["outputs"],
        "layers": layers,
        # Generators count the work of what they claim; the generic schedule counts nothing.
        "without_generated_kernel": [la["layer"] for la in layers if la["macs"] is None],
        "recipe": manifest["recipe"],
    }


def _print(described: dict[str, Any]) -> None:
    from tvmopt.cli import show, units
    from tvmopt.cli.compressing import print_compression
    from tvmopt.cli.describe_artefact import print_ports
    from tvmopt.cli.drop_limit import print_limit

    show.heading(f"{described['output']} and {Path(described['header']).name}")
    rest = described["without_generated_kernel"]
    layers = f"{len(described['layers'])} by {described['kernels']} kernels"
    show.facts((
        ("target", described["target"]),
        ("C functions", f"{described['name']}_create, {described['name']}_run, ..."),
        ("compiled in", f"{units.digits(described['seconds'])} s"),
        ("size", f"{units.bytes_(described['bytes'])}, "
                 f"of it {units.bytes_(described['weights_bytes'])} weights"),
        ("arena", f"{units.bytes_(described['arena_bytes'])} an instance"),
        ("MACs", units.scaled(described["macs"])),
        ("layers", layers),
        ("generic schedule", f"{len(rest)}: {', '.join(rest)}" if rest else "none"),
    ))  # fmt: skip
    print_ports(described)
    if described["recipe"] is not None:
        print_compression(described["recipe"])
    if described["max_drop"] is not None:
        print_limit(described["max_drop"])
