// An indexer of sparse attention: scores of all keys on tensor cores, and a radix selection of the best.
#include "common.cuh"
#ifndef DIM
#define DIM 128
#endif
#define WARPS 4
#define THREADS 256
#define BINS 2048

// out[t, s] = sum_h w[t, h] relu(q[t, h] k[s]); a warp takes 16 keys, heads go by eights.
// grid: (longest / 64 rounded up, tokens, sequences). q: (sequences, tokens, heads, DIM); keys: (pages, page, DIM).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    index_scores(const T* q, const float* weights, const T* keys, const int* table, const int* lengths,
                 float* out, int heads, int shift, int pages, int longest) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int tokens = gridDim.y, token = blockIdx.y, n = blockIdx.z;
  int seen = lengths[n] - tokens + token + 1, first = blockIdx.x * 16 * WARPS + warp * 16;
  size_t row = (size_t)n * tokens + token;
  float sum[2] = {0.0f, 0.0f};
  if (first < seen) {
    Eight a[2][DIM / 32];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int key = min(first + g + 8 * half, seen - 1);
      size_t page = table[(size_t)n * pages + (key >> shift)];
      const T* from = keys + ((page << shift) + (key & ((1 << shift) - 1))) * DIM;
#pragma unroll
      for (int d = 0; d < DIM / 32; d++) a[half][d] = load8(from + 32 * d + 8 * t);
    }
    for (int head = 0; head < heads; head += 8) {
      const T* from = q + (row * heads + head + g) * DIM + 8 * t;
      float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int d = 0; d < DIM / 32; d++) {
        Eight b = load8(from + 32 * d);
#pragma unroll
        for (int h = 0; h < 2; h++)
          mma(c, a[0][d].r[2 * h], a[1][d].r[2 * h], a[0][d].r[2 * h + 1], a[1][d].r[2 * h + 1],
              b.r[2 * h], b.r[2 * h + 1]);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
        sum[i / 2] += weights[row * heads + head + 2 * t + i % 2] * fmaxf(c[i], 0.0f);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float score = quad_sum(sum[half]);
    int key = first + g + 8 * half;
    if (t == 0 && key < longest) out[row * longest + key] = key < seen ? score : MINUS_INF;
  }
}

__device__ __forceinline__ u32 ordered(float x) {  // as the float, without sign
  u32 bits = *reinterpret_cast<u32*>(&x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Indices of the k best of each row, ascending; -1 behind those of a shorter one. grid: (tokens, sequences).
extern "C" __global__ void __launch_bounds__(THREADS)
    index_select(const float* scores, const int* lengths, int* out, int longest, int k) {
  __shared__ int counts[BINS], sums[THREADS], above[THREADS / 32], equal[THREADS / 32];
  __shared__ u32 digit;
  __shared__ int left;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int count = lengths[blockIdx.y] - (int)gridDim.x + (int)blockIdx.x + 1;
  size_t row = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
  const float* own = scores + row * longest;
  int* to = out + row * k;
  for (int i = threadIdx.x; i < k; i += THREADS) to[i] = i < count && count <= k ? i : -1;
  if (count <= k) return;
  u32 prefix = 0, known = 0;
  int missing = k;
  for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {
    u32 mask = shift ? BINS - 1 : BINS / 2 - 1;
    for (int i = threadIdx.x; i < BINS; i += THREADS) counts[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS) {
      u32 x = ordered(own[i]);
      if ((x & known) == prefix) atomicAdd(&counts[(x >> shift) & mask], 1);
    }
    __syncthreads();
    const int each = BINS / THREADS;
    int mine = 0;
    for (int i = 0; i < each; i++) mine += counts[threadIdx.x * each + i];
    sums[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      int part = THREADS - 1, bin = each - 1, rest = missing;
      while (sums[part] < rest) rest -= sums[part--];
      while (counts[part * each + bin] < rest) rest -= counts[part * each + bin--];
      digit = part * each + bin, left = rest;
    }
    __syncthreads();
    prefix |= digit << shift, known |= mask << shift, missing = left;
    __syncthreads();
  }
  int at = 0, ties = 0;
  for (int base = 0; base < count; base += THREADS) {
    int i = base + threadIdx.x;
    u32 x = i < count ? ordered(own[i]) : 0;
    u32 more = __ballot_sync(ALL, i < count && x > prefix);
    u32 same = __ballot_sync(ALL, i < count && x == prefix);
    if (lane == 0) above[warp] = __popc(more), equal[warp] = __popc(same);
    __syncthreads();
    u32 below = (1u << lane) - 1u;
    int before = at + __popc(more & below), tied = ties + __popc(same & below);
    for (int w = 0; w < THREADS / 32; w++) {
      if (w < warp) before += above[w], tied += equal[w];
      at += above[w], ties += equal[w];
    }
    if (i < count && (x > prefix || (x == prefix && tied < missing))) to[before + min(tied, missing)] = i;
    __syncthreads();
  }
}
