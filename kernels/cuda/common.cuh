// What the kernels share: number types, tensor-core instruction, warp reductions.
//
// T is the 16-bit type of inputs and outputs, bf16 with -DUSE_BF16, else fp16. All sums are fp32.
// Matrix products use one instruction, mma.sync m16n8k16: A is 16 x 16, B is 16 x 8, both in
// registers. Thread `lane` = 4 g + t holds A[g][2t, 2t+1], A[g+8][2t, 2t+1], A[g][2t+8, 2t+9],
// A[g+8][2t+8, 2t+9]; B[2t, 2t+1][g], B[2t+8, 2t+9][g]; C[g][2t, 2t+1], C[g+8][2t, 2t+1].
// A product does not mind in which order its inner dimension is taken, if A and B agree. So a
// thread loads 16 contiguous bytes (8 numbers) of a row and feeds them to two instructions, and rows
// of weights, keys and values go from memory to registers without a detour.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifdef USE_BF16
typedef __nv_bfloat16 T;
__device__ __forceinline__ float to_float(T x) { return __bfloat162float(x); }
__device__ __forceinline__ T from_float(float x) { return __float2bfloat16(x); }
#else
typedef __half T;
__device__ __forceinline__ float to_float(T x) { return __half2float(x); }
__device__ __forceinline__ T from_float(float x) { return __float2half(x); }
#endif

typedef unsigned int u32;
#define MINUS_INF (-3.0e38f)
#define ALL 0xffffffffu

struct alignas(16) Eight {  // eight numbers: one 16-byte access
  u32 r[4];
};

__device__ __forceinline__ Eight load8(const T* p) { return *reinterpret_cast<const Eight*>(p); }

__device__ __forceinline__ u32 pack(float lo, float hi) {
  T pair[2] = {from_float(lo), from_float(hi)};
  return *reinterpret_cast<u32*>(pair);
}

__device__ __forceinline__ float part(u32 x, int i) {
  return to_float(reinterpret_cast<T*>(&x)[i]);
}

#ifndef EMULATED
__device__ __forceinline__ void mma(float c[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#ifdef USE_BF16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}
// Two halves, one of each word: which = 0 takes the low ones, 1 the high ones.
__device__ __forceinline__ u32 halves(u32 a, u32 b, int which) {
  return __byte_perm(a, b, which ? 0x7632 : 0x5410);
}
__device__ __forceinline__ void copy16(void* shared, const void* global, bool valid) {
  u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  int bytes = valid ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
}
__device__ __forceinline__ void copies_done() { asm volatile("cp.async.commit_group;"); }
template <int LEFT>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
}
#endif

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
  return x;
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(ALL, x, 1);
  return x + __shfl_xor_sync(ALL, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL, x, 2));
}
