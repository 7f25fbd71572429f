// Experts with few tokens: stream the weights once, from memory to tensor-core registers.
//
// A block takes 16 rows of one expert's weights; its four warps split the inner dimension and add up
// at the end. Weights are the 16-row operand, tokens the 8-column one: NT tiles of 8 tokens at a time.
// Offsets stay on the device: a block whose expert has no tokens ends at once, and one captured
// graph serves every routing. hidden and inter are multiples of 128 (4 warps x 32).
#include "common.cuh"
#ifndef NT
#define NT 2
#endif
#define WARPS 4
#define DEPTH 4  // loads of 64 bytes of each row in flight before they are used

// Sum over `depth` numbers of MATS matrices' 16 rows with NT x 8 tokens, this warp's share.
template <int MATS>
__device__ __forceinline__ void stream(float acc[MATS][NT][4], const T* const w[MATS], const T* x,
                                       int tokens, int depth) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int share = depth / WARPS, from = warp * share;
  const T* rows[NT];
#pragma unroll
  for (int n = 0; n < NT; n++)
    rows[n] = x + (size_t)min(n * 8 + g, tokens - 1) * depth;  // the last token stands in
  for (int k = from; k < from + share; k += 32 * DEPTH) {
    Eight a[DEPTH][MATS][2];
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
#pragma unroll
      for (int m = 0; m < MATS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int at = k + d * 32;
          if (at < from + share)
            a[d][m][half] = load8(w[m] + (size_t)(g + 8 * half) * depth + at + 8 * t);
          else
            a[d][m][half] = Eight{{0u, 0u, 0u, 0u}};
        }
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
#pragma unroll
      for (int n = 0; n < NT; n++) {
        int at = min(k + d * 32, from + share - 32);  // weights past the share are zeros
        Eight b = load8(rows[n] + at + 8 * t);
#pragma unroll
        for (int m = 0; m < MATS; m++)
#pragma unroll
          for (int s = 0; s < 2; s++)
            mma(acc[m][n], a[d][m][0].r[2 * s], a[d][m][1].r[2 * s], a[d][m][0].r[2 * s + 1],
                a[d][m][1].r[2 * s + 1], b.r[2 * s], b.r[2 * s + 1]);
      }
  }
}

// Add up the warps' sums; the result is in warp 0's registers.
template <int MATS>
__device__ __forceinline__ void add_warps(float acc[MATS][NT][4], float* shared) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = MATS * NT * 4;
#pragma unroll
  for (int i = 0; i < each; i++)
    shared[(warp * each + i) * 32 + lane] = (&acc[0][0][0])[i];
  __syncthreads();
  if (warp == 0)
#pragma unroll
    for (int i = 0; i < each; i++) {
      float sum = 0.0f;
#pragma unroll
      for (int v = 0; v < WARPS; v++) sum += shared[(v * each + i) * 32 + lane];
      (&acc[0][0][0])[i] = sum;
    }
  __syncthreads();
}

// h = silu(x gate^T) * (x up^T); grid: (inter / 16, experts).
extern "C" __global__ void __launch_bounds__(128)
    gate_up(const T* x, const int* offsets, const T* gate, const T* up, T* h, int hidden, int inter) {
  __shared__ float shared[WARPS * 2 * NT * 4 * 32];
  int expert = blockIdx.y, row = blockIdx.x * 16;
  int first = offsets[expert], count = offsets[expert + 1] - first;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  size_t at = ((size_t)expert * inter + row) * hidden;
  const T* w[2] = {gate + at, up + at};
  for (int base = 0; base < count; base += NT * 8) {
    float acc[2][NT][4] = {};
    int tokens = min(count - base, NT * 8);
    stream<2>(acc, w, x + (size_t)(first + base) * hidden, tokens, hidden);
    add_warps<2>(acc, shared);
    if (threadIdx.x < 32)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int token = n * 8 + 2 * t + i % 2, r = row + g + 8 * (i / 2);
          float v = acc[0][n][i];
          if (token < tokens)
            h[(size_t)(first + base + token) * inter + r] =
                from_float(v / (1.0f + __expf(-v)) * acc[1][n][i]);
        }
  }
}

// y = h down^T; grid: (hidden / 16, experts).
extern "C" __global__ void __launch_bounds__(128)
    down(const T* h, const int* offsets, const T* weights, T* y, int hidden, int inter) {
  __shared__ float shared[WARPS * NT * 4 * 32];
  int expert = blockIdx.y, row = blockIdx.x * 16;
  int first = offsets[expert], count = offsets[expert + 1] - first;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const T* w[1] = {weights + ((size_t)expert * hidden + row) * inter};
  for (int base = 0; base < count; base += NT * 8) {
    float acc[1][NT][4] = {};
    int tokens = min(count - base, NT * 8);
    stream<1>(acc, w, h + (size_t)(first + base) * inter, tokens, inter);
    add_warps<1>(acc, shared);
    if (threadIdx.x < 32)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int token = n * 8 + 2 * t + i % 2, r = row + g + 8 * (i / 2);
          if (token < tokens)
            y[(size_t)(first + base + token) * hidden + r] = from_float(acc[0][n][i]);
        }
  }
}
