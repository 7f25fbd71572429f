// y = x w^T on tensor cores, tiles of 128 x 128 x 32 through shared memory in three stages; plain, or
// grouped: the rows of x of expert e are [offsets[e], offsets[e + 1]) and w is (experts, n, k).
// k is a multiple of 32, n of 8. grid: (n / 128, most rows of an expert / 128, experts).
#include "common.cuh"
#define BM 128
#define BN 128
#define BK 32
#ifndef STAGES
#define STAGES 3
#endif
#define PITCH (BK + 8)  // numbers of a row in shared memory: 80 bytes, so that banks do not collide

__device__ __forceinline__ void fetch(T (*to)[PITCH], const T* from, int rows, int k, int at) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int piece = threadIdx.x + i * 256, row = piece / 4, part = piece % 4 * 8;
    const T* source = from + (size_t)min(row, rows - 1) * k + at + part;
    copy16(&to[row][part], source, row < rows);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    grouped_gemm(const T* x, const int* offsets, const T* w, T* y, int n, int k) {
  extern __shared__ __align__(16) unsigned char raw[];
  T(*xs)[BM][PITCH] = reinterpret_cast<T(*)[BM][PITCH]>(raw);
  T(*ws)[BN][PITCH] = reinterpret_cast<T(*)[BN][PITCH]>(raw + STAGES * sizeof(T[BM][PITCH]));
  int expert = blockIdx.z, first = offsets[expert] + blockIdx.y * BM;
  int rows = min(offsets[expert + 1] - first, BM), column = blockIdx.x * BN;
  if (rows <= 0) return;
  int cols = min(n - column, BN);
  const T* left = x + (size_t)first * k;
  const T* right = w + ((size_t)expert * n + column) * k;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int wm = warp / 4 * 64, wn = warp % 4 * 32;  // this warp's 64 x 32 of the tile
  float acc[4][4][4] = {};
  int steps = k / BK;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      fetch(xs[s], left, rows, k, s * BK);
      fetch(ws[s], right, cols, k, s * BK);
    }
    copies_done();
  }
  for (int step = 0; step < steps; step++) {
    copies_wait<STAGES - 2>();
    __syncthreads();
    int following = step + STAGES - 1, slot = following % STAGES, here = step % STAGES;
    if (following < steps) {
      fetch(xs[slot], left, rows, k, following * BK);
      fetch(ws[slot], right, cols, k, following * BK);
    }
    copies_done();
    // As elsewhere, a thread's 8 contiguous numbers feed two instructions.
    Eight b[4];
#pragma unroll
    for (int j = 0; j < 4; j++) b[j] = load8(&ws[here][wn + j * 8 + g][8 * t]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      Eight a0 = load8(&xs[here][wm + i * 16 + g][8 * t]);
      Eight a1 = load8(&xs[here][wm + i * 16 + g + 8][8 * t]);
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int s = 0; s < 2; s++)
          mma(acc[i][j], a0.r[2 * s], a1.r[2 * s], a0.r[2 * s + 1], a1.r[2 * s + 1], b[j].r[2 * s],
              b[j].r[2 * s + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = wm + i * 16 + g + 8 * half;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int col = wn + j * 8 + 2 * t;
        if (row < rows && col < cols)
          *reinterpret_cast<u32*>(&y[(size_t)(first + row) * n + column + col]) =
              pack(acc[i][j][2 * half], acc[i][j][2 * half + 1]);
      }
    }
}

// h = silu(a) * b of two products, element by element; count is a multiple of 8.
extern "C" __global__ void __launch_bounds__(256)
    swiglu(const T* a, const T* b, T* h, long long count) {
  long long step = (long long)gridDim.x * blockDim.x * 8;
  for (long long at = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 8; at < count; at += step) {
    Eight u = load8(a + at), v = load8(b + at), out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float x = part(u.r[i], 0), z = part(u.r[i], 1);
      out.r[i] = pack(x / (1.0f + __expf(-x)) * part(v.r[i], 0),
                      z / (1.0f + __expf(-z)) * part(v.r[i], 1));
    }
    *reinterpret_cast<Eight*>(h + at) = out;
  }
}
