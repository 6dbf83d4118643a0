import torch

from congling.train.precision import choose_dtype, cpu_has_bf16, malloc_environment


def test_bf16_only_where_the_processor_has_it(tmp_path):
    info = tmp_path / "cpuinfo"
    for flags, expected in (("sse avx512_bf16", True), ("amx_bf16", True), ("avx512f avx512_bf16x", False)):
        info.write_text(f"processor: 0\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n")
        assert cpu_has_bf16(info) is expected
    assert not cpu_has_bf16(tmp_path / "missing")


def test_choice_is_never_fp16():
    assert choose_dtype("auto", "cuda:0") == torch.bfloat16
    assert choose_dtype("fp32", "cuda") == torch.float32
    assert choose_dtype("bf16", "cpu") == torch.bfloat16
    assert choose_dtype("auto", "cpu") == (torch.bfloat16 if cpu_has_bf16() else torch.float32)


def test_what_the_user_set_of_malloc_is_respected():
    found = malloc_environment({})["GLIBC_TUNABLES"]
    assert "glibc.malloc.mmap_threshold=" in found
    assert malloc_environment({"GLIBC_TUNABLES": found}) == {}
    assert malloc_environment({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}) == {}
    kept = malloc_environment({"GLIBC_TUNABLES": "glibc.rtld.nns=3"})["GLIBC_TUNABLES"]
    assert kept == f"glibc.rtld.nns=3:{found}"
