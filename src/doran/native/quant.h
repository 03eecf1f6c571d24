// Packed weights: how 16 rows of a quantised matrix lie in memory, and the arithmetic every instruction set must agree on.
// Not a kernel: quant.cpp has the products, quant_pack.cpp makes the layout. Callable from other kernel files through `qmatmul`.
//
// A matrix (N, K) is ceil(N / 16) panels of 16 rows. A panel is a row of blocks, so that a product reads memory in one unbroken stream: first
// a block's scales, then its codes, both on multiples of 64 bytes. A chunk is 32 columns; its codes are 8 vectors of 64 bytes, byte b of
// vector v being row b / 4, column 4 v + b % 4, so that one dot-product instruction serves 16 rows without a horizontal sum. Codes are
// unsigned, u = value + offset. A block is 2 chunks (the last one half empty where K / 32 is odd), for q4_k and q6_k 8.
//   int8: u 8 bits, offset 128. Scales: fp16 [chunk][16 rows].                                         8.5 bits a weight
//   int4: u 4 bits, offset 8; byte of vector v: low nibble vector v, high nibble vector v + 4. Scales as int8.  4.5 bits
//   q4_k: codes as int4, offset 0, value = d sc u - dmin m. Scales: fp16 d[16], dmin[16], u8 sc[8][16], m[8][16]
//   q6_k: u 6 bits, offset 32: nibbles as int4, then 2 vectors of 2-bit pairs. Scales: fp16 d[16], int8 sc[16 sixteenths][16], 32 bytes unused
#pragma once
#include <cstddef>

#include "common.h"

enum QuantFormat : int64_t { Q_INT8 = 0, Q_INT4 = 1, Q_Q4K = 2, Q_Q6K = 3, Q_FORMATS = 4 };
static const int64_t PANEL = 16, CHUNK = 32, SUPER = 256;

static constexpr bool q_width_ok(int64_t fmt, int64_t k) { return k > 0 && k % (fmt >= Q_Q4K ? SUPER : CHUNK) == 0; }
static constexpr int64_t q_chunk_bytes(int64_t fmt) { return fmt == Q_INT8 ? 512 : fmt == Q_Q6K ? 384 : 256; }
static constexpr int64_t q_block_chunks(int64_t fmt) { return fmt >= Q_Q4K ? 8 : 2; }
static constexpr int64_t q_scale_bytes(int64_t fmt) { return fmt >= Q_Q4K ? 320 : 64; }
static constexpr int64_t q_block_bytes(int64_t fmt) { return q_scale_bytes(fmt) + q_block_chunks(fmt) * q_chunk_bytes(fmt); }
static constexpr int64_t q_panel_bytes(int64_t fmt, int64_t k) { return (k / CHUNK + q_block_chunks(fmt) - 1) / q_block_chunks(fmt) * q_block_bytes(fmt); }
static constexpr int64_t q_block_at(int64_t fmt, int64_t c) { return c / q_block_chunks(fmt) * q_block_bytes(fmt); }  // of chunk c, in its panel
static constexpr int64_t q_codes_at(int64_t fmt, int64_t c) { return q_block_at(fmt, c) + q_scale_bytes(fmt) + c % q_block_chunks(fmt) * q_chunk_bytes(fmt); }

static inline float half_to_float(uint16_t h) {
    _Float16 x;
    std::memcpy(&x, &h, 2);
    return float(x);
}

extern "C" {
// y (M, N) = x (M, K) W^T + bias. Rows of x are grouped: group g is rows offsets[g] .. offsets[g + 1] and multiplies matrix g of `packed`
// (offsets null: one group). x and y are fp32 (bf16 flag 0) or bf16 (1). isa: 0 best, 1 scalar, 2 AVX2, 3 AVX512-VNNI.
// Returns 0, or a negative number for arguments that cannot be meant; then nothing was touched.
int64_t qmatmul(int64_t fmt, int64_t isa, const void* x, int64_t x_bf16, int64_t ldx, int64_t m, int64_t k, const uint8_t* packed, int64_t n,
                const int64_t* offsets, int64_t groups, const float* bias, void* y, int64_t y_bf16, int64_t ldy);
}
