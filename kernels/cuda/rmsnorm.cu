// RMSNorm of rows held in registers: one read, one write. With a residual, r += x is written back.
#include "common.cuh"
#ifndef COLS
#define COLS 4096
#endif
#define THREADS (COLS >= 8192 ? 512 : COLS >= 2048 ? 256 : COLS / 8)
#define PIECES (COLS / 8 / THREADS)

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm(const T* x, T* r, const T* w, T* y, int rows, float eps) {
  __shared__ float partial[THREADS / 32 + 1];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    Eight v[PIECES];
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      size_t at = (size_t)row * COLS + (p * THREADS + threadIdx.x) * 8;
      v[p] = load8(x + at);
      if (r != nullptr) {
        Eight old = load8(r + at);
#pragma unroll
        for (int i = 0; i < 4; i++)
          v[p].r[i] = pack(part(v[p].r[i], 0) + part(old.r[i], 0),
                           part(v[p].r[i], 1) + part(old.r[i], 1));
        *reinterpret_cast<Eight*>(r + at) = v[p];
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float a = part(v[p].r[i], 0), b = part(v[p].r[i], 1);
        sum += a * a + b * b;
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) total += partial[i];
    float factor = rsqrtf(total / COLS + eps);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      int col = (p * THREADS + threadIdx.x) * 8;
      Eight scale = load8(w + col), out;
#pragma unroll
      for (int i = 0; i < 4; i++)
        out.r[i] = pack(part(v[p].r[i], 0) * factor * part(scale.r[i], 0),
                        part(v[p].r[i], 1) * factor * part(scale.r[i], 1));
      *reinterpret_cast<Eight*>(y + (size_t)row * COLS + col) = out;
    }
    __syncthreads();
  }
}
