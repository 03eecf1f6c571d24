// The products of quant.cpp and of the native decoder: rows of activations rounded to int8, and one panel of packed weights (quant.h)
// times a tile of them, for each instruction set. All agree bit for bit: integers are exact, and floats are added chunk by chunk.
#pragma once
#include <type_traits>

#include "quant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

static const int TILE = 16;  // rows of x that share one unpacking of the weights

template <int F>
constexpr int offset_of() { return F == Q_INT8 ? 128 : F == Q_INT4 ? 8 : F == Q_Q6K ? 32 : 0; }
// What a sum of codes is taken times before it is subtracted: the offset, or 1 where the minimum (q4_k) is a float.
static inline int32_t unit_of(int64_t fmt) { return fmt == Q_INT8 ? 128 : fmt == Q_INT4 ? 8 : fmt == Q_Q6K ? 32 : 1; }

// One tile of quantised activations: codes [chunk][row][32], and for each chunk and row a scale and what its integer sum starts from:
// minus unit_of times the sum of its codes, `half` that of the first 16.
struct Tile {
    int rows, padded;  // real rows; rows laid out, one of 1 2 4 8 16
    int64_t first;     // its first row in x and y
    int8_t* codes;
    float* scale;
    int32_t *start, *half;
};

#if defined(__AVX512BW__) && defined(__AVX512VL__)
static inline __m512 wide16(const float* x) { return _mm512_loadu_ps(x); }
static inline __m512 wide16(const bf16* x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16));
}
#endif

// One chunk of a row to int8 codes; returns the scale. Scaled values are within 127, and ties go to even.
// A NaN or infinity must come out as NaN: the scale carries it, the codes are of no account.
template <class S>
static inline float quantise_chunk(const S* x, int8_t* out, int32_t& first, int32_t& second) {
    const float huge = 3.4028234e38f;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    __m512 a = wide16(x), b = wide16(x + 16), size_a = _mm512_abs_ps(a), size_b = _mm512_abs_ps(b);
    float largest = _mm512_reduce_max_ps(_mm512_max_ps(size_a, size_b));
    bool bad = _mm512_cmp_ps_mask(size_a, _mm512_set1_ps(huge), _CMP_NLE_UQ) | _mm512_cmp_ps_mask(size_b, _mm512_set1_ps(huge), _CMP_NLE_UQ);
    __m512 inverse = _mm512_set1_ps(largest > 0.f ? 127.f / largest : 0.f);
    __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(b, inverse))), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse))));
    _mm256_storeu_si256((__m256i*)out, q);
    __m256i sums = _mm256_sad_epu8(_mm256_xor_si256(q, _mm256_set1_epi8(char(0x80))), _mm256_setzero_si256());  // of code + 128, by eights
    first = int32_t(_mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1)) - 16 * 128;
    second = int32_t(_mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3)) - 16 * 128;
#else
    float v[CHUNK], largest = 0.f;
    int bad = 0;
    for (int j = 0; j < CHUNK; j++) v[j] = load(x, j), bad |= !(std::fabs(v[j]) <= huge);
    for (int j = 0; j < CHUNK; j++) largest = std::max(largest, std::fabs(v[j]));
    float inverse = largest > 0.f ? 127.f / largest : 0.f;
    int32_t q[CHUNK];
    for (int j = 0; j < CHUNK; j++) q[j] = bad ? 0 : int32_t(std::nearbyint(v[j] * inverse));
    first = second = 0;
    for (int j = 0; j < CHUNK; j++) out[j] = int8_t(q[j]);
    for (int j = 0; j < CHUNK / 2; j++) first += q[j], second += q[j + CHUNK / 2];
#endif
    return bad ? NAN : largest / 127.f;
}

