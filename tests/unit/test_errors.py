import pytest

from opendetr.errors import UserError, nearest


def test_nearest_word_or_all_words():
    assert nearest("num_querys", ["num_heads", "num_queries"]) == "did you mean 'num_queries'?"
    assert nearest("zzz", ["b", "a"]) == "known are: a, b"


@pytest.mark.parametrize("before", ["", "Caught UserError in DataLoader worker process 0.\nTraceback ...\nUserError: "])
def test_only_the_sentence_is_left_of_what_a_loader_process_raises(before):
    # PyTorch builds the exception anew in the main process, from its type and the whole traceback
    assert str(UserError(f"{before}a.jpg is broken\n")) == "a.jpg is broken"
