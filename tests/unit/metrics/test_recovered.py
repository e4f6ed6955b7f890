import math

from hypothesis import assume, given
from hypothesis import strategies as st

from dictlearn.metrics.recovered import recovered

losses = st.floats(0.01, 20)


@given(ablated=losses, clean=losses)
def test_the_clean_model_recovers_all_and_the_ablation_nothing(ablated, clean):
    assume(ablated != clean)
    assert recovered(ablated, spliced=clean, clean=clean) == 1
    assert recovered(ablated, spliced=ablated, clean=clean) == 0


def test_it_is_not_clipped():
    assert recovered(ablated=4.0, spliced=6.0, clean=2.0) == -1
    assert recovered(ablated=4.0, spliced=1.0, clean=2.0) == 1.5


def test_nothing_to_recover_is_nan():
    assert math.isnan(recovered(ablated=2.0, spliced=3.0, clean=2.0))
