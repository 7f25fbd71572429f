// Attention of 16 query rows a warp: decode (the rows are the query heads of one key/value head) and
// causal prefill (the rows are 16 positions of one query head).
//
// Keys and values go from memory to registers: a thread loads 16 bytes of a row, in an order of the
// inner dimension (keys) or of the output columns (values) that suits the instruction. A step takes 16
// keys; the next step's keys are on their way while this one is computed. Paged cache
// (pages, heads_kv, page, DIM), page a power of two; contiguous: one page a sequence.
#include "common.cuh"
#ifndef DIM
#define DIM 128
#endif
#define CHUNKS (DIM / 32)   // pieces of 32 numbers of a row: two instructions each
#define PANELS (DIM / 64)   // pieces of 64 output columns: eight instructions each
#define WARPS 4

struct Cache {
  const T *keys, *values;
  const int* table;  // pages of this sequence
  int heads, head, shift;
};

__device__ __forceinline__ size_t row_of(const Cache& c, int key) {
  int page = c.table[key >> c.shift], slot = key & ((1 << c.shift) - 1);
  return ((((size_t)page * c.heads + c.head) << c.shift) + slot) * DIM;
}

struct Rows {  // 16 query rows, and what was seen so far
  Eight q[CHUNKS][2];
  float out[PANELS][8][4], top[2], sum[2];
};

__device__ __forceinline__ void start(Rows& r) {
#pragma unroll
  for (int p = 0; p < PANELS; p++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) r.out[p][j][i] = 0.0f;
  r.top[0] = r.top[1] = MINUS_INF;
  r.sum[0] = r.sum[1] = 0.0f;
}

__device__ __forceinline__ void load_keys(Eight k[2][CHUNKS], const Cache& c, int key, int last) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const T* row = c.keys + row_of(c, min(key + n * 8 + g, last));
#pragma unroll
    for (int d = 0; d < CHUNKS; d++) k[n][d] = load8(row + d * 32 + 8 * t);
  }
}

// Keys [from, to) of this warp, `step` apart; low and high are the keys that rows g and g + 8 see.
__device__ __forceinline__ void walk(Rows& r, const Cache& c, int from, int to, int step, float scale,
                                     const int low[2], const int high[2]) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (from >= to) return;
  Eight k[2][CHUNKS];
  load_keys(k, c, from, to - 1);
  for (int key = from; key < to; key += step) {
    Eight v[4][PANELS];
#pragma unroll
    for (int i = 0; i < 4; i++) {  // keys 2t, 2t+1, 2t+8, 2t+9
      const T* row = c.values + row_of(c, min(key + 2 * t + i % 2 + 8 * (i / 2), to - 1));
#pragma unroll
      for (int p = 0; p < PANELS; p++) v[i][p] = load8(row + p * 64 + 8 * g);
    }
    float s[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int d = 0; d < CHUNKS; d++)
#pragma unroll
        for (int h = 0; h < 2; h++)
          mma(s[n], r.q[d][0].r[2 * h], r.q[d][1].r[2 * h], r.q[d][0].r[2 * h + 1],
              r.q[d][1].r[2 * h + 1], k[n][d].r[2 * h], k[n][d].r[2 * h + 1]);
    if (key + step < to) load_keys(k, c, key + step, to - 1);
    float now[2] = {r.top[0], r.top[1]};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int at = key + n * 8 + 2 * t + i % 2, row = i / 2;
        bool seen = at < to && at >= low[row] && at < high[row];
        s[n][i] = seen ? s[n][i] * scale : MINUS_INF;
        now[row] = fmaxf(now[row], s[n][i]);
      }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      now[row] = quad_max(now[row]);
      float shrink = __expf(r.top[row] - now[row]), sum = 0.0f;
      r.top[row] = now[row];
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& x = s[n][2 * row + i];
          x = x > MINUS_INF ? __expf(x - now[row]) : 0.0f;
          sum += x;
        }
      r.sum[row] = r.sum[row] * shrink + quad_sum(sum);
#pragma unroll
      for (int p = 0; p < PANELS; p++)
#pragma unroll
        for (int j = 0; j < 8; j++) r.out[p][j][2 * row] *= shrink, r.out[p][j][2 * row + 1] *= shrink;
    }
    u32 a[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]), pack(s[1][0], s[1][1]),
                pack(s[1][2], s[1][3])};
    // Column g of instruction j is number 8 g + j of the panel: a word of each of two keys' rows.
#pragma unroll
    for (int p = 0; p < PANELS; p++)
#pragma unroll
      for (int j = 0; j < 8; j++)
        mma(r.out[p][j], a[0], a[1], a[2], a[3], halves(v[0][p].r[j / 2], v[1][p].r[j / 2], j % 2),
            halves(v[2][p].r[j / 2], v[3][p].r[j / 2], j % 2));
  }
}

