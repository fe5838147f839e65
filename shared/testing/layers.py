"""Checks the imports inside a service, for its tests: from higher to lower layers only, and pure modules stay pure."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

# Modules that bring a clock, the network, a database or a thread of control into a pure module.
_IMPURE = {
    "asyncio",
    "time",
    "random",
    "os",
    "httpx",
    "requests",
    "docker",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "logging",
}

Layers = Sequence[Sequence[str]]


def modules(app: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name below `app`, and the file, of each module."""
    for file in sorted(app.rglob("*.py")):
        name = ".".join(file.relative_to(app).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, file


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def within(module: str, package: str) -> bool:
    """Return whether a module is the package or inside it."""
    return module == package or module.startswith(f"{package}.")


def upward_imports(app: Path, layers: Layers) -> list[str]:
    """Return the imports that go to a higher layer, or across to another package of the same one.

    `layers` lists modules and packages below `app`, highest first; the longest match wins. Raises ValueError for a
    module that is in no layer.
    """
    violations = []
    for name, file in modules(app):
        rank, package = _layer(name, layers)
        for target in _imported(app, file):
            target_rank, target_package = _layer(target, layers)
            if target_rank < rank or (target_rank == rank and target_package != package):
                violations.append(f"{name} imports {target}")
    return violations


def impure_imports(app: Path, packages: Sequence[str]) -> list[str]:
    """Return the imports of impure libraries by modules that must be pure."""
    return [
        f"{name} imports {module}"
        for name, file in modules(app)
        if any(within(name, package) for package in packages)
        for module, _ in imports(file)
        if module.partition(".")[0] in _IMPURE
    ]


def _imported(app: Path, file: Path) -> Iterator[str]:
    for module, name in imports(file):
        if not within(module, "app"):
            continue
        target = module.removeprefix("app").removeprefix(".")
        folder = app / target.replace(".", "/")
        if not target or (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists():
            target = f"{target}.{name}".removeprefix(".")
        yield target


def _layer(module: str, layers: Layers) -> tuple[int, str]:
    matches = [
        (len(package), rank, package)
        for rank, packages in enumerate(layers)
        for package in packages
        if within(module, package)
    ]
    if not matches:
        raise ValueError(f"{module} is in no layer")
    _, rank, package = max(matches)
    return rank, package
