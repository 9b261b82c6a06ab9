"""Parses the HLO of programs for a GPU: a text written by hand, and programs compiled here if XLA for CUDA is there."""

# ruff: noqa: E501, because HLO has one instruction per line

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from fer_jax.apps.benchmarks.gpu_program import LAUNCH_SECONDS, Collective, parse_program
from fer_jax.apps.benchmarks.gpu_target import TARGETS, absent_devices, is_installed

needs_cuda = pytest.mark.skipif(not is_installed(), reason="XLA for CUDA is not installed: fer_jax[gpu-aot]")
PROGRAM = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, may-alias) }

%sums (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%gathers (p.0: u8[1000,64], p.1: s32[8]) -> f32[8,64] {
  %p.0 = u8[1000,64]{1,0} parameter(0)
  %p.1 = s32[8]{0} parameter(1)
  %rows = u8[8,64]{1,0} gather(%p.0, %p.1), offset_dims={1}
  ROOT %floats = f32[8,64]{1,0} convert(%rows)
}

%multiplies (q.0: f32[8,64], q.1: f32[64,32]) -> f32[8,32] {
  %q.0 = f32[8,64]{1,0} parameter(0)
  %q.1 = f32[64,32]{1,0} parameter(1)
  ROOT %product = f32[8,32]{1,0} dot(%q.0, %q.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[8,32])) -> (s32[], f32[8,32]) {
  %state = (s32[], f32[8,32]{1,0}) parameter(0)
  %value = f32[8,32]{1,0} get-tuple-element(%state), index=1
  %inside = f32[8,32]{1,0} copy(%value)
  %counter = s32[] get-tuple-element(%state), index=0
  ROOT %next = (s32[], f32[8,32]{1,0}) tuple(%counter, %inside)
}

ENTRY %main (images: u8[1000,64], index: s32[8], kernel: f32[64,32], maps: f32[2,8,8,4], filter: f32[16,3,3,4]) -> f32[] {
  %images = u8[1000,64]{1,0} parameter(0)
  %index = s32[8]{0} parameter(1)
  %kernel = f32[64,32]{1,0} parameter(2)
  %maps = f32[2,8,8,4]{3,2,1,0} parameter(3)
  %filter = f32[16,3,3,4]{3,2,1,0} parameter(4)
  %batch = f32[8,64]{1,0} fusion(%images, /*index=1*/%index), kind=kLoop, calls=%gathers, metadata={op_name="jit(step)/gather"}
  %gemm = f32[8,32]{1,0} fusion(%batch, %kernel), kind=kCustom, calls=%multiplies, backend_config={"kind":"__triton_nested_gemm_fusion"}
  %lt = (f32[8,32]{1,0}, s8[64]{0}) custom-call(%batch, %kernel), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %conv = (f32[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%maps, %filter), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %out = f32[2,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %bw = (f32[16,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%maps, %out), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %bi = (f32[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%out, %filter), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %reduced = f32[8,32]{1,0} all-reduce-start(%gemm), replica_groups={}, to_apply=%sums
  %done = f32[8,32]{1,0} all-reduce-done(%reduced)
  %gathered = (f32[8,32]{1,0}, f32[64,32]{1,0}) all-gather-start(%done), dimensions={0}
  %all = f32[64,32]{1,0} all-gather-done(%gathered)
  %two = ((f32[8,32]{1,0}, f32[64,32]{1,0}), f32[8,32]{1,0}, f32[64,32]{1,0}) all-reduce-start(%done, %all), to_apply=%sums
  %zero = s32[] constant(0)
  %first = (s32[], f32[8,32]{1,0}) tuple(%zero, %done)
  %loop = (s32[], f32[8,32]{1,0}) while(%first), condition=%sums, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %last = f32[]{:S(5)} copy-start(%zero)
}
"""


class TestText:
  @property
  def program(self):
    return parse_program(PROGRAM)

  @property
  def kernels(self):
    return {kernel.name: kernel for kernel in self.program.kernels}

  def test_counts_kernels_by_kind(self):
    counts = {kind: self.program.count(kind) for kind in ("fusion", "triton", "cublas", "cudnn", "copy")}
    assert counts == {"fusion": 1, "triton": 1, "cublas": 1, "cudnn": 3, "copy": 5}
    assert self.program.count() == 11
    assert self.kernels["inside"].times == 5
    assert self.kernels["batch"].source == "jit(step)/gather"

  def test_counts_operations_of_products_and_convolutions(self):
    product, convolution = 2 * 8 * 32 * 64, 2 * (2 * 8 * 8) * 16 * (3 * 3 * 4)
    flops = {name: kernel.flops for name, kernel in self.kernels.items() if kernel.flops}
    assert flops == {"gemm": product, "lt": product, "conv": convolution, "bw": convolution, "bi": convolution}

  def test_counts_bytes_and_only_the_gathered_rows(self):
    assert self.kernels["batch"].bytes == 8 * 64 + 8 * 4 + 8 * 64 * 4
    assert self.kernels["gemm"].bytes == 4 * (8 * 64 + 64 * 32 + 8 * 32)

  def test_estimates_a_launch_and_the_slower_of_memory_and_arithmetic(self):
    target = TARGETS["h100"]
    gemm = self.kernels["gemm"]
    assert gemm.seconds(target) == pytest.approx(LAUNCH_SECONDS + gemm.bytes / 3.35232e12)
    huge = gemm._replace(flops=10**12)
    assert huge.seconds(target) == pytest.approx(LAUNCH_SECONDS + 1e12 / 494e12)
    assert huge._replace(dtype="bf16").seconds(target) == pytest.approx(LAUNCH_SECONDS + 1e12 / 989e12)
    assert self.program.seconds(target) == pytest.approx(
      sum(kernel.times * kernel.seconds(target) for kernel in self.program.kernels)
    )

  def test_lists_collectives_donations_dtypes_and_transfers(self):
    assert self.program.collectives == (
      Collective("all-reduce", 4 * 8 * 32),
      Collective("all-gather", 4 * 64 * 32),
      Collective("all-reduce", 4 * (8 + 64) * 32),
    )
    assert self.program.donated == 2
    assert {"f32", "u8", "s32", "s8"} == self.program.dtypes
    assert self.program.host_transfers == ("last",)


@needs_cuda
@pytest.mark.parametrize("target", TARGETS)
def test_operations_are_those_that_xla_counts(target):
  (device,) = absent_devices(TARGETS[target], 1)

  def network(maps, kernel, matrix):
    convolved = jax.lax.conv_general_dilated(maps, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.sum((convolved.reshape(8, -1) @ matrix) ** 2)

  shapes = ((8, 17, 17, 32), (3, 3, 32, 64), (8 * 8 * 64, 256))
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=SingleDeviceSharding(device)) for shape in shapes]
  compiled = jax.jit(jax.grad(network, argnums=(0, 1, 2))).lower(*shapes).compile()
  program = parse_program(compiled.as_text())
  convolution, product = 2 * 8 * 8 * 8 * 64 * 3 * 3 * 32, 2 * 8 * 256 * 8 * 8 * 64
  assert sum(kernel.flops for kernel in program.kernels) == 3 * (convolution + product)
  assert program.count("cudnn") == 3
  assert "f64" not in program.dtypes
