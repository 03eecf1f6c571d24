// The decoder's cache: blocks of 32 tokens from one arena, a table of blocks a slot, shared prefixes counted; and attention over it.
// A block holds all layers and key/value groups. Inside a group, row w is one key (or value) component of 32 tokens: as bf16, word i
// is tokens i and i + 16; as fp32, 32 floats. That one layout serves both products without a transposition: scores put tokens in
// lanes, the mix sums lanes once at the end. MLA's values are the first rows of its keys. Not here: who may have how many blocks.
#pragma once
#include "tiles.h"

static const int64_t BLOCK = 32;

struct Pages {
    uint8_t* arena = nullptr;
    int64_t block_bytes = 0, num_slots = 0, per_slot = 0;
    std::vector<int32_t> table, held, refs, free_list;  // table (slot, per_slot); held: blocks of a slot; refs: users of a block

    void open(uint8_t* memory, int64_t bytes_a_block, int64_t blocks, int64_t slots, int64_t most) {
        arena = memory; block_bytes = bytes_a_block; num_slots = slots; per_slot = most;
        table.assign(size_t(slots * most), -1); held.assign(size_t(slots), 0); refs.assign(size_t(blocks), 0);
        free_list.resize(size_t(blocks));
        for (int64_t i = 0; i < blocks; i++) free_list[i] = int32_t(blocks - 1 - i);
    }
    uint8_t* block(int64_t slot, int64_t index) const { return arena + table[slot * per_slot + index] * block_bytes; }
    void release(int64_t slot) {
        for (int64_t i = 0; i < held[slot]; i++) {
            int32_t id = table[slot * per_slot + i];
            if (--refs[id] == 0) free_list.push_back(id);
        }
        held[slot] = 0;
    }
    bool grow(int64_t slot, int64_t tokens) {  // make room for so many tokens; new blocks are zero: a NaN left in one would spread
        while (held[slot] * BLOCK < tokens) {
            if (free_list.empty() || held[slot] == per_slot) return false;
            int32_t id = free_list.back();
            free_list.pop_back();
            refs[id] = 1;
            table[slot * per_slot + held[slot]++] = id;
            std::memset(arena + id * block_bytes, 0, size_t(block_bytes));
        }
        return true;
    }
    // dst gets src's first tokens: whole blocks are shared, the last is copied; `open` keeps the last tokens' block from being shared
    bool share(int64_t src, int64_t dst, int64_t tokens, int64_t open = 0) {
        release(dst);
        int64_t whole = (tokens - open) / BLOCK;
        for (int64_t i = 0; i < whole; i++) refs[table[dst * per_slot + i] = table[src * per_slot + i]]++;
        held[dst] = int32_t(whole);
        if (whole * BLOCK == tokens) return true;
        if (!grow(dst, tokens)) return false;
        std::memcpy(block(dst, whole), block(src, whole), size_t(block_bytes));
        return true;
    }
    void move(int64_t src, int64_t dst) {
        release(dst);
        std::memcpy(&table[dst * per_slot], &table[src * per_slot], size_t(held[src]) * 4);
        held[dst] = held[src];
        held[src] = 0;
    }
};

static inline void put(float* rows, int64_t w, int64_t token, float x) { rows[w * BLOCK + token] = x; }
static inline void put(bf16* rows, int64_t w, int64_t token, float x) { store(rows, w * BLOCK + token % 16 * 2 + token / 16, x); }

static inline void split_pairs(w16 x, w16 y, w16& lo, w16& hi) {  // words (x0 x1), (y0 y1) -> (x0 y0), (x1 y1)
#if defined(__AVX512BW__)
    lo = (w16)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)x, (__m512i)(y << 16));
    hi = (w16)_mm512_mask_blend_epi16(0xAAAAAAAAu, (__m512i)(x >> 16), (__m512i)y);
#else
    lo = (x & 0xffffu) | (y << 16);
    hi = (x >> 16) | (y & 0xffff0000u);
#endif
}

