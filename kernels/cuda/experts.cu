// Experts with few tokens: stream the weights once, from memory to tensor-core registers.
//
// A block takes 16 rows of one expert's weights; its four warps split the inner dimension and add up
// at the end. Weights are the 16-row operand, tokens the 8-column one: NT tiles of 8 tokens at a time.
// Offsets stay on the device: a block whose expert has no tokens ends at once, and one captured
// graph serves every routing. hidden and inter are multiples of 128 (4 warps x 32).
// With -DFOUR=32 (MXFP4) or 16 (NVFP4) weights are four bits, packed as four_bit.py says: a lane's eight
// numbers are one half of eight bytes, widened to T in registers.
#include "common.cuh"
#ifndef NT
#define NT 2
#endif
#define WARPS 4
#define DEPTH 4  // loads of 64 bytes of each row in flight before they are used

#ifdef FOUR
typedef unsigned char W;
__device__ __forceinline__ size_t pitch(int depth) { return depth / 2 + depth / FOUR + 4; }
__device__ __forceinline__ float widened(u32 bits) {
  unsigned short half = (unsigned short)bits;
  return __half2float(*reinterpret_cast<__half*>(&half));
}
// Numbers k + 8 t to k + 8 t + 7 of a row of `depth`.
__device__ __forceinline__ Eight load_weights(const W* row, int k, int t, int depth) {
  const u32* codes = reinterpret_cast<const u32*>(row + k / 2 + 8 * (t % 2));
  const W* scales = row + depth / 2;
#if FOUR == 32
  u32 bits = (u32)scales[k / 32] << 23;
  float scale = *reinterpret_cast<float*>(&bits) * 16384.0f;
#else
  float scale = widened((u32)scales[k / 16 + t / 2] << 7) * 4194304.0f;
#endif
  Eight out;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 two = codes[i / 2] >> (16 * (i % 2) + 4 * (t / 2));
    float lo = widened((two & 7) << 9 | (two & 8) << 12) * scale;
    float hi = widened((two >> 8 & 7) << 9 | (two >> 8 & 8) << 12) * scale;
    out.r[i] = pack(lo, hi);
  }
  return out;
}
__device__ __forceinline__ float factor(const W* row, int depth) {
  float stored = *reinterpret_cast<const float*>(row + depth / 2 + depth / FOUR);
  return stored * (FOUR == 32 ? 1.0f / 16384.0f : 1.0f / 4194304.0f);
}
#else
typedef T W;
__device__ __forceinline__ size_t pitch(int depth) { return depth; }
__device__ __forceinline__ Eight load_weights(const W* row, int k, int t, int) {
  return load8(row + k + 8 * t);
}
__device__ __forceinline__ float factor(const W*, int) { return 1.0f; }
#endif

// Sum over `depth` numbers of MATS matrices' 16 rows with NT x 8 tokens, this warp's share.
template <int MATS>
__device__ __forceinline__ void stream(float acc[MATS][NT][4], const W* const w[MATS], const T* x,
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
            a[d][m][half] = load_weights(w[m] + (g + 8 * half) * pitch(depth), at, t, depth);
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
    gate_up(const T* x, const int* offsets, const W* gate, const W* up, T* h, int hidden, int inter) {
  __shared__ float shared[WARPS * 2 * NT * 4 * 32];
  int expert = blockIdx.y, row = blockIdx.x * 16;
  int first = offsets[expert], count = offsets[expert + 1] - first;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  size_t at = ((size_t)expert * inter + row) * pitch(hidden);
  const W* w[2] = {gate + at, up + at};
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
          size_t own = (g + 8 * (i / 2)) * pitch(hidden);
          float v = acc[0][n][i] * factor(w[0] + own, hidden);
          if (token < tokens)
            h[(size_t)(first + base + token) * inter + r] =
                from_float(v / (1.0f + __expf(-v)) * (acc[1][n][i] * factor(w[1] + own, hidden)));
        }
  }
}

// y = h down^T; grid: (hidden / 16, experts).
extern "C" __global__ void __launch_bounds__(128)
    down(const T* h, const int* offsets, const W* weights, T* y, int hidden, int inter) {
  __shared__ float shared[WARPS * NT * 4 * 32];
  int expert = blockIdx.y, row = blockIdx.x * 16;
  int first = offsets[expert], count = offsets[expert + 1] - first;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const W* w[1] = {weights + ((size_t)expert * hidden + row) * pitch(inter)};
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
            y[(size_t)(first + base + token) * hidden + r] =
                from_float(acc[0][n][i] * factor(w[0] + (g + 8 * (i / 2)) * pitch(inter), inter));
        }
  }
}
