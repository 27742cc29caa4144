"""What the search takes for granted of FAISS."""

import numpy as np
import pytest

from mclstexp.index.search.ivf import load_faiss


@pytest.fixture(scope="module")
def inverted():
    faiss = load_faiss()
    keys = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    index = faiss.index_factory(16, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(keys)
    index.add_with_ids(keys, np.arange(2000))
    return index, keys


def test_a_bitmap_is_counted_in_bytes_and_allows_nothing_past_its_end(inverted):
    faiss = load_faiss()
    index, keys = inverted
    bits = np.packbits(np.ones(800, dtype=bool), bitorder="little")
    selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    parameters = faiss.SearchParametersIVF(nprobe=16, sel=selector)
    _, ids = index.search(keys[:50], 20, params=parameters)
    assert ids.min() >= 0
    assert ids.max() < 800


def test_a_file_that_is_mapped_gives_the_same_answers(inverted, tmp_path):
    faiss = load_faiss()
    index, keys = inverted
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    mapped = faiss.read_index(str(tmp_path / "x.faiss"), faiss.IO_FLAG_MMAP_IFC)
    for one, other in zip(index.search(keys[:9], 5), mapped.search(keys[:9], 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_machine_without_gpu_says_so():
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus():
        pytest.skip("FAISS without GPU code, or a GPU")
    with pytest.raises(RuntimeError, match="GPU"):
        faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 16)
