"""What the command changes in its own process."""

import gc

import pytest

from cryorefine.cli.environment import modules_of_a_run


@pytest.fixture(autouse=True)
def collector_as_it_was():
    was_enabled = gc.isenabled()
    yield
    gc.unfreeze()
    if was_enabled:
        gc.enable()
    else:
        gc.disable()


def test_the_collector_rests_while_modules_are_loaded_and_never_looks_at_them_again():
    gc.enable()
    with modules_of_a_run():
        assert not gc.isenabled()
        of_modules = [[]]
    later = [[]]
    assert gc.isenabled()
    tracked = {id(one) for one in gc.get_objects()}
    assert id(of_modules) not in tracked
    assert id(later) in tracked


def test_a_collector_that_was_off_stays_off_even_if_a_module_is_missing():
    gc.disable()
    with pytest.raises(ImportError), modules_of_a_run():
        raise ImportError
    assert not gc.isenabled()
    gc.enable()
    with pytest.raises(ImportError), modules_of_a_run():
        raise ImportError
    assert gc.isenabled()
