// Shared by every kernel file: bf16 <-> fp32, a vectorisable exp, and one small matrix product.
// Plain arrays only; nothing here knows about models or torch. Storage type S is float or bf16 (uint16_t); all arithmetic is fp32.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using bf16 = uint16_t;

static inline float load(const float* p, int64_t i) { return p[i]; }
static inline float load(const bf16* p, int64_t i) {
    uint32_t bits = uint32_t(p[i]) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
static inline void store(float* p, int64_t i, float x) { p[i] = x; }
static inline void store(bf16* p, int64_t i, float x) {  // round to nearest even, as torch does
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    p[i] = bf16(bits >> 16);
}

// exp(x), relative error about 1e-7, no branches so that loops over it vectorise. Clamped to [-87, 88].
static inline float fast_exp(float x) {
    x = x < -87.f ? -87.f : (x > 88.f ? 88.f : x);
    float shifted = x * 1.44269504088896f + 12582912.f;  // 1.5 * 2^23: the integer part lands in the low mantissa bits
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    float n = shifted - 12582912.f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    int32_t exponent = int32_t(uint32_t(bits) << 23) + 0x3f800000;
    float scale;
    std::memcpy(&scale, &exponent, 4);
    return p * scale;
}

static inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// C[m][n] (+)= sum_{k in [k0, k1)} A(m, k) * B[k][n] for 4 rows m and 16*NV columns; A(m, k) = a[m * a_m + k * a_k].
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
template <int NV>
static inline void tile4(const float* a, int64_t a_m, int64_t a_k, const float* b, int64_t ldb, float* c, int64_t ldc, int k0, int k1) {
    v16 acc[4][NV] = {};
    for (int k = k0; k < k1; k++) {
        v16 bv[NV];
        for (int v = 0; v < NV; v++) bv[v] = *(const v16*)(b + k * ldb + 16 * v);
        for (int m = 0; m < 4; m++) {
            float s = a[m * a_m + k * a_k];
            for (int v = 0; v < NV; v++) acc[m][v] += s * bv[v];
        }
    }
    for (int m = 0; m < 4; m++)
        for (int v = 0; v < NV; v++) *(v16*)(c + m * ldc + 16 * v) = acc[m][v];
}
static inline void rows4(const float* a, int64_t a_m, int64_t a_k, const float* b, int64_t ldb, float* c, int64_t ldc, int n, int k0, int k1) {
    int j = 0;
    for (; j + 64 <= n; j += 64) tile4<4>(a, a_m, a_k, b + j, ldb, c + j, ldc, k0, k1);
    for (; j + 32 <= n; j += 32) tile4<2>(a, a_m, a_k, b + j, ldb, c + j, ldc, k0, k1);
    for (; j < n; j += 16) tile4<1>(a, a_m, a_k, b + j, ldb, c + j, ldc, k0, k1);
}
