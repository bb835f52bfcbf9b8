"""YAML that people write by hand: read strictly, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import yaml

from evalkit.errors import UsageError

KeyPath = tuple[str | int, ...]
"""Keys and places that lead to an entry."""

_STANDARD = "tag:yaml.org,2002:"
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


class _Loader(yaml.SafeLoader):
    """YAML that is as large as its file: an alias can stand for any amount of it, and for itself."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, or refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read; write it out", problem_mark=mark)
        return super().compose_node(parent, index)


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
        if node.tag.removeprefix(_STANDARD) not in _TAGS:
            self._refuse(path, f"the tag {node.tag} is not read")
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
            if not isinstance(key, yaml.ScalarNode) or not _is_text(key.value):
                raise UsageError(f"{self.name}:{line}: a key must be a text")
            if (*path, key.value) in self.lines:
                raise UsageError(f"{self.name}:{line}: {key.value}: the key is given twice")
            yield key.value, line, value

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        wanted = _TAGS[node.tag.removeprefix(_STANDARD)]
        try:
            if wanted != "a text":
                return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
        except (ValueError, LookupError, yaml.YAMLError):
            self._refuse(path, f"must be {wanted}")
        if not _is_text(node.value):
            self._refuse(path, "must be a text without halves of surrogate pairs")
        return node.value

    def _refuse(self, path: KeyPath, why: str) -> NoReturn:
        raise UsageError(f"{where(self.name, self.lines, path)}: {why}") from None


def _is_text(value: str) -> bool:
    return not re.search("[\ud800-\udfff]", value)


def where(name: str, lines: Mapping[KeyPath, int], path: KeyPath) -> str:
    """File, line and key; the line of what holds a key that is not written down, if something does."""
    known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in lines), ())
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return ": ".join(filter(None, (f"{name}:{lines[known]}" if known else name, key)))
