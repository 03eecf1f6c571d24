// y = x W^T for packed weights (layout: quant.h), one row to many. Activations become int8, one scale for each 32 columns of a row,
// as in llama.cpp. A row's result depends on nothing but that row: not on how many rows there are, nor threads, nor instruction set.
#include <omp.h>

#include "quant_tiles.h"

static const int64_t BLOCK_BYTES = 393216;  // of rounded activations: they stay in the second-level cache beside a panel

static void write_out(const float* tile, const Tile& t, int64_t column, int64_t width, const float* bias, void* y, int64_t y_bf16, int64_t ldy) {
    for (int r = 0; r < t.rows; r++) {
        int64_t at = (t.first + r) * ldy + column;
        for (int64_t j = 0; j < width; j++) {
            float value = tile[r * PANEL + j] + (bias ? bias[column + j] : 0.f);
            if (y_bf16) store((bf16*)y, at + j, value);
            else ((float*)y)[at + j] = value;
        }
    }
}

struct Block {  // tiles of one group whose activations fit the cache together
    int64_t group, first, last;  // tiles
};

static int64_t check(int64_t fmt, int64_t isa, const void* x, int64_t x_bf16, int64_t ldx, int64_t m, int64_t k, const uint8_t* packed,
                     int64_t n, const int64_t* offsets, int64_t groups, const void* y, int64_t y_bf16, int64_t ldy) {
    const int64_t most = int64_t(1) << 40;
    if (fmt < 0 || fmt >= Q_FORMATS || isa < 0 || isa > 3) return -1;
    if (m < 0 || n <= 0 || groups <= 0 || m > most || n > most || k > most || groups > most || !q_width_ok(fmt, k)) return -2;
    if (ldx < k || ldy < n || ldx > most || ldy > most) return -3;
    if ((m > 0 && (!x || !y)) || !packed || (!offsets && groups != 1)) return -4;
    if (uintptr_t(x) % (x_bf16 ? 2 : 4) || uintptr_t(y) % (y_bf16 ? 2 : 4) || uintptr_t(offsets) % 8) return -5;
    if (offsets) {
        if (offsets[0] != 0 || offsets[groups] != m) return -6;
        for (int64_t g = 0; g < groups; g++)
            if (offsets[g] > offsets[g + 1]) return -6;
    }
    return 0;
}

extern "C" int64_t qmatmul_best_isa() { return best_isa(); }

extern "C" int64_t qmatmul(int64_t fmt, int64_t isa, const void* x, int64_t x_bf16, int64_t ldx, int64_t m, int64_t k, const uint8_t* packed,
                           int64_t n, const int64_t* offsets, int64_t groups, const float* bias, void* y, int64_t y_bf16, int64_t ldy) {
    if (int64_t bad = check(fmt, isa, x, x_bf16, ldx, m, k, packed, n, offsets, groups, y, y_bf16, ldy)) return bad;
    if (m == 0) return 0;
    isa = isa == 0 ? best_isa() : std::min(isa, best_isa());
    const int64_t whole[2] = {0, m};
    if (!offsets) offsets = whole;

    Rounded room;
    std::vector<Tile>& tiles = room.tiles;
    std::vector<Block> blocks;
    const int64_t per_block = std::max<int64_t>(1, BLOCK_BYTES / (TILE * k));
    for (int64_t g = 0; g < groups; g++) {
        int64_t begin = int64_t(tiles.size());
        room.plan(offsets[g], offsets[g + 1] - offsets[g]);
        for (int64_t b = begin; b < int64_t(tiles.size()); b += per_block)
            blocks.push_back({g, b, std::min(b + per_block, int64_t(tiles.size()))});
    }
    room.open(k);

    const int64_t panels = (n + PANEL - 1) / PANEL, bytes = q_panel_bytes(fmt, k);
    const int64_t items = panels * int64_t(blocks.size());
    const int64_t at_once = std::max<int64_t>(1, std::min<int64_t>(items / (8 * omp_get_max_threads()), m > TILE ? 8 : items));
#pragma omp parallel if (items > 1 && m * n * k > 65536)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < int64_t(tiles.size()) * TILE; i++) {
            const Tile& t = tiles[i / TILE];
            int r = int(i % TILE);
            if (r >= t.rows) continue;
            if (x_bf16) quantise_row(fmt, (const bf16*)x + (t.first + r) * ldx, k, r, t);
            else quantise_row(fmt, (const float*)x + (t.first + r) * ldx, k, r, t);
        }
        alignas(64) float out[TILE * PANEL];
#pragma omp for schedule(dynamic, at_once)
        for (int64_t i = 0; i < items; i++) {
            const Block& b = blocks[i / panels];
            int64_t p = i % panels;
            const uint8_t* panel = packed + (b.group * panels + p) * bytes;
            for (int64_t j = b.first; j < b.last; j++) {
                panel_product(fmt, isa, tiles[j].padded)(panel, k, tiles[j], out, PANEL);
                write_out(out, tiles[j], p * PANEL, std::min(PANEL, n - p * PANEL), bias, y, y_bf16, ldy);
            }
        }
    }
    return 0;
}

// The sum of `count` words, read by all threads in one stream each: for measuring what reading costs at best.
extern "C" uint64_t read_words(const uint64_t* words, int64_t count) {
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
    for (int64_t i = 0; i < count; i++) sum += words[i];
    return sum;
}
