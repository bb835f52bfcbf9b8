from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from evalkit.stats.multiple import benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
def test_adjusted_p_values_are_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@pytest.mark.parametrize("function", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [[], [1.1], [float("nan")]])
def test_what_is_no_p_value(function, bad):
    with pytest.raises(ValueError, match="between 0 and 1"):
        function(bad)