// Blocks lie anywhere in memory. While one row is worked on, the blocks of the next are asked for, a line at a time, so that memory
// and arithmetic keep each other company.
template <class C> struct Ahead {
    const C* const* blocks = nullptr;
    int64_t left = 0, line = 0, lines = 0;
    inline void one() {
        if (left == 0) return;
        __builtin_prefetch((const char*)*blocks + line * 64, 0, 2);
        if (++line == lines) { line = 0; left--; blocks++; }
    }
    void rest() { while (left) one(); }
};

// score[h][32 b ..] = q[h] . key, for HT heads and `count` blocks; q in units, keys from row 0
template <int HT>
static void scores(const float* q, int64_t ldq, const float* const* blocks, int64_t count, int64_t width, float* score, int64_t lds, Ahead<float>& ahead) {
    for (int64_t b = 0; b < count; b++) {
        v16 acc[HT][2] = {};
        for (int64_t k = 0; k < width; k++) {
            v16 lo = *(const v16*)(blocks[b] + k * BLOCK), hi = *(const v16*)(blocks[b] + k * BLOCK + 16);
            ahead.one();
#pragma GCC unroll 8
            for (int h = 0; h < HT; h++) { float a = q[h * ldq + k]; acc[h][0] += a * lo; acc[h][1] += a * hi; }
        }
#pragma GCC unroll 8
        for (int h = 0; h < HT; h++) { put16(score + h * lds + b * BLOCK, acc[h][0]); put16(score + h * lds + b * BLOCK + 16, acc[h][1]); }
    }
}
template <int HT>
static void scores(const uint32_t* q, int64_t ldq, const bf16* const* blocks, int64_t count, int64_t width, float* score, int64_t lds, Ahead<bf16>& ahead) {
    for (int64_t b = 0; b < count; b++) {
        v16 acc[HT][2] = {};
        const w16* rows = (const w16*)blocks[b];
        for (int64_t k = 0; k < units<bf16>(width); k++) {
            w16 lo, hi;
            split_pairs(rows[2 * k], rows[2 * k + 1], lo, hi);
            ahead.one();
#pragma GCC unroll 8
            for (int h = 0; h < HT; h++) {
                w16 a = w16{} + q[h * ldq + k];
                acc[h][0] = dot_pairs(acc[h][0], a, lo);
                acc[h][1] = dot_pairs(acc[h][1], a, hi);
            }
        }
#pragma GCC unroll 8
        for (int h = 0; h < HT; h++) { put16(score + h * lds + b * BLOCK, acc[h][0]); put16(score + h * lds + b * BLOCK + 16, acc[h][1]); }
    }
}

// Scores to weights exp(scale * (s - top)) in place, in the cache's number type; returns their sum. Beyond `len`: zeros.
static inline float weigh(float* s, int64_t len, float scale, bool as_bf16) {
    int64_t full = (len + BLOCK - 1) / BLOCK * BLOCK;
    for (int64_t j = len; j < full; j++) s[j] = -INFINITY;
    v16 tops = get16(s), sums = {};
    for (int64_t j = 16; j < full; j += 16) tops = get16(s + j) > tops ? get16(s + j) : tops;
    float top = tops[0], sum = 0.f;
    for (int i = 1; i < 16; i++) top = std::max(top, tops[i]);
    for (int64_t b = 0; b < full; b += BLOCK) {
        v16 lo = exp16((get16(s + b) - top) * scale), hi = exp16((get16(s + b + 16) - top) * scale);
        if (as_bf16) {  // rounded first and summed as rounded: the weights then add to one
            w16 low = round16(lo) >> 16, high = round16(hi) & 0xffff0000u;
            *(w16*)(s + b / 2) = low | high;
            lo = (v16)(low << 16);
            hi = (v16)high;
        } else {
            put16(s + b, lo);
            put16(s + b + 16, hi);
        }
        sums += lo + hi;
    }
    for (int i = 0; i < 16; i++) sum += sums[i];
    return sum;
}