template <class S>
static inline void quantise_row(int64_t fmt, const S* x, int64_t k, int r, const Tile& t) {
    const int32_t unit = unit_of(fmt);
    for (int64_t c = 0; c < k / CHUNK; c++) {
        int64_t at = c * t.padded + r;
        int32_t first, second;
        t.scale[at] = quantise_chunk(x + c * CHUNK, t.codes + at * CHUNK, first, second);
        t.start[at] = -unit * (first + second);
        t.half[at] = -unit * first;
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
static inline void decode_scales(const uint8_t* s, int64_t c, Decoded& d) {  // `s`: the scales of chunk c's block
    auto half_at = [](const uint8_t* p, int r) {
        uint16_t h;
        std::memcpy(&h, p + 2 * r, 2);
        return half_to_float(h);
    };
    for (int r = 0; r < PANEL; r++) {
        if (F == Q_Q4K) {
            d.s0[r] = d.s1[r] = half_at(s, r) * float(s[64 + c % 8 * 16 + r]);
            d.low[r] = half_at(s + 32, r) * float(s[192 + c % 8 * 16 + r]);
        } else if (F == Q_Q6K) {
            d.s0[r] = half_at(s, r) * float(int8_t(s[32 + c % 8 * 32 + r]));
            d.s1[r] = half_at(s, r) * float(int8_t(s[32 + c % 8 * 32 + 16 + r]));
        } else {
            d.s0[r] = half_at(s + c % 2 * 32, r);
        }
    }
}

template <int F>
static inline void decode(const uint8_t* panel, int64_t c, Decoded& d) {
    decode_codes<F>(panel + q_codes_at(F, c), d.w);
    decode_scales<F>(panel + q_block_at(F, c), c, d);
}

// One panel and one tile: 16 results a row, rows of `out` being `ldo` apart
template <int F>
static void panel_scalar(const uint8_t* panel, int64_t k, const Tile& t, float* out, int64_t ldo) {
    for (int r = 0; r < t.rows; r++) std::fill(out + r * ldo, out + r * ldo + PANEL, 0.f);
    Decoded d;
    for (int64_t c = 0; c < k / CHUNK; c++) {
        decode<F>(panel, c, d);
        for (int r = 0; r < t.rows; r++) {
            int64_t at = c * t.padded + r;
            const int8_t* a = t.codes + at * CHUNK;
            for (int j = 0; j < PANEL; j++) {
                int32_t part[2] = {F == Q_Q4K ? 0 : t.half[at], F == Q_Q4K ? 0 : t.start[at] - t.half[at]};
                for (int q = 0; q < CHUNK; q++) part[q / 16] += int32_t(d.w[64 * (q / 4) + 4 * j + q % 4]) * a[q];
                float& y = out[r * ldo + j];
                if (F == Q_Q6K) {
                    y = std::fma(float(part[0]), d.s0[j] * t.scale[at], y);
                    y = std::fma(float(part[1]), d.s1[j] * t.scale[at], y);
                } else {
                    y = std::fma(float(part[0] + part[1]), d.s0[j] * t.scale[at], y);
                }
                if (F == Q_Q4K) y = std::fma(float(t.start[at]), d.low[j] * t.scale[at], y);
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
    for (int r = 0; r < t.rows; r++) std::fill(out + r * ldo, out + r * ldo + PANEL, 0.f);
    Decoded d;
    const bool signed_codes = F == Q_INT8 || F == Q_Q4K;  // nothing to subtract from integers
    for (int64_t c = 0; c < k / CHUNK; c++) {
        decode<F>(panel, c, d);
        for (int r = 0; r < t.rows; r++) {
            int64_t at = c * t.padded + r;
            const int8_t* a = t.codes + at * CHUNK;
            __m256 sa = _mm256_set1_ps(t.scale[at]);
            for (int h = 0; h < 2; h++) {
                __m256i part[2] = {_mm256_set1_epi32(signed_codes ? 0 : t.half[at]), _mm256_set1_epi32(signed_codes ? 0 : t.start[at] - t.half[at])};
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
                    acc = _mm256_fmadd_ps(_mm256_set1_ps(float(t.start[at])), low, acc);
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

// One chunk of a block times R rows; `sums(lo, hi)` are the integers of its two halves
template <int F, int R>
static inline __attribute__((always_inline)) void chunk_vnni(const uint8_t* s, const uint8_t* codes, int64_t i, int64_t c, const Tile& t, __m512 acc[R]) {
    constexpr bool few = R <= 2 && F != Q_Q6K;  // not worth unpacking: high nibbles count sixteenfold, and two chains are shorter
    __m512i w[8];
    if (!few) load_codes<F>(codes, w);
    __m512 s0, s1, low;
    if (F == Q_Q4K) {
        s0 = _mm512_mul_ps(halves(s), bytes_u(s + 64 + i * 16));
        low = _mm512_mul_ps(halves(s + 32), bytes_u(s + 192 + i * 16));
    } else if (F == Q_Q6K) {
        s0 = _mm512_mul_ps(halves(s), bytes_s(s + 32 + i * 32));
        s1 = _mm512_mul_ps(halves(s), bytes_s(s + 48 + i * 32));
    } else {
        s0 = halves(s + i * 32);
    }
    const int8_t* a = t.codes + c * R * CHUNK;
    const float* sa = t.scale + c * R;
    const int32_t *start = t.start + c * R, *half = t.half + c * R;
    const __m512i lows = _mm512_set1_epi8(15), highs = _mm512_set1_epi8(char(0xf0));
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        auto four = [&](int v) {
            int32_t x;
            std::memcpy(&x, a + r * CHUNK + 4 * v, 4);
            return _mm512_set1_epi32(x);
        };
        __m512 scale = _mm512_set1_ps(sa[r]);
        __m512i p = F == Q_Q4K ? _mm512_setzero_si512() : _mm512_set1_epi32(start[r]);
        if (F == Q_Q6K) {
            __m512i p0 = _mm512_set1_epi32(half[r]), p1 = _mm512_sub_epi32(p, p0);
            for (int v = 0; v < 4; v++) p0 = _mm512_dpbusd_epi32(p0, w[v], four(v)), p1 = _mm512_dpbusd_epi32(p1, w[v + 4], four(v + 4));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p0), _mm512_mul_ps(s0, scale), acc[r]);
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p1), _mm512_mul_ps(s1, scale), acc[r]);
            continue;
        }
        if (few) {
            __m512i high = _mm512_setzero_si512();
            for (int v = 0; v < 4; v++) {
                __m512i x = _mm512_loadu_si512(codes + 64 * v), y = F == Q_INT8 ? _mm512_loadu_si512(codes + 256 + 64 * v) : _mm512_and_si512(x, highs);
                p = _mm512_dpbusd_epi32(p, F == Q_INT8 ? x : _mm512_and_si512(x, lows), four(v));
                high = _mm512_dpbusd_epi32(high, y, four(v + 4));
            }
            p = _mm512_add_epi32(p, F == Q_INT8 ? high : _mm512_srai_epi32(high, 4));
        } else {
            for (int v = 0; v < 8; v++) p = _mm512_dpbusd_epi32(p, w[v], four(v));
        }
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), _mm512_mul_ps(s0, scale), acc[r]);
        if (F == Q_Q4K) acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_set1_epi32(start[r])), _mm512_mul_ps(low, scale), acc[r]);
    }
}

