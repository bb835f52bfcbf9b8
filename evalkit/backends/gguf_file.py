"""What a file in llama.cpp's GGUF format says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evalkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """Size and precision of the model in a GGUF file."""

    parameters: int
    precision: str
    """What most weights are quantised in, for example `Q4_1`."""


@cache  # reading the vocabulary in it takes seconds
def read(file: Path) -> GgufFacts:
    """Read the facts.

    Raises:
        UsageError: it is no GGUF file, or the library that reads them is missing.
    """
    try:
        from gguf import GGUFReader, LlamaFileType
    except ImportError as error:
        raise UsageError(f"{file}: reading GGUF files needs gguf: pip install 'evalkit[gguf]'") from error
    try:
        reader = GGUFReader(file)
        field = reader.get_field("general.file_type")
        kind = LlamaFileType(int(field.contents())).name if field else "unknown precision"
    except (ValueError, IndexError, OSError) as error:
        raise UsageError(f"{file}: not a whole GGUF file: {error}; download it again") from error
    return GgufFacts(
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        precision=kind.removeprefix("MOSTLY_").removeprefix("ALL_"),
    )
