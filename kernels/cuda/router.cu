// Router: a warp a token, experts spread over the lanes, k rounds of the largest; of equal scores the
// lower index wins. Softmax over all experts, or sigmoid with a bias that only counts for the choice.
#include "common.cuh"
#ifndef EXPERTS
#define EXPERTS 128
#endif
#define EACH ((EXPERTS + 31) / 32)

extern "C" __global__ void __launch_bounds__(128)
    route(const float* logits, const float* bias, int* ids, float* weights, int tokens, int k,
          int sigmoid, int normalise) {
  int lane = threadIdx.x % 32, token = blockIdx.x * 4 + threadIdx.x / 32;
  if (token >= tokens) return;
  float score[EACH], choice[EACH], top = MINUS_INF, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int e = i * 32 + lane;
    score[i] = e < EXPERTS ? logits[(size_t)token * EXPERTS + e] : MINUS_INF;
    choice[i] = score[i];
    top = fmaxf(top, score[i]);
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, d));
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int e = i * 32 + lane;
    if (sigmoid) {
      score[i] = 1.0f / (1.0f + __expf(-score[i]));
      if (e < EXPERTS) choice[i] = score[i] + bias[e];
    } else {
      score[i] = e < EXPERTS ? __expf(score[i] - top) : 0.0f;
      sum += score[i];
    }
  }
  if (!sigmoid) sum = warp_sum(sum);
  float chosen = 0.0f, mine = 0.0f;
  for (int j = 0; j < k; j++) {
    float best = MINUS_INF * 2.0f, value = 0.0f;  // minus infinity: below every finite score
    int index = EXPERTS;
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (choice[i] > best && i * 32 + lane < EXPERTS) {
        best = choice[i];
        index = i * 32 + lane;
        value = score[i];
      }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      float other = __shfl_xor_sync(ALL, best, d), weight = __shfl_xor_sync(ALL, value, d);
      int at = __shfl_xor_sync(ALL, index, d);
      if (other > best || (other == best && at < index)) best = other, index = at, value = weight;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (i * 32 + lane == index) choice[i] = MINUS_INF * 2.0f;
    if (!sigmoid) value /= sum;
    chosen += value;
    if (lane == j) mine = value;
    if (lane == 0) ids[(size_t)token * k + j] = index;
  }
  if (lane < k) weights[(size_t)token * k + lane] = normalise ? mine / chosen : mine;
}
