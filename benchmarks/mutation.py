"""Mutation testing of the core modules.

    python benchmarks/mutation.py                                   # hours on one core; requires Unix
    python benchmarks/mutation.py overhead halving --most 30 --seed 1

A mutant is a module with one change. It is killed if a test fails, and survives if all pass. The changes are: another
operator or comparison; `min` for `max`, `any` for `all`, `and` for `or`; a number one larger or smaller; `True` for
`False`; a condition that always or never holds; a removed filter; a `None` result; a removed keyword argument, `raise`,
call, or assignment to an existing name. Strings, annotations and cache sizes do not change.

`CORE` lists the test files of each module; the fastest tests run first. At most `--most` mutants per module are tested,
drawn at random. Some survivors are equivalent to the original code.

torch is imported once. Each mutant runs in a fork of that process, which imports the package with the changed module.
"""

import argparse
import ast
import copy
import gc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Imported here so that forks need not.
import huggingface_hub
import optuna  # noqa: F401
import pandas  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import timm  # noqa: F401
import torch._dynamo

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = {"finished_run", "halved"}  # the slowest fixtures
MEMORY = 8 * 2**30


@dataclass(frozen=True)
class Part:
    """A core module with its tests."""

    file: str
    tests: tuple[str, ...]


LOCAL = (
    "tests/network/test_placed.py",
    "tests/network/test_local.py",
    "-k",
    "not costs and not supernet and not exports",
)

CORE = {
    "overhead": Part(
        "se_search/network/overhead.py",
        (
            "tests/network/test_overhead.py",
            "tests/network/test_windows.py::test_parameters_and_flops_are_those_counted",
        ),
    ),
    "halving": Part("se_search/sampling/fronts.py", ("tests/sampling/test_halving.py", "-k", "not users_own")),
    "shared_passes": Part(
        "se_search/training/shared_passes.py", ("tests/training/test_shared_passes.py", "-m", "not slow")
    ),
    "statistics": Part("se_search/statistics.py", ("tests/test_statistics.py",)),
    "insertion": Part("se_search/network/insertion.py", ("tests/network/test_insertion.py",)),
    "config": Part("se_search/network/config.py", ("tests/network/test_config.py",)),
    "se": Part("se_search/network/attention/se.py", ("tests/network/test_placed.py", "tests/network/test_se.py")),
    "se_block": Part(
        "se_search/network/attention/se_layers.py",
        (
            "tests/network/test_se.py",
            "tests/network/test_windows.py::test_each_window_is_squeezed_and_scaled_on_its_own",
            "tests/network/test_windows.py::test_windows_leave_out_the_tokens_before_the_map",
        ),
    ),
    "eca": Part("se_search/network/attention/eca.py", ("tests/network/test_placed.py", "tests/network/test_eca.py")),
    "eca_block": Part(
        "se_search/network/attention/eca_layers.py",
        ("tests/network/test_placed.py", "tests/network/test_eca.py", "-k", "not costs and not supernet and not file"),
    ),
    "local": Part("se_search/network/attention/local.py", LOCAL),
    "local_block": Part("se_search/network/attention/local_layers.py", LOCAL),
    "pooled": Part("se_search/latency/pooled.py", ("tests/latency/test_pooled.py", "tests/latency/test_additive.py")),
    "results": Part("se_search/results/table.py", ("tests/results/test_table.py",)),
    "front": Part("se_search/results/front.py", ("tests/results/test_front.py",)),
    "verified_front": Part("se_search/results/verified_front.py", ("tests/results/test_verified.py",)),
    "picks": Part("se_search/results/picks.py", ("tests/results/test_table.py", "tests/results/test_verified.py")),
    "decision": Part("se_search/results/decision.py", ("tests/results/test_decision.py",)),
}

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of ``node`` with replaced ``fields``."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the replacements of ``node``, each with one change."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield changed(node, op=OPERATORS[type(op)]())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                yield changed(node, ops=[*ops[:place], OPERATORS[type(op)](), *ops[place + 1 :]])
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.If() | ast.IfExp():
            yield changed(node, test=ast.Constant(True))
            yield changed(node, test=ast.Constant(False))
        case ast.comprehension(ifs=[_, *_]):
            yield changed(node, ifs=[])
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield changed(node, value=ast.Constant(None))
        case ast.Raise() | ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Call(func=func, keywords=keywords):
            for place in range(len(keywords)):
                yield changed(node, keywords=keywords[:place] + keywords[place + 1 :])
            if isinstance(func, ast.Name) and func.id in NAMES:
                yield changed(node, func=ast.Name(NAMES[func.id], ast.Load()))
            if isinstance(func, ast.Attribute) and func.attr in NAMES:
                yield changed(node, func=changed(func, attr=NAMES[func.attr]))


