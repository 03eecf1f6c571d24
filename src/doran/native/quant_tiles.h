// The products of quant.cpp and of the native decoder: rows of activations rounded to int8, and one panel of packed weights (quant.h)
// times a tile of them, for each instruction set. All agree bit for bit: integers are exact, and floats are added chunk by chunk.
#pragma once
#include <type_traits>

#include "quant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

static const int TILE = 16;               // rows of x that share one unpacking of the weights
#ifndef PREFETCH
#define PREFETCH 8192  // bytes ahead while one or two rows stream through the weights; measured best of 0 to 16384
#endif

// One tile of quantised activations: codes [chunk][row][32], and for each chunk and row a scale, the sum of its codes, and of the first 16.
struct Tile {
    int rows, padded;  // real rows; rows laid out, one of 1 2 4 8 16
    int64_t first;     // its first row in x and y
    int8_t* codes;
    float* scale;
    int32_t *sum, *half;
};

template <class S>
static inline void quantise_row(const S* x, int64_t k, int r, const Tile& t) {
    for (int64_t c = 0; c < k / CHUNK; c++) {
        float v[CHUNK], largest = 0.f;
        for (int j = 0; j < CHUNK; j++) v[j] = load(x, c * CHUNK + j);
        for (int j = 0; j < CHUNK; j++) largest = std::max(largest, std::fabs(v[j]));
        float inverse = largest > 0.f ? 127.f / largest : 0.f;
        int8_t* out = t.codes + (c * t.padded + r) * CHUNK;
        int32_t q[CHUNK], first = 0, second = 0;
        for (int j = 0; j < CHUNK; j++) {
            float shifted = v[j] * inverse + 12582912.f;  // rounds to nearest even; |v * inverse| <= 127
            std::memcpy(&q[j], &shifted, 4);
            q[j] = (q[j] << 10) >> 10;  // the low mantissa bits, with their sign: within bounds whatever v was
        }
        for (int j = 0; j < CHUNK; j++) out[j] = int8_t(q[j]);
        for (int j = 0; j < CHUNK / 2; j++) first += q[j];
        for (int j = CHUNK / 2; j < CHUNK; j++) second += q[j];
        int64_t at = c * t.padded + r;
        // A NaN or infinity must come out as NaN: the scale carries it, the codes are of no account.
        int bad = 0;
        for (int j = 0; j < CHUNK; j++) bad |= !(std::fabs(v[j]) <= 3.4028234e38f);
        t.scale[at] = bad ? NAN : largest / 127.f;
        t.sum[at] = first + second;
        t.half[at] = first;
    }
}

// ---- scalar: the reference of the others, and what runs elsewhere --------------------------------------------------------------------
struct Decoded {  // one chunk of a panel: codes as 8 vectors, scales of each 16-column half, and what to subtract a unit of activation
    alignas(64) uint8_t w[512];
    float s0[PANEL], s1[PANEL], low[PANEL];
};

template <int F>
static inline void decode_codes(const uint8_t* p, uint8_t* w) {
    if (F == Q_INT8) {
        std::memcpy(w, p, 512);
        return;
    }
    for (int b = 0; b < 256; b++) w[b] = p[b] & 15, w[256 + b] = p[b] >> 4;
    if (F == Q_Q6K)
        for (int v = 0; v < 8; v++)
            for (int b = 0; b < 64; b++) w[64 * v + b] |= ((p[256 + 64 * (v / 4) + b] >> (2 * (v % 4))) & 3) << 4;
}

template <int F>
static inline void decode_scales(const uint8_t* scales, int64_t c, Decoded& d) {
    auto half_at = [](const uint8_t* p, int r) {
        uint16_t h;
        std::memcpy(&h, p + 2 * r, 2);
        return half_to_float(h);
    };
    for (int r = 0; r < PANEL; r++) {
        if (F == Q_Q4K) {
            const uint8_t* s = scales + c / 8 * 320;
            d.s0[r] = d.s1[r] = half_at(s, r) * float(s[64 + c % 8 * 16 + r]);
            d.low[r] = half_at(s + 32, r) * float(s[192 + c % 8 * 16 + r]);
        } else if (F == Q_Q6K) {
            const uint8_t* s = scales + c / 8 * 288;
            d.s0[r] = half_at(s, r) * float(int8_t(s[32 + c % 8 * 32 + r]));
            d.s1[r] = half_at(s, r) * float(int8_t(s[32 + c % 8 * 32 + 16 + r]));
        } else {
            d.s0[r] = half_at(scales + c * 32, r);
        }
    }
}

template <int F>
constexpr int offset_of() { return F == Q_INT8 ? 128 : F == Q_INT4 ? 8 : F == Q_Q6K ? 32 : 0; }

