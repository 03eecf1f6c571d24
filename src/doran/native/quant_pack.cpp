// From storage to the layout the products read (quant.h): int8 and int4 groups of ours, and GGUF's Q8_0, Q4_0, Q4_K, Q6_K blocks.
// Every conversion keeps every bit: codes and scales are only moved.
#include "quant.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

enum Source : int64_t { S_INT8 = 0, S_INT4 = 1, S_Q8_0 = 2, S_Q4_0 = 3, S_Q4_K = 4, S_Q6_K = 5, S_SOURCES = 6 };

static int64_t format_of(int64_t source) {
    switch (source) {
        case S_INT8: case S_Q8_0: return Q_INT8;
        case S_INT4: case S_Q4_0: return Q_INT4;
        case S_Q4_K: return Q_Q4K;
        default: return Q_Q6K;
    }
}
static int64_t row_bytes(int64_t source, int64_t k) {
    switch (source) {
        case S_INT8: return k;
        case S_INT4: return k / 2;
        case S_Q8_0: return k / 32 * 34;
        case S_Q4_0: return k / 32 * 18;
        case S_Q4_K: return k / 256 * 144;
        default: return k / 256 * 210;
    }
}

// A row's 256 or 32 columns from column k0: unsigned codes, and the bytes of the scales where they belong.
static void read_chunk(int64_t source, const uint8_t* row, const uint16_t* scale, int64_t c, uint8_t u[CHUNK]) {
    for (int j = 0; j < CHUNK; j++) switch (source) {
        case S_INT8: u[j] = row[c * 32 + j] ^ 0x80; break;
        case S_INT4: u[j] = (row[c * 16 + j / 2] >> (4 * (j % 2))) & 15; break;
        case S_Q8_0: u[j] = row[c * 34 + 2 + j] ^ 0x80; break;
        case S_Q4_0: u[j] = j < 16 ? row[c * 18 + 2 + j] & 15 : row[c * 18 + 2 + j - 16] >> 4; break;
        case S_Q4_K: u[j] = (row[c / 8 * 144 + 16 + c % 8 / 2 * 32 + j] >> (4 * (c % 2))) & 15; break;
        default: {
            const uint8_t* b = row + c / 8 * 210;
            int part = int(c % 8), h = part / 4, quarter = part % 4;  // quarter: which 32 of the 128
            uint8_t low = b[64 * h + 32 * (quarter % 2) + j] >> (4 * (quarter / 2));
            u[j] = (low & 15) | (((b[128 + 32 * h + j] >> (2 * quarter)) & 3) << 4);
        }
    }
}
static void write_scales(int64_t source, const uint8_t* row, const uint16_t* scale, int64_t c, uint8_t* out, int r) {
    if (source == S_Q4_K) {
        const uint8_t *b = row + c / 8 * 144, *q = b + 4;
        uint8_t* s = out + q_block_at(Q_Q4K, c);
        int j = int(c % 8);
        std::memcpy(s + 2 * r, b, 2), std::memcpy(s + 32 + 2 * r, b + 2, 2);
        s[64 + 16 * j + r] = j < 4 ? q[j] & 63 : (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4);
        s[192 + 16 * j + r] = j < 4 ? q[j + 4] & 63 : (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
    } else if (source == S_Q6_K) {
        const uint8_t* b = row + c / 8 * 210;
        uint8_t* s = out + q_block_at(Q_Q6K, c);
        std::memcpy(s + 2 * r, b + 208, 2);
        s[32 + c % 8 * 32 + r] = b[192 + c % 8 * 2], s[48 + c % 8 * 32 + r] = b[193 + c % 8 * 2];
    } else {
        const void* from = source == S_Q8_0 ? (const void*)(row + c * 34) : source == S_Q4_0 ? (const void*)(row + c * 18) : (const void*)(scale + c);
        std::memcpy(out + q_block_at(format_of(source), c) + c % 2 * 32 + 2 * r, from, 2);
    }
}
static void write_codes(int64_t fmt, const uint8_t u[CHUNK], uint8_t* out, int r) {
    for (int q = 0; q < CHUNK; q++) {
        int v = q / 4, b = 4 * r + q % 4;
        if (fmt == Q_INT8) out[64 * v + b] = u[q];
        else out[64 * (v % 4) + b] |= (u[q] & 15) << (4 * (v / 4));
        if (fmt == Q_Q6K) out[256 + 64 * (v / 4) + b] |= (u[q] >> 4) << (2 * (v % 4));
    }
}

extern "C" int64_t qpacked_bytes(int64_t fmt, int64_t n, int64_t k) {
    if (fmt < 0 || fmt >= Q_FORMATS || n <= 0 || n > (int64_t(1) << 40) || k > (int64_t(1) << 40) || !q_width_ok(fmt, k)) return -1;
    return (n + PANEL - 1) / PANEL * q_panel_bytes(fmt, k);
}

// rows (N, row_bytes) and, for our own formats, scales (N, K / 32) fp16 -> out. Rows beyond N in the last panel are zero.
extern "C" int64_t qpack(int64_t source, const uint8_t* rows, const uint16_t* scales, int64_t n, int64_t k, uint8_t* out) {
    if (source < 0 || source >= S_SOURCES) return -1;
    int64_t fmt = format_of(source), total = qpacked_bytes(fmt, n, k);
    if (total < 0) return -2;
    if (!rows || !out || (source <= S_INT4 && !scales)) return -4;
    if (uintptr_t(scales) % 2) return -5;
#if defined(__linux__)
    // Large pages: the products stream through gigabytes, and page walks would cost a tenth of the bandwidth.
    uintptr_t page = uintptr_t(1) << 21, from = (uintptr_t(out) + page - 1) / page * page, to = uintptr_t(out + total) / page * page;
    if (to > from) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
    int64_t bytes = q_panel_bytes(fmt, k), width = row_bytes(source, k);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < (n + PANEL - 1) / PANEL; p++) {
        uint8_t* panel = out + p * bytes;
        std::memset(panel, 0, bytes);
        for (int r = 0; r < std::min(PANEL, n - p * PANEL); r++) {
            const uint8_t* row = rows + (p * PANEL + r) * width;
            const uint16_t* scale = source <= S_INT4 ? scales + (p * PANEL + r) * (k / CHUNK) : nullptr;
            for (int64_t c = 0; c < k / CHUNK; c++) {
                uint8_t u[CHUNK];
                read_chunk(source, row, scale, c, u);
                write_scales(source, row, scale, c, panel, r);
                write_codes(fmt, u, panel + q_codes_at(fmt, c), r);
            }
        }
    }
    return 0;
}
