// Register tiles of the native decoder: a small matrix product, a 16-way horizontal sum, and storage of both number types.
// T is float or bf16. A "unit" is what one multiply-add consumes of a row: one float, or two neighbouring bf16 in one word.
// Every output is one chain of multiply-adds over k in rising order, whatever the tile's shape: results do not depend on the
// number of rows. Not here: quantised weights (quant.h), anything that knows a model.
#pragma once
#include "common.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef uint32_t w16 __attribute__((vector_size(64), aligned(4), may_alias));

template <class T> struct Dot;
template <> struct Dot<float> {
    using unit = float;
    static constexpr int64_t width = 1;
    static inline v16 mac(v16 acc, float a, v16 b) { return acc + a * b; }
};
static inline v16 dot_pairs(v16 acc, w16 a, w16 b) {  // acc[i] += a[i].lo * b[i].lo + a[i].hi * b[i].hi
#if defined(__AVX512BF16__)
    return (v16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
#else
    return acc + (v16)(a << 16) * (v16)(b << 16) + (v16)(a & 0xffff0000u) * (v16)(b & 0xffff0000u);
#endif
}
template <> struct Dot<bf16> {
    using unit = uint32_t;
    static constexpr int64_t width = 2;
    static inline v16 mac(v16 acc, uint32_t a, v16 b) { return dot_pairs(acc, w16{} + a, (w16)b); }
};
template <class T> static inline int64_t units(int64_t n) { return (n + Dot<T>::width - 1) / Dot<T>::width; }

static inline v16 get16(const float* x) { return *(const v16*)x; }
static inline v16 get16(const bf16* x) {
    typedef bf16 h16 __attribute__((vector_size(32), aligned(2), may_alias));
    return (v16)(__builtin_convertvector(*(const h16*)x, w16) << 16);
}
static inline w16 round16(v16 x) { return (w16)x + 0x7fffu + (((w16)x >> 16) & 1u); }  // bf16 in the upper halves, to nearest even
static inline void put16(float* y, v16 x) { *(v16*)y = x; }
static inline void put16(bf16* y, v16 x) {
    typedef bf16 h16 __attribute__((vector_size(32), aligned(2), may_alias));
    *(h16*)y = __builtin_convertvector(round16(x) >> 16, h16);
}
static inline v16 exp16(v16 x) {  // fast_exp, but 0 far below -87 and inf far above 88
#if defined(__AVX512F__)
    __m512 y = _mm512_max_ps(_mm512_set1_ps(-200.f), (__m512)x);  // in this order a NaN stays one
    y = _mm512_min_ps(_mm512_set1_ps(200.f), y);
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(y, _mm512_set1_ps(1.44269504088896f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    v16 q = (v16)_mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), y) + (v16)whole * 2.12194440e-4f, e = v16{} + 1.9875691500e-4f;
    e = e * q + 1.3981999507e-3f;
    e = e * q + 8.3334519073e-3f;
    e = e * q + 4.1665795894e-2f;
    e = e * q + 1.6666665459e-1f;
    e = e * q + 5.0000001201e-1f;
    e = e * q * q + q + 1.f;
    return (v16)_mm512_scalef_ps((__m512)e, whole);
#else
    v16 low = x < -87.f ? v16{} - 87.f : x, y = low > 88.f ? v16{} + 88.f : low, shifted = y * 1.44269504088896f + 12582912.f;
    v16 n = shifted - 12582912.f, r = y - n * 0.693359375f + n * 2.12194440e-4f, p = v16{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    p *= (v16)(((w16)shifted << 23) + 0x3f800000u);
    return x < -87.f ? v16{} : p;
#endif
}

// out[m][16 p ..] = sum_k a[m][k] * b[p][k][16] for M rows and P panels of 16 columns
template <class T, int M, int P>
static void tile(const typename Dot<T>::unit* a, int64_t lda, const float* b, int64_t ku, float* out) {
    v16 acc[M][P] = {};
    for (int64_t k = 0; k < ku; k++) {
        v16 bv[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) bv[p] = *(const v16*)(b + (p * ku + k) * 16);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            auto unit = a[m * lda + k];
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) acc[m][p] = Dot<T>::mac(acc[m][p], unit, bv[p]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) *(v16*)(out + (m * P + p) * 16) = acc[m][p];
}
template <class T> using TileFn = void (*)(const typename Dot<T>::unit*, int64_t, const float*, int64_t, float*);
static const int TILE_ROWS = 6;
template <class T, int P>
static inline TileFn<T> tile_of(int64_t m) {
    static const TileFn<T> fns[TILE_ROWS] = {tile<T, 1, P>, tile<T, 2, P>, tile<T, 3, P>, tile<T, 4, P>, tile<T, 5, P>, tile<T, 6, P>};
    return fns[m - 1];
}

// Rows a (M, lda units) times panels p0 .. p1 of a packed matrix; `done(row, panel, values, count)` takes `count` panels' results.
// Panels are taken in fours, then twos, then one: with an even p0 a pair (2 i, 2 i + 1) is never torn.
template <class T, class Done>
static void multiply(const T* a, int64_t lda, int64_t rows, const void* packed, int64_t k, int64_t p0, int64_t p1, Done done) {
    using unit = typename Dot<T>::unit;
    const int64_t ku = units<T>(k), ldu = lda / Dot<T>::width;
    const float* w = (const float*)packed;
    alignas(64) float out[TILE_ROWS * 8 * 16];
    for (int64_t p = p0; p < p1;) {
        int64_t few = rows <= 2 ? 8 : 4, count = p1 - p >= few ? few : p1 - p >= 4 ? 4 : p1 - p >= 2 ? 2 : 1;
        for (int64_t m = 0; m < rows; m += TILE_ROWS) {
            int64_t n = std::min<int64_t>(TILE_ROWS, rows - m);
            const unit* x = (const unit*)a + m * ldu;
            TileFn<T> run = count == 8 ? (n == 1 ? tile<T, 1, 8> : tile<T, 2, 8>) : count == 4 ? tile_of<T, 4>(n) : count == 2 ? tile_of<T, 2>(n) : tile_of<T, 1>(n);
            run(x, ldu, w + p * ku * 16, ku, out);
            for (int64_t r = 0; r < n; r++) done(m + r, p, out + r * count * 16, count);
        }
        p += count;
    }
}

// out[i] = sum of the lanes of x[i], for 16 vectors, always added in the same order
static inline v16 sum_lanes(v16* x) {
    for (int i = 0; i < 8; i++) x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                                       __builtin_shufflevector(x[2 * i], x[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++) x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                                       __builtin_shufflevector(x[2 * i], x[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++) x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
                                       __builtin_shufflevector(x[2 * i], x[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return __builtin_shufflevector(x[0], x[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(x[0], x[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
