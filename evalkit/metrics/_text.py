"""What the Chinese and Japanese text metrics share."""

from __future__ import annotations

import importlib
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from evalkit.errors import UsageError

PUNCTUATION = frozenset(
    string.punctuation + "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》"
    "「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
"""ASCII punctuation and the CJK list that LongBench and JSQuAD have in common.

The published list holds `》` without `《`, and neither `・` nor `．`.
"""


def overlap_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of tokens, in [0, 1]; 0 if they have no token in common.

    Source: LongBench/metrics.py (THUDM/LongBench@2e00731) and lm_eval/jasquad
    (Stability-AI/lm-evaluation-harness@effdbea), which agree.
    """
    common = (Counter(prediction) & Counter(gold)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(gold)
    return 2 * precision * recall / (precision + recall)


@cache
def library(name: str) -> Any:
    """Import a library of the extra `metrics`, without the warnings that jieba's old source gives rise to.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"this metric needs '{name}': pip install 'evalkit[metrics]'") from error