// One panel and one tile: 16 results a row, rows of `out` being `ldo` apart
template <int F>
static void panel_scalar(const uint8_t* panel, int64_t k, const Tile& t, float* out, int64_t ldo) {
    const uint8_t *scales = panel, *codes = panel + q_scale_bytes(F, k);
    for (int r = 0; r < t.rows; r++) std::fill(out + r * ldo, out + r * ldo + PANEL, 0.f);
    Decoded d;
    for (int64_t c = 0; c < k / CHUNK; c++) {
        decode_codes<F>(codes + c * q_chunk_bytes(F), d.w);
        decode_scales<F>(scales, c, d);
        for (int r = 0; r < t.rows; r++) {
            int64_t at = c * t.padded + r;
            const int8_t* a = t.codes + at * CHUNK;
            for (int j = 0; j < PANEL; j++) {
                int32_t part[2] = {-offset_of<F>() * t.half[at], -offset_of<F>() * (t.sum[at] - t.half[at])};
                for (int q = 0; q < CHUNK; q++) part[q / 16] += int32_t(d.w[64 * (q / 4) + 4 * j + q % 4]) * a[q];
                float& y = out[r * ldo + j];
                if (F == Q_Q6K) {
                    y = std::fma(float(part[0]), d.s0[j] * t.scale[at], y);
                    y = std::fma(float(part[1]), d.s1[j] * t.scale[at], y);
                } else {
                    y = std::fma(float(part[0] + part[1]), d.s0[j] * t.scale[at], y);
                }
                if (F == Q_Q4K) y = std::fma(-float(t.sum[at]), d.low[j] * t.scale[at], y);
            }
        }
    }
}

#if defined(__AVX2__) && defined(__FMA__)
// ---- AVX2: bytes multiply to 16 bits. 2 * 128 * 127 fits, 2 * 255 * 127 would not: int8 codes go in as magnitude, with their sign moved
// to the activation.
template <int F>
static inline __m256i dot_avx2(__m256i acc, __m256i w, __m256i a) {
    if (F == Q_INT8) {
        w = _mm256_xor_si256(w, _mm256_set1_epi8(char(0x80)));
        a = _mm256_sign_epi8(a, w);
        w = _mm256_abs_epi8(w);
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}

template <int F>
static void panel_avx2(const uint8_t* panel, int64_t k, const Tile& t, float* out, int64_t ldo) {
    const uint8_t *scales = panel, *codes = panel + q_scale_bytes(F, k);
    for (int r = 0; r < t.rows; r++) std::fill(out + r * ldo, out + r * ldo + PANEL, 0.f);
    Decoded d;
    const int off = F == Q_INT8 ? 0 : offset_of<F>();
    for (int64_t c = 0; c < k / CHUNK; c++) {
        decode_codes<F>(codes + c * q_chunk_bytes(F), d.w);
        decode_scales<F>(scales, c, d);
        for (int r = 0; r < t.rows; r++) {
            int64_t at = c * t.padded + r;
            const int8_t* a = t.codes + at * CHUNK;
            __m256 sa = _mm256_set1_ps(t.scale[at]);
            for (int h = 0; h < 2; h++) {
                __m256i part[2] = {_mm256_set1_epi32(-off * t.half[at]), _mm256_set1_epi32(-off * (t.sum[at] - t.half[at]))};
                for (int v = 0; v < 8; v++) {
                    int32_t four;
                    std::memcpy(&four, a + 4 * v, 4);
                    part[v / 4] = dot_avx2<F>(part[v / 4], _mm256_load_si256((const __m256i*)(d.w + 64 * v + 32 * h)), _mm256_set1_epi32(four));
                }
                float* y = out + r * ldo + 8 * h;
                __m256 acc = _mm256_loadu_ps(y), s0 = _mm256_mul_ps(_mm256_loadu_ps(d.s0 + 8 * h), sa);
                if (F == Q_Q6K) {
                    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part[0]), s0, acc);
                    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part[1]), _mm256_mul_ps(_mm256_loadu_ps(d.s1 + 8 * h), sa), acc);
                } else {
                    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(part[0], part[1])), s0, acc);
                }
                if (F == Q_Q4K) {
                    __m256 low = _mm256_mul_ps(_mm256_loadu_ps(d.low + 8 * h), sa);
                    acc = _mm256_fmadd_ps(_mm256_set1_ps(-float(t.sum[at])), low, acc);
                }
                _mm256_storeu_ps(y, acc);
            }
        }
    }
}
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define DORAN_VNNI 1
// ---- AVX512-VNNI: the chunk's 8 vectors stay in registers while the tile's rows pass by -----------------------------------------------
template <int F>
static inline __attribute__((always_inline)) void load_codes(const uint8_t* p, __m512i w[8]) {
    if (F == Q_INT8) {
        for (int v = 0; v < 8; v++) w[v] = _mm512_loadu_si512(p + 64 * v);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30);
    for (int v = 0; v < 4; v++) {
        __m512i both = _mm512_loadu_si512(p + 64 * v);
        w[v] = _mm512_and_si512(both, low);
        w[v + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    if (F == Q_Q6K)
        for (int i = 0; i < 2; i++) {
            __m512i h = _mm512_loadu_si512(p + 256 + 64 * i);
            w[4 * i] = _mm512_or_si512(w[4 * i], _mm512_and_si512(_mm512_slli_epi16(h, 4), two));
            w[4 * i + 1] = _mm512_or_si512(w[4 * i + 1], _mm512_and_si512(_mm512_slli_epi16(h, 2), two));
            w[4 * i + 2] = _mm512_or_si512(w[4 * i + 2], _mm512_and_si512(h, two));
            w[4 * i + 3] = _mm512_or_si512(w[4 * i + 3], _mm512_and_si512(_mm512_srli_epi16(h, 2), two));
        }
}
static inline __m512 halves(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline __m512 bytes_u(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))); }
static inline __m512 bytes_s(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }

