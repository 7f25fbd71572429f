// Runs a CUDA source on the CPU, thread by thread, to check what it computes (not how fast).
//
// Every CUDA thread is a fiber. One runs until it meets a barrier or a warp operation; the others then
// take their turn. A warp operation (shuffle, ballot, matrix product) puts each lane's operand into a
// slot, waits for the lanes that still run, and reads the others'. Shared memory is static memory:
// blocks run one after another.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define EMULATED
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define __align__(n) __attribute__((aligned(n)))

struct Index {
  int x, y, z;
};
inline Index blockIdx, gridDim, blockDim, threadIdx;

using std::max;
using std::min;
typedef _Float16 __half;
inline float __half2float(__half x) { return (float)x; }
inline __half __float2half(float x) { return (__half)x; }
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  uint32_t word = (uint32_t)x.bits << 16;
  float out;
  memcpy(&out, &word, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t word;
  memcpy(&word, &x, 4);
  if ((word & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {(uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
}
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int atomicAdd(int* at, int more) { return (*at += more) - more; }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done, waiting;
  int kind;  // 0: block barrier, 1: warp
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int current;
struct Slot {
  uint32_t word[10];
};
inline std::vector<Slot> slots;

inline void pause(int kind) {
  fibers[current].waiting = true, fibers[current].kind = kind;
  swapcontext(&fibers[current].context, &scheduler);
}
inline void __syncthreads() { pause(0); }
inline int lane_of(int thread) { return thread % 32; }

inline uint32_t exchange(uint32_t mine, int from) {
  slots[current].word[0] = mine;
  pause(1);
  uint32_t out = slots[current / 32 * 32 + from].word[0];
  pause(1);
  return out;
}
template <class V>
V __shfl_xor_sync(uint32_t, V value, int mask) {
  uint32_t word;
  memcpy(&word, &value, 4);
  word = exchange(word, lane_of(current) ^ mask);
  memcpy(&value, &word, 4);
  return value;
}
inline uint32_t __ballot_sync(uint32_t, bool vote) {
  slots[current].word[0] = vote;
  pause(1);
  uint32_t out = 0;
  for (int i = 0; i < 32; i++) out |= slots[current / 32 * 32 + i].word[0] << i;
  pause(1);
  return out;
}

inline void copy16(void* shared, const void* global, bool valid) {
  valid ? (void)memcpy(shared, global, 16) : (void)memset(shared, 0, 16);
}
inline void copies_done() {}
template <int LEFT>
void copies_wait() {}
inline uint32_t halves(uint32_t a, uint32_t b, int which) {
  return which ? (a >> 16) | (b & 0xffff0000u) : (a & 0xffffu) | (b << 16);
}
template <class T>
float number(uint32_t word, int i) {
  T pair[2];
  memcpy(pair, &word, 4);
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, __half>)
    return __half2float(pair[i]);
  else
    return __bfloat162float(pair[i]);
}
// Fragments as the PTX manual lays them out for mma.m16n8k16.
template <class T>
void mma_of(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
            uint32_t b1) {
  uint32_t words[6] = {a0, a1, a2, a3, b0, b1};
  memcpy(slots[current].word, words, sizeof words);
  pause(1);
  const Slot* warp = &slots[current / 32 * 32];
  int g = lane_of(current) / 4, t = lane_of(current) % 4;
  for (int i = 0; i < 4; i++) {
    int row = g + 8 * (i / 2), col = 2 * t + i % 2;
    float sum = c[i];
    for (int k = 0; k < 16; k++) {
      const Slot& left = warp[row % 8 * 4 + k % 8 / 2];
      const Slot& right = warp[col * 4 + k % 8 / 2];
      sum += number<T>(left.word[row / 8 + 2 * (k / 8)], k % 2) *
             number<T>(right.word[4 + k / 8], k % 2);
    }
    c[i] = sum;
  }
  pause(1);
}

template <class... A>
struct Call {
  static inline void (*kernel)(A...);
  static inline void** args;
  template <size_t... I>
  static void apply(std::index_sequence<I...>) {
    kernel(*static_cast<A*>(args[I])...);
  }
  static void enter() {
    apply(std::index_sequence_for<A...>{});
    fibers[current].done = true;
    swapcontext(&fibers[current].context, &scheduler);
  }
};

// Whether all threads that run, of a warp or of the block, wait for the same thing.
inline bool together(int from, int to, int kind) {
  for (int i = from; i < to; i++)
    if (!fibers[i].done && !(fibers[i].waiting && fibers[i].kind == kind)) return false;
  return true;
}

template <class... A>
void run_block(int threads, void (*enter)()) {
  fibers.resize(threads), slots.assign(threads, Slot{});
  for (Fiber& f : fibers) {
    f.done = f.waiting = false;
    f.stack.resize(1 << 18);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  for (;;) {
    bool moved = false, left = false;
    for (int i = 0; i < threads; i++) {
      Fiber& f = fibers[i];
      left |= !f.done;
      if (f.done || f.waiting) continue;
      current = i, threadIdx = {i, 0, 0}, moved = true;
      swapcontext(&scheduler, &f.context);
    }
    if (!left) return;
    for (int w = 0; w < threads; w += 32)
      if (together(w, min(w + 32, threads), 1))
        for (int i = w; i < min(w + 32, threads); i++) moved |= fibers[i].waiting, fibers[i].waiting = false;
    if (together(0, threads, 0))
      for (Fiber& f : fibers) moved |= f.waiting, f.waiting = false;
    if (!moved) fprintf(stderr, "threads wait for one another for ever\n"), abort();
  }
}

template <class... A>
void launch(void (*kernel)(A...), const int* shape, void** args) {
  Call<A...>::kernel = kernel, Call<A...>::args = args;
  gridDim = {shape[0], shape[1], shape[2]}, blockDim = {shape[3], 1, 1};
  for (int z = 0; z < shape[2]; z++)
    for (int y = 0; y < shape[1]; y++)
      for (int x = 0; x < shape[0]; x++) {
        blockIdx = {x, y, z};
        run_block<A...>(shape[3], Call<A...>::enter);
      }
}
