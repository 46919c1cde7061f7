import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.engine.transfer import pack, unpack

shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3)


@given(
    shape=shapes,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.int64, torch.bool]),
    as_array=st.booleans(),
)
def test_what_arrives_is_what_was_sent(shape, dtype, as_array):
    sent = (torch.arange(int(np.prod(shape))) % 3).to(dtype).reshape(shape)
    content = {"name": "x", "values": [sent.numpy() if as_array else sent, sent[..., None]]}
    with_memory = pack(content)
    found = unpack(with_memory.parcel)
    with_memory.close()
    assert found["name"] == "x"
    first = found["values"][0]
    assert isinstance(first, np.ndarray if as_array else torch.Tensor)
    torch.testing.assert_close(torch.as_tensor(first), sent, rtol=0, atol=0)
    torch.testing.assert_close(found["values"][1], sent[..., None], rtol=0, atol=0)


def test_a_view_of_a_larger_tensor_takes_only_itself_along():
    large = torch.arange(1_000_000.0).reshape(1000, 1000)
    sent = pack(large[::100, 5:7])
    assert sum(size for _, size in sent.parcel.places) == 10 * 2 * 4
    torch.testing.assert_close(unpack(sent.parcel), large[::100, 5:7])
    sent.close()


def test_arrays_do_not_go_through_the_head_and_begin_at_even_addresses():
    arrays = [torch.ones(1000), torch.ones(3), torch.ones(77, dtype=torch.complex64)]
    sent = pack(arrays)
    assert len(sent.parcel.head) < 1000
    assert all(begin % 64 == 0 for begin, _ in sent.parcel.places)
    found = unpack(sent.parcel)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found)
    sent.close()


def test_writing_to_what_arrived_changes_nothing_for_others():
    sent = pack(torch.zeros(5000))
    one, other = unpack(sent.parcel), unpack(sent.parcel)
    one += 1
    assert float(other.sum()) == 0
    sent.close()


def test_memory_that_was_closed_cannot_be_opened_again_but_stays_where_it_was():
    sent = pack(torch.full((5000,), 7.0))
    found = unpack(sent.parcel)
    sent.close()
    assert float(found.mean()) == 7
    with pytest.raises(OSError, match=r"."):
        unpack(sent.parcel)


def test_a_machine_without_nameless_memory_uses_a_file_and_removes_it(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    sent = pack([torch.arange(100), np.arange(3)])
    path = sent.parcel.path
    assert os.path.exists(path)
    found = unpack(pickle.loads(pickle.dumps(sent.parcel)))
    sent.close()
    assert not os.path.exists(path)
    assert found[0].tolist() == list(range(100))