template <int F, int R>
static void panel_vnni(const uint8_t* panel, int64_t k, const Tile& t, float* out, int64_t ldo) {
    const uint8_t *scales = panel, *codes = panel + q_scale_bytes(F, k);
    constexpr int64_t step = F == Q_INT8 ? 512 : F == Q_Q6K ? 384 : 256;
    constexpr int off = offset_of<F>();
    __m512 acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
    for (int64_t c = 0; c < k / CHUNK; c++) {
        __m512i w[8];
        load_codes<F>(codes + c * step, w);
        if (R <= 2)
            for (int64_t line = 0; line < step; line += 64) _mm_prefetch((const char*)(codes + c * step + PREFETCH + line), _MM_HINT_T0);
        __m512 s0, s1, low;
        if (F == Q_Q4K) {
            const uint8_t* s = scales + c / 8 * 320;
            s0 = _mm512_mul_ps(halves(s), bytes_u(s + 64 + c % 8 * 16));
            low = _mm512_mul_ps(halves(s + 32), bytes_u(s + 192 + c % 8 * 16));
        } else if (F == Q_Q6K) {
            const uint8_t* s = scales + c / 8 * 288;
            s0 = _mm512_mul_ps(halves(s), bytes_s(s + 32 + c % 8 * 32));
            s1 = _mm512_mul_ps(halves(s), bytes_s(s + 48 + c % 8 * 32));
        } else {
            s0 = halves(scales + c * 32);
        }
        const int8_t* a = t.codes + c * R * CHUNK;
        const float* sa = t.scale + c * R;
        const int32_t *sum = t.sum + c * R, *half = t.half + c * R;
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            auto four = [&](int v) {
                int32_t x;
                std::memcpy(&x, a + r * CHUNK + 4 * v, 4);
                return _mm512_set1_epi32(x);
            };
            __m512 scale = _mm512_set1_ps(sa[r]);
            if (F == Q_Q6K) {
                __m512i p0 = _mm512_set1_epi32(-off * half[r]), p1 = _mm512_set1_epi32(-off * (sum[r] - half[r]));
                for (int v = 0; v < 4; v++) p0 = _mm512_dpbusd_epi32(p0, w[v], four(v)), p1 = _mm512_dpbusd_epi32(p1, w[v + 4], four(v + 4));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p0), _mm512_mul_ps(s0, scale), acc[r]);
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p1), _mm512_mul_ps(s1, scale), acc[r]);
            } else {
                __m512i p = off ? _mm512_set1_epi32(-off * sum[r]) : _mm512_setzero_si512();
                for (int v = 0; v < 8; v++) p = _mm512_dpbusd_epi32(p, w[v], four(v));
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), _mm512_mul_ps(s0, scale), acc[r]);
            }
            if (F == Q_Q4K) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(-float(sum[r])), _mm512_mul_ps(low, scale), acc[r]);
        }
    }
    for (int r = 0; r < t.rows; r++) _mm512_storeu_ps(out + r * ldo, acc[r]);
}
#endif

using PanelFn = void (*)(const uint8_t*, int64_t, const Tile&, float*, int64_t);

static inline int64_t best_isa() {
#if defined(DORAN_VNNI)
    return 3;
#elif defined(__AVX2__) && defined(__FMA__)
    return 2;
#else
    return 1;
#endif
}

