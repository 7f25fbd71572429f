// Recurrences of matrix states: the delta rule with one decay a head or one a channel, and scans. A state is
// values x KEYS in fp32; see recurrent.py for what a token does to it. Inputs are T, decays and betas fp32.
#include "common.cuh"
#ifndef KEYS
#define KEYS 128
#endif
#define WARPS 4
#define ROWS 8   // rows of a state that a warp has in flight
#define PER (KEYS / 32)
#define CHUNK 16
#define COLS 16  // values of a block of a prompt

// One token of each sequence, in place. grid: (values / 32 rounded up, heads, sequences).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    recurrent_step(const T* q, const T* k, const T* v, const float* decay, const float* beta,
                   float* states, T* out, int heads_k, int values, int decays, int erase) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int heads = gridDim.y, head = blockIdx.y, n = blockIdx.z;
  size_t unit = (size_t)n * heads + head;
  size_t shared_row = ((size_t)n * heads_k + head / (heads / heads_k)) * KEYS;
  float key[PER], found[PER], asked[PER], a[PER], same = 0.0f;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    int d = lane * PER + i;
    a[i] = decay[unit * decays + (decays > 1 ? d : 0)];
    float query = to_float(q[shared_row + d]);
    key[i] = to_float(k[shared_row + d]);
    found[i] = a[i] * key[i], asked[i] = a[i] * query, same += query * key[i];
  }
  same = warp_sum(same);
  int first = (blockIdx.x * WARPS + warp) * ROWS;
  float* at = states + (unit * values + first) * KEYS + lane * PER;
  float s[ROWS][PER];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int i = 0; i < PER; i++) s[r][i] = first + r < values ? at[r * KEYS + i] : 0.0f;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float old = 0.0f, read = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) old += s[r][i] * found[i], read += s[r][i] * asked[i];
    old = warp_sum(old), read = warp_sum(read);
    if (first + r >= values) continue;
    size_t place = unit * values + first + r;
    float fresh = beta[unit] * (to_float(v[place]) - (erase ? old : 0.0f));
#pragma unroll
    for (int i = 0; i < PER; i++) at[r * KEYS + i] = s[r][i] * a[i] + fresh * key[i];
    if (lane == 0) out[place] = from_float(read + same * fresh);
  }
}

// Prompts, CHUNK tokens at a time. grid: (values / COLS, heads, sequences). `worst` gets 1 where the decays
// of channels come so low that keys cannot be divided by them.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    recurrent_chunks(const T* q, const T* k, const T* v, const float* decay, const float* beta,
                     float* states, T* out, int* worst, int tokens, int heads_k, int values, int decays,
                     int erase) {
  __shared__ float state[KEYS][COLS], left[2 * CHUNK][KEYS], pairs[CHUNK][KEYS + 1], total[KEYS];
  __shared__ float scores[2 * CHUNK][CHUNK], base[2 * CHUNK][COLS], fresh[CHUNK][COLS];
  int heads = gridDim.y, head = blockIdx.y, n = blockIdx.z, column = blockIdx.x * COLS;
  int group = head / (heads / heads_k), threads = 32 * WARPS;
  float* own = states + (((size_t)n * heads + head) * values + column) * KEYS;
  for (int i = threadIdx.x; i < KEYS * COLS; i += threads) state[i % KEYS][i / KEYS] = own[i];
  for (int first = 0; first < tokens; first += CHUNK) {
    int count = min(CHUNK, tokens - first);
    size_t token = (size_t)n * tokens + first;
    const T* query = q + (token * heads_k + group) * KEYS;
    const T* keys = k + (token * heads_k + group) * KEYS;
    const float* a = decay + (token * heads + head) * decays;
    int step = heads_k * KEYS, stride = heads * decays;
    __syncthreads();
    for (int d = threadIdx.x; d < KEYS; d += threads) {
      float product = 1.0f;
#pragma unroll 2
      for (int t = 0; t < CHUNK; t++) {
        bool there = t < count;
        product *= there ? a[(size_t)t * stride + (decays > 1 ? d : 0)] : 1.0f;
        float x = there ? to_float(query[(size_t)t * step + d]) : 0.0f;
        float y = there ? to_float(keys[(size_t)t * step + d]) : 0.0f;
        left[t][d] = x * product, left[CHUNK + t][d] = y * product;
        pairs[t][d] = decays > 1 ? y / product : y;
      }
      total[d] = product;
      if (decays > 1 && !(product >= 1e-36f)) *worst = 1;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * CHUNK * CHUNK; i += threads) {
      int row = i / CHUNK, t = row % CHUNK, s = i % CHUNK;
      const T* raw = (row < CHUNK ? query : keys) + (size_t)t * step;
      float sum = 0.0f;
      if (s <= t && t < count) {
#pragma unroll 8
        for (int d = 0; d < KEYS; d++)
          sum += (decays > 1 ? left[row][d] : to_float(raw[d])) * pairs[s][d];
        if (decays == 1)  // no quotient of decays, which may be nothing
          for (int j = s + 1; j <= t; j++) sum *= a[(size_t)j * stride];
      }
      scores[row][s] = sum;
    }
    for (int i = threadIdx.x; i < 2 * CHUNK * COLS; i += threads) {
      float sum = 0.0f;
#pragma unroll 8
      for (int d = 0; d < KEYS; d++) sum += left[i / COLS][d] * state[d][i % COLS];
      base[i / COLS][i % COLS] = sum;
    }
    __syncthreads();
    if (threadIdx.x < COLS)  // columns know nothing of one another
#pragma unroll 1
      for (int t = 0, c = threadIdx.x; t < CHUNK; t++) {
        float x = 0.0f;
        if (t < count) {
          size_t at = (token + t) * heads + head;
          x = to_float(v[at * values + column + c]);
          if (erase) {
            x -= base[CHUNK + t][c];
            for (int s = 0; s < t; s++) x -= scores[CHUNK + t][s] * fresh[s][c];
          }
          x *= beta[at];
        }
        fresh[t][c] = x;
      }
    __syncthreads();
    for (int i = threadIdx.x; i < count * COLS; i += threads) {
      int t = i / COLS, c = i % COLS;
      float sum = base[t][c];
      for (int s = 0; s <= t; s++) sum += scores[t][s] * fresh[s][c];
      out[((token + t) * heads + head) * values + column + c] = from_float(sum);
    }
    for (int d = threadIdx.x; d < KEYS; d += threads) {
      float tail = decays > 1 ? total[d] : 1.0f;  // decay from a token to the chunk's end
#pragma unroll
      for (int c = 0; c < COLS; c++) state[d][c] *= total[d];
      for (int t = count - 1; t >= 0; t--) {
        float key = pairs[t][d] * tail;
#pragma unroll
        for (int c = 0; c < COLS; c++) state[d][c] += key * fresh[t][c];
        if (decays == 1) tail *= a[(size_t)t * stride];
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < KEYS * COLS; i += threads) own[i] = state[i % KEYS][i / KEYS];
}