// Number of the output column that element i of panel p, instruction j holds.
__device__ __forceinline__ int column(int p, int j, int i) {
  return p * 64 + 8 * (2 * (threadIdx.x % 4) + i % 2) + j;
}

// grid: (splits, heads_kv * packs, sequences), packs = query heads of a group over 16, rounded up.
// Every warp writes its own part: parts = splits * WARPS.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    decode(const T* q, const T* keys, const T* values, const int* table, const int* lengths,
           float* tops, float* sums, float* outs, int heads_kv, int group, int shift, int pages,
           int window, float scale) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int packs = (group + 15) / 16, head = blockIdx.y / packs, first = blockIdx.y % packs * 16;
  int sequence = blockIdx.z, length = lengths[sequence], heads = heads_kv * group;
  int parts = gridDim.x * WARPS, part = blockIdx.x * WARPS + warp;
  Cache c = {keys, values, table + (size_t)sequence * pages, heads_kv, head, shift};
  Rows r;
  start(r);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = min(first + g + 8 * half, group - 1);
    const T* from = q + ((size_t)sequence * heads + head * group + row) * DIM;
#pragma unroll
    for (int d = 0; d < CHUNKS; d++) r.q[d][half] = load8(from + d * 32 + 8 * t);
  }
  int begin = window > 0 ? max(0, length - window) : 0;
  int each = (length - begin + parts - 1) / parts;
  each = (each + 15) / 16 * 16;
  int from = begin + part * each, to = min(from + each, length);
  int low[2] = {begin, begin}, high[2] = {length, length};
  walk(r, c, from, to, 16, scale, low, high);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + g + 8 * half;
    if (row >= group) continue;
    size_t at = ((size_t)sequence * heads + head * group + row) * parts + part;
    if (t == 0) tops[at] = r.top[half], sums[at] = r.sum[half];
#pragma unroll
    for (int p = 0; p < PANELS; p++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) outs[at * DIM + column(p, j, i)] = r.out[p][j][2 * half + i];
  }
}

// Join the parts of a row, in order; grid: (sequences * heads), DIM threads. A row without keys is 0.
extern "C" __global__ void __launch_bounds__(DIM)
    merge(const float* tops, const float* sums, const float* outs, T* y, int parts) {
  size_t row = blockIdx.x;
  float top = MINUS_INF, sum = 0.0f, out = 0.0f;
  for (int p = 0; p < parts; p++) top = fmaxf(top, tops[row * parts + p]);
  for (int p = 0; p < parts; p++) {
    if (sums[row * parts + p] <= 0.0f) continue;
    float weight = __expf(tops[row * parts + p] - top);
    sum += weight * sums[row * parts + p];
    out += weight * outs[(row * parts + p) * DIM + threadIdx.x];
  }
  y[row * DIM + threadIdx.x] = from_float(sum > 0.0f ? out / sum : 0.0f);
}

// Causal prefill; grid: (positions / 64, heads_q, sequences). q, y: (sequences, most, heads, DIM);
// queries: new positions of each sequence, the last of its `lengths` keys.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    prefill(const T* q, const T* keys, const T* values, const int* table, const int* lengths,
            const int* queries, T* y, int most, int heads, int heads_kv, int shift, int pages,
            int window, float scale) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  int sequence = blockIdx.z, head = blockIdx.y, length = lengths[sequence], count = queries[sequence];
  int first = (blockIdx.x * WARPS + warp) * 16;
  if (first >= count) return;
  Cache c = {keys, values, table + (size_t)sequence * pages, heads_kv, head / (heads / heads_kv), shift};
  Rows r;
  start(r);
  int low[2], high[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = min(first + g + 8 * half, count - 1), position = length - count + row;
    const T* from = q + (((size_t)sequence * most + row) * heads + head) * DIM;
#pragma unroll
    for (int d = 0; d < CHUNKS; d++) r.q[d][half] = load8(from + d * 32 + 8 * t);
    high[half] = position + 1;
    low[half] = window > 0 ? max(0, position + 1 - window) : 0;
  }
  int begin = length - count + first;
  int from = window > 0 ? max(0, begin + 1 - window) : 0;
  int to = min(begin + 16, length);
  walk(r, c, from, to, 16, scale, low, high);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + g + 8 * half;
    if (row >= count) continue;
    T* to_row = y + (((size_t)sequence * most + row) * heads + head) * DIM;
#pragma unroll
    for (int p = 0; p < PANELS; p++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          to_row[column(p, j, i)] = from_float(r.out[p][j][2 * half + i] / r.sum[half]);
  }
}
