"""Which models are compressed in which ways: what the command line asks for."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.accuracy import channel_methods, low_rank_methods, own_recipes, sparse_methods
from benchmarks.accuracy.methods import BITS, NAMED, REPAIRS, Method, named, static
from benchmarks.accuracy.sparse_methods import Cell
from benchmarks.accuracy.sparse_table import Thin
from benchmarks.accuracy.tasks import TASKS

FLOAT = "float32"
PARTS = ("recipes", "quantized", "sparse", "channels", "low-rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Cells in lines and columns.

    Attributes:
        title: Of the table.
        head: What a column's number is, after its percent.
        tasks: The models.
        cells: In the order in which they are measured.
        columns: In percent.
    """

    title: str
    head: str
    tasks: Sequence[str]
    cells: Sequence[Thin]
    columns: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is asked for.

    Attributes:
        recipes: The recipe of each task that has one in ``recipes``.
        plain: Methods that get a line each, by task and name.
        sparse: Tasks that get a grid of sparse methods.
        cells: Of each such grid, in the order in which they are measured.
        sparsities: The columns of the grid, in percent.
        thin: Other grids: of channels and of low ranks.
    """

    recipes: Mapping[str, Method]
    plain: Mapping[str, Mapping[str, Method]]
    sparse: Sequence[str]
    cells: Sequence[Cell]
    sparsities: Sequence[int]
    thin: Sequence[Grid]

    def by_task(self) -> dict[str, list[Method]]:
        """Return all methods to measure of each task, in order."""
        found: dict[str, list[Method]] = defaultdict(list)
        for task, method in self.recipes.items():
            found[task].append(method)
        for task, methods in self.plain.items():
            found[task] += methods.values()
        for task in self.sparse:
            found[task] += [cell.method() for cell in self.cells]
        for grid in self.thin:
            for task in grid.tasks:
                found[task] += [cell.method() for cell in grid.cells]
        return dict(found)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose models and ways."""
    many = parser.add_argument
    many("--only", nargs="+", choices=TASKS, default=None, metavar="TASK")
    many("--bits", nargs="*", type=int, choices=BITS, default=BITS, metavar="N")
    many("--repairs", nargs="*", choices=REPAIRS, default=list(REPAIRS))
    many("--recipes", nargs="*", default=NAMED, metavar="NAME", help="named recipes")
    many(
        "--structures",
        nargs="*",
        choices=sparse_methods.STRUCTURES,
        default=sparse_methods.STRUCTURES,
    )
    shares = sparse_methods.SPARSITIES
    many("--sparsity", nargs="*", type=int, choices=shares, default=shares, metavar="PERCENT")
    many(
        "--importances",
        nargs="*",
        choices=sparse_methods.IMPORTANCES,
        default=sparse_methods.IMPORTANCES,
    )
    many(
        "--refit", nargs="*", choices=sparse_methods.REPAIRED, default=sparse_methods.REPAIRED,
        help="whether what is left is refitted",
    )  # fmt: skip
    forms, budgets = low_rank_methods.FORMS, low_rank_methods.BUDGETS
    many("--forms", nargs="*", choices=forms, default=forms, help="of low rank")
    shares = channel_methods.SHARES
    many("--shares", nargs="*", type=int, choices=shares, default=shares, metavar="PERCENT")
    many("--budgets", nargs="*", type=int, choices=budgets, default=budgets, metavar="PERCENT")


def select(args: argparse.Namespace) -> Selection:
    """Return what the flags ask for."""
    grid = [static(bits, repair) for bits in args.bits for repair in args.repairs]
    methods = {method.name: method for method in (*map(named, args.recipes), *grid)}
    quantized = list(args.only or TASKS) if "quantized" in args.parts else []
    tasks = list(args.only or sparse_methods.TASKS)
    cells = sparse_methods.cells(args.structures, args.sparsity, args.importances, args.refit)
    ours = [task for task in own_recipes.MOST if task in (args.only or TASKS)]
    return Selection(
        recipes={task: own_recipes.method_of(task) for task in ours if "recipes" in args.parts},
        plain=dict.fromkeys(quantized, methods),
        sparse=tasks if "sparse" in args.parts else [],
        cells=list(cells),
        sparsities=args.sparsity,
        thin=_thin(args, tasks),
    )


def _thin(args: argparse.Namespace, tasks: Sequence[str]) -> list[Grid]:
    """Return the grids of channels and of low ranks that the flags ask for."""
    grids = []
    if "channels" in args.parts:
        cells = channel_methods.cells(args.importances, args.refit, args.shares)
        grids.append(
            Grid(
                title="what whole channels cost and buy",
                head="of time",
                tasks=tasks,
                cells=list(cells),
                columns=args.shares,
            )
        )
    if "low-rank" in args.parts:
        factors = low_rank_methods.cells(args.forms, args.budgets)
        grids.append(
            Grid(
                title="what low rank costs and buys",
                head="error",
                tasks=tasks,
                cells=list(factors),
                columns=args.budgets,
            )
        )
    return grids
