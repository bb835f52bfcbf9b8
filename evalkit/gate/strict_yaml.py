"""YAML that people write by hand: read strictly, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from evalkit.errors import UsageError

KeyPath = tuple[str | int, ...]
"""Keys and places that lead to an entry."""

_TAGS = {
    "map": "a mapping",
    "seq": "a list",
    "str": "a text",
    "timestamp": "a text",
    "bool": "true or false",
    "int": "a whole number of moderate length",
    "float": "a number",
    "null": "empty",
}
"""What is read, and what it must be."""


def _kind(node: yaml.Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


class _Loader(yaml.SafeLoader):
    """YAML that is as large as its file: an alias can stand for any amount of it, and for itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node that is read."""
        if self.check_event(yaml.AliasEvent):
            raise _refused("aliases are not read; write it out", self.peek_event())
        node = super().compose_node(parent, index)
        if _kind(node) not in _TAGS:
            raise _refused(f"the tag {node.tag} is not read", node)
        if isinstance(node, yaml.ScalarNode) and re.search("[\ud800-\udfff]", node.value):
            raise _refused("half a surrogate pair is no character", node)
        return node


def _refused(why: str, what: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=what.start_mark)


# YAML 1.1 reads 1e-3 as a text; for everyone else it is a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def read(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Read a YAML file: mappings as dictionaries, lists as tuples.

    Returns:
        its content, and the line of every key and entry.

    Raises:
        UsageError: it is not valid, or has what is refused, with file and line.
    """
    reader = _Reader(name)
    try:
        return reader.content(_compose(text, name)), reader.lines
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply") from None


def _compose(text: str, name: str) -> yaml.Node:
    try:
        return yaml.compose(text, Loader=_Loader) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{name}:{line}: not valid YAML: character U+{error.character:04X}") from None
    except (ValueError, OverflowError):
        raise UsageError(f"{name}: not valid YAML: an escape that is no character") from None


class _Reader:
    """Makes values of nodes, and notes the lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}

    def content(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        """A mapping, tuple or plain value."""
        if isinstance(node, yaml.MappingNode):
            return {
                key: self._entry(value, (*path, key), line) for key, line, value in self._keys(node, path)
            }
        if isinstance(node, yaml.SequenceNode):
            return tuple(
                self._entry(value, (*path, place), value.start_mark.line + 1)
                for place, value in enumerate(node.value)
            )
        return self._scalar(node, path)

    def _entry(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self.lines[path] = line
        return self.content(node, path)

    def _keys(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, int, yaml.Node]]:
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{self.name}:{line}: a key must be a text")
            if (*path, key.value) in self.lines:
                raise UsageError(f"{self.name}:{line}: {key.value}: the key is given twice")
            yield key.value, line, value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = _kind(node)
        if _TAGS[kind] == "a text":
            return node.value
        try:
            return yaml.constructor.SafeConstructor().construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, yaml.YAMLError):
            raise UsageError(f"{where(self.name, self.lines, path)}: must be {_TAGS[kind]}") from None


def where(name: str, lines: Mapping[KeyPath, int], path: KeyPath) -> str:
    """File, line and key; the line of what holds a key that is not written down, if something does."""
    known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in lines), ())
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{name}:{lines[known]}: {key}" if known else f"{name}: {key}"