template <int F, int R>
static void panel_vnni(const uint8_t* block, int64_t k, const Tile& t, float* out, int64_t ldo) {
    constexpr int64_t per = q_block_chunks(F);
    __m512 acc[R];
    for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
    int64_t c = 0;
    for (; c + per <= k / CHUNK; c += per, block += q_block_bytes(F))
#pragma GCC unroll 2
        for (int64_t i = 0; i < per; i++) chunk_vnni<F, R>(block, block + q_scale_bytes(F) + i * q_chunk_bytes(F), i, c + i, t, acc);
    if (c < k / CHUNK) chunk_vnni<F, R>(block, block + q_scale_bytes(F), 0, c, t, acc);
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
    std::vector<int32_t> start, half;
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
        if (int64_t(scale.size()) < laid * chunks) scale.resize(size_t(laid * chunks)), start.resize(size_t(laid * chunks)), half.resize(size_t(laid * chunks));
        laid = 0;
        for (Tile& t : tiles) {
            t.codes = codes.data() + laid * k, t.scale = scale.data() + laid * chunks;
            t.start = start.data() + laid * chunks, t.half = half.data() + laid * chunks;
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
        for (int r = 0; r < t.rows; r++) quantise_row(fmt, a + (t.first + r) * lda, k, r, t);
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
        decode<F>(panel, c, d);
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