static inline v16 mix_in(v16 acc, const float* weights, const float* row) {
    acc += *(const v16*)weights * *(const v16*)row;
    return acc + *(const v16*)(weights + 16) * *(const v16*)(row + 16);
}
static inline v16 mix_in(v16 acc, const float* weights, const bf16* row) { return dot_pairs(acc, *(const w16*)weights, *(const w16*)row); }

// o[h][c] = inv[h] * sum over tokens of weight[h] * value row c, for HT heads and the value rows first .. first + width (a multiple of
// 16 is there); o is written in the number type of what it will be multiplied with.
template <class C, int HT, class T>
static void mix(const float* weights, int64_t lds, const C* const* blocks, int64_t count, int64_t first, int64_t width, const float* inv, T* o, int64_t ldo,
                Ahead<C>& ahead) {
    constexpr int CT = 16 / HT;
    constexpr int64_t step = sizeof(C) == 4 ? BLOCK : BLOCK / 2;  // floats that a block's weights take
    for (int64_t c = 0; c < width; c += 16) {
        alignas(64) float sums[HT][16];
        for (int64_t d = 0; d < 16; d += CT) {
            v16 acc[16] = {};
            for (int64_t b = 0; b < count; b++) {
                const C* row = blocks[b] + (first + c + d) * BLOCK;
                ahead.one();
#pragma GCC unroll 16
                for (int i = 0; i < CT; i++)
#pragma GCC unroll 16
                    for (int h = 0; h < HT; h++) acc[h * CT + i] = mix_in(acc[h * CT + i], weights + h * lds + b * step, row + i * BLOCK);
            }
            alignas(64) float lane[16];
            put16(lane, sum_lanes(acc));
#pragma GCC unroll 16
            for (int h = 0; h < HT; h++) std::memcpy(&sums[h][d], lane + h * CT, CT * sizeof(float));
        }
        int64_t n = std::min<int64_t>(16, width - c);
        for (int h = 0; h < HT; h++) {
            v16 y = get16(sums[h]) * inv[h];
            if (n == 16) put16(o + h * ldo + c, y);
            else for (int64_t i = 0; i < n; i++) store(o, h * ldo + c + i, y[i]);
        }
    }
}

// One query token of some heads against `len` cached tokens -> o[h][0 .. width)
template <class C, int HT, class T>
static void attend_heads(const typename Dot<C>::unit* q, int64_t ldq, const C* const* blocks, int64_t len, int64_t key_width, int64_t first, int64_t width,
                         float scale, float* score, T* o, int64_t ldo, Ahead<C>& ahead) {
    int64_t count = (len + BLOCK - 1) / BLOCK, lds = count * BLOCK;
    scores<HT>(q, ldq, blocks, count, key_width, score, lds, ahead);
    float inv[HT];
    for (int h = 0; h < HT; h++) inv[h] = 1.f / weigh(score + h * lds, len, scale, sizeof(C) == 2);
    mix<C, HT>(score, lds, blocks, count, first, width, inv, o, ldo, ahead);
}
template <class C, class T>
static void attend(const typename Dot<C>::unit* q, int64_t ldq, int64_t heads, const C* const* blocks, int64_t len, int64_t key_width, int64_t first,
                   int64_t width, float scale, float* score, T* o, int64_t ldo, Ahead<C> ahead) {
    for (int64_t h = 0; h < heads;) {
        const auto* qh = q + h * ldq;
        T* oh = o + h * ldo;
        if (heads - h >= 8) { attend_heads<C, 8>(qh, ldq, blocks, len, key_width, first, width, scale, score, oh, ldo, ahead); h += 8; }
        else if (heads - h >= 4) { attend_heads<C, 4>(qh, ldq, blocks, len, key_width, first, width, scale, score, oh, ldo, ahead); h += 4; }
        else if (heads - h >= 2) { attend_heads<C, 2>(qh, ldq, blocks, len, key_width, first, width, scale, score, oh, ldo, ahead); h += 2; }
        else { attend_heads<C, 1>(qh, ldq, blocks, len, key_width, first, width, scale, score, oh, ldo, ahead); h += 1; }
    }
    ahead.rest();
}