class Mutator(ast.NodeTransformer):
    """Lists all possible changes of a tree and applies number ``wanted``."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted = wanted
        self.found: list[str] = []

    def visit(self, node: ast.AST) -> ast.AST:
        """Visit ``node`` and its descendants, except strings, annotations and caches."""
        match node:
            case ast.JoinedStr() | ast.Expr(value=ast.Constant()) | ast.Call(func=ast.Attribute(attr="lru_cache")):
                return node
            case ast.arg() | ast.AnnAssign(value=None) | ast.Raise():
                new = node
            case ast.AnnAssign(value=ast.expr() as value):
                new = changed(node, value=self.visit(value))
            case ast.FunctionDef(returns=returns):
                new = changed(self.generic_visit(changed(node, returns=None)), returns=returns)
            case _:
                new = self.generic_visit(node)
        for other in changes(node):
            if len(self.found) == self.wanted:
                new = ast.copy_location(other, node)
            before, after = (ast.unparse(one).replace("\n", " ") for one in (node, other))
            line = node.target.lineno if isinstance(node, ast.comprehension) else node.lineno
            self.found.append(f"{line}: {before[:150]}  ->  {after[:150]}")
        return new


def mutate(source: str, wanted: int | None = None) -> tuple[ast.Module, list[str]]:
    """Return the tree of ``source`` with one change, and the list of all changes."""
    mutator = Mutator(wanted)
    tree = mutator.visit(ast.parse(source))
    return ast.fix_missing_locations(tree), mutator.found


class Loader(importlib.machinery.SourceFileLoader):
    """Import hook that loads one module from a tree instead of its file."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        super().__init__(file.removesuffix(".py").replace("/", "."), str(ROOT / file))
        self.tree = tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Find this module only."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> object:
        """Compile the tree."""
        return compile(self.tree, self.path, "exec")


class QuickestFirst:
    """Pytest plugin that sorts tests by their last duration, deselects searches, and records durations."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.before = seconds
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests."""
        items[:] = sorted(
            (item for item in items if not SEARCHES & set(item.fixturenames)),
            key=lambda item: self.before.get(item.nodeid, 0.0),
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the duration of a test with its fixtures."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def tests_pass(part: Part, tree: ast.Module, seconds: dict[str, float], limit: float, notes: Path) -> bool:
    """Run the tests of ``part`` on ``tree`` in a fork, for at most ``limit`` seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            sys.meta_path.insert(0, Loader(part.file, tree))
            plugin = QuickestFirst(seconds)
            code = pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *part.tests], [plugin])
            notes.write_text(json.dumps(plugin.seconds))
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    """Print the number of killed mutants per module, then the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(CORE)}; all by default")
    parser.add_argument("--most", type=int, default=100, help="maximum number of mutants per module")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # mutants do not wait for downloads
    gc.freeze()  # forks need not scan the objects of the imports
    torch.set_num_threads(1)
    living = []
    print(f"{'module':<15}{'mutants':>9}{'tried':>7}{'killed':>8}{'score':>8}{'seconds':>9}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "seconds.json")
        for name in arguments.parts or CORE:
            part, start = CORE[name], time.monotonic()
            source = (ROOT / part.file).read_text()
            tree, found = mutate(source)
            if not tests_pass(part, tree, {}, 600.0, notes):
                sys.exit(f"{' '.join(part.tests)}: the tests fail on the unchanged code")
            seconds, limit = json.loads(notes.read_text()), 10 + 3 * (time.monotonic() - start)
            count = min(arguments.most, len(found))
            lives = []
            for number in sorted(random.Random(arguments.seed).sample(range(len(found)), count)):
                tree, _ = mutate(source, number)
                if tests_pass(part, tree, seconds, limit, notes):
                    lives.append(f"{part.file}:{found[number]}")
            killed = count - len(lives)
            took = time.monotonic() - start
            print(f"{name:<15}{len(found):>9}{count:>7}{killed:>8}{killed / count:>8.1%}{took:>9.0f}", flush=True)
            living += lives
    print("\nliving:", *living, sep="\n")


if __name__ == "__main__":
    main()