template <int F>
static PanelFn panel_fn(int64_t isa, int padded) {
#if defined(DORAN_VNNI)
    if (isa == 3) {
        switch (padded) {
            case 1: return panel_vnni<F, 1>;
            case 2: return panel_vnni<F, 2>;
            case 4: return panel_vnni<F, 4>;
            case 8: return panel_vnni<F, 8>;
            default: return panel_vnni<F, 16>;
        }
    }
#endif
#if defined(__AVX2__) && defined(__FMA__)
    if (isa >= 2) return panel_avx2<F>;
#endif
    return panel_scalar<F>;
}
static inline PanelFn panel_product(int64_t fmt, int64_t isa, int padded) {
    switch (fmt) {
        case Q_INT8: return panel_fn<Q_INT8>(isa, padded);
        case Q_INT4: return panel_fn<Q_INT4>(isa, padded);
        case Q_Q4K: return panel_fn<Q_Q4K>(isa, padded);
        default: return panel_fn<Q_Q6K>(isa, padded);
    }
}

static inline int padded_rows(int64_t rows) {
    int padded = 1;
    while (padded < rows) padded *= 2;
    return padded;
}

// Room for the rounded rows of one product; grows, never shrinks.
struct Rounded {
    std::vector<int8_t> codes;
    std::vector<float> scale;
    std::vector<int32_t> sum, half;
    std::vector<Tile> tiles;
    // Lay out `count` consecutive rows in tiles of 16, after those laid out before; `first` is the first one's number.
    void plan(int64_t first, int64_t count) {
        for (int64_t at = 0; at < count; at += TILE) {
            int64_t rows = std::min<int64_t>(TILE, count - at);
            tiles.push_back({int(rows), padded_rows(rows), first + at, nullptr, nullptr, nullptr, nullptr});
        }
    }
    void open(int64_t k) {
        int64_t laid = 0, chunks = k / CHUNK;
        for (const Tile& t : tiles) laid += t.padded;
        if (int64_t(codes.size()) < laid * k) codes.resize(size_t(laid * k));
        if (int64_t(scale.size()) < laid * chunks) scale.resize(size_t(laid * chunks)), sum.resize(size_t(laid * chunks)), half.resize(size_t(laid * chunks));
        laid = 0;
        for (Tile& t : tiles) {
            t.codes = codes.data() + laid * k, t.scale = scale.data() + laid * chunks;
            t.sum = sum.data() + laid * chunks, t.half = half.data() + laid * chunks;
            laid += t.padded;
        }
    }
};

// Rows a (M, lda) times panels p0 .. p1 of a packed matrix; `done(row, panel, values, count)` takes `count` panels' results, two where
// there are two. The quantised form of `multiply` in tiles.h.
template <class T, class Done>
static void multiply_packed(int64_t fmt, Rounded& room, const T* a, int64_t lda, int64_t rows, const uint8_t* packed, int64_t k, int64_t p0, int64_t p1, Done done) {
    room.tiles.clear();
    room.plan(0, rows);
    room.open(k);
    for (const Tile& t : room.tiles)
        for (int r = 0; r < t.rows; r++) quantise_row(a + (t.first + r) * lda, k, r, t);
    const int64_t bytes = q_panel_bytes(fmt, k), isa = best_isa();
    alignas(64) float out[TILE * 2 * PANEL];
    for (int64_t p = p0, count; p < p1; p += count) {
        count = std::min<int64_t>(2, p1 - p);
        for (const Tile& t : room.tiles) {
            PanelFn product = panel_product(fmt, isa, t.padded);
            for (int64_t i = 0; i < count; i++) product(packed + (p + i) * bytes, k, t, out + i * PANEL, count * PANEL);
            for (int r = 0; r < t.rows; r++) done(t.first + r, p, out + r * count * PANEL, count);
        }
    }
}

// Row n of a packed matrix in fp32: an embedding's. Slow and plain; one row a token is read.
static inline void unpack_row(int64_t fmt, const uint8_t* packed, int64_t k, int64_t n, float* y) {
    const uint8_t* panel = packed + n / PANEL * q_panel_bytes(fmt, k);
    const int j = int(n % PANEL);
    Decoded d;
    auto fill = [&](auto form, int64_t c) {
        constexpr int F = decltype(form)::value;
        decode_codes<F>(panel + q_scale_bytes(F, k) + c * q_chunk_bytes(F), d.w);
        decode_scales<F>(panel, c, d);
        for (int q = 0; q < CHUNK; q++) {
            float code = float(int(d.w[64 * (q / 4) + 4 * j + q % 4]) - offset_of<F>());
            y[c * CHUNK + q] = code * (F == Q_Q6K && q >= 16 ? d.s1[j] : d.s0[j]) - (F == Q_Q4K ? d.low[j] : 0.f);
        }
    };
    for (int64_t c = 0; c < k / CHUNK; c++) switch (fmt) {
        case Q_INT8: fill(std::integral_constant<int, Q_INT8>{}, c); break;
        case Q_INT4: fill(std::integral_constant<int, Q_INT4>{}, c); break;
        case Q_Q4K: fill(std::integral_constant<int, Q_Q4K>{}, c); break;
        default: fill(std::integral_constant<int, Q_Q6K>{}, c);
    }
}
