// MLA decode, absorbed form: 16 heads a block over one latent of 512 + 64 numbers a key. The four
// warps take 16 keys each for the scores, then 128 of the 512 output columns each over all 64 keys.
#include "common.cuh"
#define WIDTH 576
#define LATENT 512
#define KEYS 64
#define WARPS 4
#define PITCH (WIDTH + 8)

__device__ __forceinline__ size_t latent_row(const int* table, int key, int shift) {
  return ((size_t)table[key >> shift] << shift) + (key & ((1 << shift) - 1));
}

// grid: (splits, heads / 16 rounded up, sequences). q: (sequences, heads, 576); cache: (pages, page, 576).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    mla_decode(const T* q, const T* cache, const int* table, const int* lengths, float* tops,
               float* sums, float* outs, int heads, int shift, int pages, float scale) {
  __shared__ __align__(16) T queries[16][PITCH];
  __shared__ __align__(16) T weights[16][KEYS + 8];
  __shared__ float highest[WARPS][16], added[WARPS][16];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int sequence = blockIdx.z, first = blockIdx.y * 16, length = lengths[sequence];
  const int* own = table + (size_t)sequence * pages;
  for (int i = threadIdx.x; i < 16 * WIDTH / 8; i += 32 * WARPS) {
    int row = i / (WIDTH / 8), at = i % (WIDTH / 8) * 8;
    const T* from = q + ((size_t)sequence * heads + min(first + row, heads - 1)) * WIDTH + at;
    *reinterpret_cast<Eight*>(&queries[row][at]) = load8(from);
  }
  __syncthreads();
  int each = (length + gridDim.x - 1) / gridDim.x;
  each = (each + KEYS - 1) / KEYS * KEYS;
  int from = blockIdx.x * each, to = min(from + each, length);
  float out[2][8][4] = {}, top[2] = {MINUS_INF, MINUS_INF}, sum[2] = {0.0f, 0.0f};
  for (int key = from; key < to; key += KEYS) {
    float s[2][4] = {};
    const T* rows[2];
#pragma unroll
    for (int n = 0; n < 2; n++)
      rows[n] = cache + latent_row(own, min(key + warp * 16 + n * 8 + g, to - 1), shift) * WIDTH;
#pragma unroll 6
    for (int d = 0; d < WIDTH; d += 32) {
      Eight a0 = load8(&queries[g][d + 8 * t]), a1 = load8(&queries[g + 8][d + 8 * t]);
#pragma unroll
      for (int n = 0; n < 2; n++) {
        Eight k = load8(rows[n] + d + 8 * t);
#pragma unroll
        for (int h = 0; h < 2; h++)
          mma(s[n], a0.r[2 * h], a1.r[2 * h], a0.r[2 * h + 1], a1.r[2 * h + 1], k.r[2 * h],
              k.r[2 * h + 1]);
      }
    }
    float best[2] = {MINUS_INF, MINUS_INF};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        bool seen = key + warp * 16 + n * 8 + 2 * t + i % 2 < to;
        s[n][i] = seen ? s[n][i] * scale : MINUS_INF;
        best[i / 2] = fmaxf(best[i / 2], s[n][i]);
      }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      best[row] = quad_max(best[row]);
      if (t == 0) highest[warp][g + 8 * row] = best[row];
    }
    __syncthreads();
    float shrink[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float now = top[row], total = 0.0f;
#pragma unroll
      for (int v = 0; v < WARPS; v++) now = fmaxf(now, highest[v][g + 8 * row]);
      shrink[row] = __expf(top[row] - now);
      top[row] = now;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        float x[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float score = s[n][2 * row + i];
          x[i] = score > MINUS_INF ? __expf(score - now) : 0.0f;
          total += x[i];
        }
        *reinterpret_cast<u32*>(&weights[g + 8 * row][warp * 16 + n * 8 + 2 * t]) = pack(x[0], x[1]);
      }
      total = quad_sum(total);
      if (t == 0) added[warp][g + 8 * row] = total;
    }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float total = 0.0f;
#pragma unroll
      for (int v = 0; v < WARPS; v++) total += added[v][g + 8 * row];
      sum[row] = sum[row] * shrink[row] + total;
#pragma unroll
      for (int p = 0; p < 2; p++)
#pragma unroll
        for (int j = 0; j < 8; j++) out[p][j][2 * row] *= shrink[row], out[p][j][2 * row + 1] *= shrink[row];
    }
#pragma unroll
    for (int block = 0; block < KEYS / 16; block++) {
      const T* w0 = &weights[g][block * 16 + 2 * t];
      const T* w1 = &weights[g + 8][block * 16 + 2 * t];
      u32 a[4] = {*reinterpret_cast<const u32*>(w0), *reinterpret_cast<const u32*>(w1),
                  *reinterpret_cast<const u32*>(w0 + 8), *reinterpret_cast<const u32*>(w1 + 8)};
      Eight v[4][2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int at = min(key + block * 16 + 2 * t + i % 2 + 8 * (i / 2), to - 1);
        const T* row = cache + latent_row(own, at, shift) * WIDTH + warp * 128;
#pragma unroll
        for (int p = 0; p < 2; p++) v[i][p] = load8(row + p * 64 + 8 * g);
      }
#pragma unroll
      for (int p = 0; p < 2; p++)
#pragma unroll
        for (int j = 0; j < 8; j++)
          mma(out[p][j], a[0], a[1], a[2], a[3], halves(v[0][p].r[j / 2], v[1][p].r[j / 2], j % 2),
              halves(v[2][p].r[j / 2], v[3][p].r[j / 2], j % 2));
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + g + 8 * half;
    if (row >= heads) continue;
    size_t at = ((size_t)sequence * heads + row) * gridDim.x + blockIdx.x;
    if (warp == 0 && t == 0) tops[at] = top[half], sums[at] = sum[half];
#pragma unroll
    for (int p = 0; p < 2; p++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          outs[at * LATENT + warp * 128 + p * 64 + 8 * (2 * t + i) + j] = out[p][j][2 * half + i];
  }
}

// Join the parts of a row, in order; grid: (sequences * heads), 512 threads.
extern "C" __global__ void __launch_bounds__(LATENT)
    mla_merge(const float* tops, const float* sums, const float* outs, T* y, int parts) {
  size_t row = blockIdx.x;
  float top = MINUS_INF, sum = 0.0f, out = 0.0f;
  for (int p = 0; p < parts; p++) top = fmaxf(top, tops[row * parts + p]);
  for (int p = 0; p < parts; p++) {
    if (sums[row * parts + p] <= 0.0f) continue;
    float weight = __expf(tops[row * parts + p] - top);
    sum += weight * sums[row * parts + p];
    out += weight * outs[(row * parts + p) * LATENT + threadIdx.x];
  }
  y[row * LATENT + threadIdx.x] = from_float(sum > 0.0f ? out / sum : 0.0f);
}
