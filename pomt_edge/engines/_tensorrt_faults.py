"""What TensorRT's errors mean to a user: which node and module, how much memory, which version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pomt_edge.engines._tensorrt import Library, Messages, shortened
from pomt_edge.errors import UserError

SHORT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insuf+icient (?:memory|workspace)|memory is insufficient|could not be allocated", re.IGNORECASE
)
NOTHING_FITS = "Could not find any implementation"
"""Of a node; with a small workspace that is the reason, as the library's own advice has it."""


def of_parser(library: Library, parser: Any, file: Path) -> UserError:
    """Why an ONNX file was not taken; the node is named with the module that it came from."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not file.is_file():
        return UserError(f"{file}: there is no such file; export it first")
    if not errors:
        return UserError(f"{file}: {library.title} can't read it, and gives no reason; export it again")
    error, nodes = errors[0], _nodes(file)
    if not nodes:
        return UserError(f"{file}: {library.title} reads no ONNX graph there ({shortened(error.desc())}); export again")
    what = f"{_name(error.code())}: {shortened(error.desc())}"
    return UserError(
        f"{file}: {library.title} does not take {_where(_meant(error, nodes))} ({what}); "
        "reduce with another --method, or use another --engine"
    )


def _name(code: Any) -> str:
    return str(getattr(code, "name", code))


def _nodes(file: Path) -> list[Any]:
    import onnx

    try:
        return list(onnx.load(str(file), load_external_data=False).graph.node)
    except Exception:  # whatever a broken file makes of protobuf: the parser's own word is told then
        return []


def _meant(error: Any, nodes: Sequence[Any]) -> list[Any]:
    """By its name where the version tells it, else by its number, else all of the operation that was imported."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    named = [node for node in nodes if name and node.name == name]
    if named:
        return named
    if 0 <= error.node() < len(nodes):
        return [nodes[error.node()]]
    importer = re.fullmatch(r"import(\w+)", error.func() or "")
    return [node for node in nodes if importer and node.op_type == importer.group(1)]


def _where(nodes: Sequence[Any]) -> str:
    if not nodes:
        return "a node of the graph"
    node = nodes[0]
    more = f" and {len(nodes) - 1} more of that kind" if len(nodes) > 1 else ""
    module = _module(node)
    return f"the {node.op_type} node '{node.name}'{f' of module {module}' if module else ''}{more}"


def _module(node: Any) -> str | None:
    from pomt_edge.export.graph import module_of

    return module_of(node)


def of_build(
    library: Library, messages: Messages, name: str, workspace_mib: int | None, log: Path, file: Path
) -> UserError:
    """Why the builder made no engine."""
    told = [*messages.errors, *messages.everything_of_memory]
    if any(SHORT_OF_MEMORY.search(text) for text in told) or (
        workspace_mib is not None and any(NOTHING_FITS in text for text in told)
    ):
        limit = f"{workspace_mib} MiB of workspace" if workspace_mib is not None else "the memory that is free"
        return UserError(
            f"building {name} needs more than {limit}: give --workspace, a smaller --batch-size, or close other "
            f"programs; see {log}"
        )
    spoken_of = _spoken_of(messages.errors, file)
    where = f" at {_where(spoken_of)}" if spoken_of else ""
    return UserError(f"{library.title} could not build {name}{where}: {messages.first_error()}; see {log}")


def _spoken_of(errors: Sequence[str], file: Path) -> list[Any]:
    words = {word.strip(".") for text in errors for word in re.findall(r"[\w/.]+", text.replace("...", " "))}
    return [node for node in _nodes(file) if node.name in words][:1]


def of_loading(library: Library, messages: Messages, file: Path) -> UserError:
    """Why an engine file was not taken: TensorRT says 'expecting' of itself and 'got' of the file."""
    told, here = "\n".join(messages.errors), f"{library.title} {library.version()}"
    built_by = re.search(r"expecting library version \S+ got ([\d.]*\d)", told)
    if built_by:
        return UserError(f"{file} was built by {library.title} {built_by.group(1)}, here is {here}: build it again")
    built_for = re.search(r"expecting compute ([\d.]*\d) got compute ([\d.]*\d)", told)
    if built_for:
        here_is, was = built_for.groups()
        return UserError(
            f"{file} was built for a GPU of compute capability {was}, this one has {here_is}: build it again here"
        )
    if re.search(r"serialization version|version tag|magic", told, re.IGNORECASE):
        return UserError(f"{file} was built by another version or is damaged, here is {here}: build it again")
    if SHORT_OF_MEMORY.search(told):
        return UserError(f"{file} does not fit into the GPU's memory: give a smaller --batch-size, or close programs")
    return UserError(f"{file}: {here} could not load it ({messages.first_error()}): build it again")
