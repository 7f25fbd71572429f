// Tokens to experts and back. The sort is a warp an expert: it counts the slots of lower experts (its
// offset) and its own, then writes its slots in their order. No atomics, no second kernel: stable, and
// equal inputs give equal bits. Every expert reads all ids, which stay in the cache.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
    sort_slots(const int* ids, int* offsets, int* slots, int* position, int count, int experts) {
  int lane = threadIdx.x % 32, expert = blockIdx.x * 4 + threadIdx.x / 32;
  if (expert > experts) return;  // the last one only writes the total
  int below = 0;
  for (int base = 0; base < count; base += 32) {
    int id = base + lane < count ? ids[base + lane] : 0x7fffffff;
    below += __popc(__ballot_sync(ALL, id < expert));
  }
  if (lane == 0) offsets[expert] = below;
  if (expert == experts) return;
  for (int base = 0; base < count; base += 32) {
    int id = base + lane < count ? ids[base + lane] : 0x7fffffff;
    u32 mine = __ballot_sync(ALL, id == expert);
    if (id == expert) {
      int at = below + __popc(mine & ((1u << lane) - 1u));
      slots[at] = base + lane;
      position[base + lane] = at;
    }
    below += __popc(mine);
  }
}

// Row of each slot's token to its sorted position; hidden is a multiple of 8.
extern "C" __global__ void __launch_bounds__(128)
    gather_rows(const T* x, const int* slots, T* out, int count, int k, int hidden) {
  for (int row = blockIdx.x; row < count; row += gridDim.x) {
    const T* from = x + (size_t)(slots[row] / k) * hidden;
    T* to = out + (size_t)row * hidden;
    for (int h = threadIdx.x * 8; h < hidden; h += blockDim.x * 8)
      *reinterpret_cast<Eight*>(to + h) = load8(from + h);
  }
}

// Weighted sum of a token's k rows, in the order of its choices, in fp32.
extern "C" __global__ void __launch_bounds__(128)
    combine_rows(const T* y, const int* position, const float* weights, T* out, int tokens, int k,
                 int hidden) {
  for (int token = blockIdx.x; token < tokens; token += gridDim.x)
    for (int h = threadIdx.x * 8; h < hidden; h += blockDim.x * 8) {
      float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
      for (int j = 0; j < k; j++) {
        Eight v = load8(y + (size_t)position[token * k + j] * hidden + h);
        float weight = weights[token * k + j];
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += weight * part(v.r[i / 2], i % 2);
      }
      Eight out8;
#pragma unroll
      for (int i = 0; i < 4; i++) out8.r[i] = pack(sum[2 * i], sum[2 * i + 1]);
      *reinterpret_cast<Eight*>(out + (size_t)token * hidden + h) = out8;
    }
}
