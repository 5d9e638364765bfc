"""Checks of exercises: right, wrong with a reason, not answered, and answers of another kind; nothing is ever raised."""

import numpy as np
import pytest

from audioscope.course import check


def judge(answer):
    return check(
        answer,
        lambda n: n == 2,
        well="Two it is.",
        wrong=[(lambda n: n == 1, "One too few."), (lambda n: n > 2, lambda n: f"{n - 2} too many.")],
        otherwise="Count again.",
        kind=int,
    )


@pytest.mark.parametrize(
    ("answer", "right", "said"),
    [
        (2, True, "Two it is."),
        (1, False, "One too few."),
        (5, False, "3 too many."),
        (-1, False, "Count again."),
        (None, None, "cell above"),
        (..., None, "cell above"),
        ("two", False, "of type str"),
        (True, False, "of type bool"),
        (2.0, False, "of type float"),
        (np.int64(2), True, "Two it is."),
    ],
)
def test_check(answer, right, said):
    verdict = judge(answer)
    assert verdict.right is right and said in verdict.text and verdict.text in repr(verdict)


def test_an_answer_of_another_kind_is_said_to_be_that():
    verdict = check({"layer": 2}, lambda n: n + 1 == 3, well="", otherwise="Give a number.")
    assert verdict.right is False and "of type dict" in verdict.text and "Give a number." in verdict.text


def test_reasons_that_fail_are_not_raised():
    verdict = check(float("inf"), lambda n: n == 2, well="", wrong=[(lambda n: n > 2, lambda n: f"{int(n)} is too many")])
    assert verdict.right is False and "of type float" in verdict.text


def test_nothing_of_an_answer_gets_into_the_page():
    assert "<script>" not in check("<script>", lambda n: n + 1 == 3, well="")._repr_html_()
