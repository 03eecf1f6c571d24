// What a native decoder is made of: its shape, its weights, the team that works on it and small pieces of arithmetic.
// The layers are in decoder_layers.h, the steps in decoder_steps.h, the functions that Python calls in decoder.cpp.
// Legend: M rows, D hidden, H heads, G key/value groups, R rotated width, E experts.
#pragma once
#include <atomic>
#include <thread>

#include "draw.h"
#include "paged.h"
#include "quant_tiles.h"

// The names of what Python hands over, in its order: fields here and, as a text, what engine/panels.py compares with its own names before
// it hands over anything. So that a process never works with a library that was built from other sources than its own.
#define LAYER_VECTORS *norm_in, *norm_post, *q_norm, *k_norm, *qkv_bias, *o_bias, *gate_up_bias, *down_bias, *route_bias
#define LAYER_MATRICES *qkv, *q_b, *absorb, *value_up, *o, *gate_up, *down, *route, *expert_gate_up, *expert_down
#define SIZES                                                                                                                                \
    bf16_weights, bf16_cache, hidden, vocab, layers, heads, groups, mla, nope, rope, value, rank, q_rank, dense, expert, experts, top_k,     \
        n_group, topk_group, norm_topk, mask_zero, shared, embed_kind, head_kind, drafts, eh_kind
#define COLUMNS                                                                                                                              \
    tokens, lengths, steps, budget, stops, uniforms, new_tokens, new_logprobs, temperature, top_k, top_p, min_p, ended, num_stops, width
#define AS_TEXT(...) #__VA_ARGS__
#define NAMES(...) AS_TEXT(__VA_ARGS__)

struct Layer {  // packed matrices (engine/panels.py) and fp32 vectors; null where the model has none
    const float LAYER_VECTORS;
    const void LAYER_MATRICES;
    const int64_t* kinds;  // of these ten: 0 plain, else 1 + their QuantFormat; null: all plain
    enum Matrix { QKV, Q_B, ABSORB, VALUE_UP, O, GATE_UP, DOWN, ROUTE, EXPERT_GATE_UP, EXPERT_DOWN };
    int64_t kind(Matrix m) const { return kinds ? kinds[m] : 0; }
};
static_assert(sizeof(Layer) == 20 * sizeof(void*));

struct Sizes {
    int64_t SIZES;
    enum { NONE, NGRAM, MTP };  // where drafts come from
    bool has_mtp() const { return drafts == MTP; }
};
struct Reals { double eps, inner_eps, scale, routed_scale; };

struct Mtp { const float *enorm, *hnorm, *norm; const void* eh; };  // its layer is the last of Decoder::layers

struct Columns {  // engine/slots.py, one entry a slot; `width` is the row length of uniforms, new_tokens and new_logprobs
    int64_t *tokens, *lengths, *steps;
    const int64_t *budget, *stops;
    const double* uniforms;
    int64_t* new_tokens;
    float* new_logprobs;
    const float* temperature;
    const int64_t* top_k;
    const float *top_p, *min_p;
    uint8_t* ended;
    int64_t num_stops, width;
};
static_assert(sizeof(Columns) == 15 * sizeof(void*));

struct Team {  // threads that share one piece of work, column by column; a team of one never waits
    int64_t rank = 0, size = 1;
    std::atomic<int64_t>* arrived = nullptr;
    int64_t turn = 0;
    void sync() {
        if (size == 1) return;
        turn++;
        arrived->fetch_add(1, std::memory_order_acq_rel);
        for (int spins = 0; arrived->load(std::memory_order_acquire) < turn * size; spins++) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            if (spins > 20000) std::this_thread::yield();  // not sooner: whoever yields to a busy program is away for milliseconds
        }
    }
    int64_t at(int64_t r, int64_t n, int64_t step) const { return std::min(n, (n + step - 1) / step * r / size * step); }
    int64_t from(int64_t n, int64_t step = 4) const { return at(rank, n, step); }
    int64_t to(int64_t n, int64_t step = 4) const { return at(rank + 1, n, step); }
};

template <class X> struct Rows {  // zeroed once; what lies beyond a row's width stays zero
    std::vector<X> data;
    int64_t ld = 0;
    void open(int64_t rows, int64_t width) { ld = (width + 15) / 16 * 16; data.assign(size_t(rows * ld), X(0)); }
    X* operator[](int64_t row) { return data.data() + row * ld; }
};

// A product with a matrix of either sort: `kind` 0 is the plain one of tiles.h, else 1 + a QuantFormat.
template <class T, class Done>
static inline void product(int64_t kind, Rounded& room, const T* a, int64_t lda, int64_t rows, const void* packed, int64_t k, int64_t p0, int64_t p1, Done done) {
    if (kind) multiply_packed(kind - 1, room, a, lda, rows, (const uint8_t*)packed, k, p0, p1, done);
    else multiply(a, lda, rows, packed, k, p0, p1, done);
}

static inline int64_t pad16(int64_t n) { return (n + 15) / 16 * 16; }

static inline float norm_factor(const float* x, int64_t n, double eps) {
    float sum = 0.f;
    v16 sums = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) sums += get16(x + i) * get16(x + i);
    for (int j = 0; j < 16; j++) sum += sums[j];
    for (; i < n; i++) sum += x[i] * x[i];
    return 1.f / std::sqrt(sum / float(n) + float(eps));
}
template <class X>
static inline void norm(const float* x, const float* weight, int64_t n, double eps, X* y) {
    float r = norm_factor(x, n, eps);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) put16(y + i, get16(x + i) * r * get16(weight + i));
    for (; i < n; i++) store(y, i, x[i] * r * weight[i]);
}
template <class X>
static inline void copy_row(const float* x, int64_t n, X* y) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) put16(y + i, get16(x + i));
    for (; i < n; i++) store(y, i, x[i]);
}
static inline void rotate(float* x, const float* cos, const float* sin, int64_t half) {  // pairs are (first half, second half)
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[i] + a * sin[i];
    }
}
static inline v16 silu(v16 x) { return x / (1.f + exp16(-x)); }

// What a slot's drafts are made from. Its tokens, as far as they were told to the decoder; and the states, after the final norm, of the
// last `pending` cached positions, which the MTP module has not seen because a token that follows one of them was not known.
struct Story {
    static const int64_t MOST = 15;
    std::vector<int64_t> ids;
    std::vector<float> states;
    int64_t cached = 0, pending = 0, room = 0, num_drafts = 0, first_row = 0, drafted = 0, accepted = 0, drafts[MOST];
    double chance = 0.;  // that all drafts so far are right, as the module sees it
    void tell(int64_t past, const int64_t* tokens, int64_t count) {  // `count` tokens behind the first `past` ones, which are cached
        ids.resize(size_t(past));
        ids.insert(ids.end(), tokens, tokens + count);
        pending = past == 0 ? 0 : std::max<int64_t>(0, pending - std::max<int64_t>(0, cached - past));  // some may have been taken back
        cached = past;
    }
};

struct Decoder {
    Sizes z; Reals r; Pages pages; Mtp mtp;
    const void *embed, *head;
    const float *norm_out, *cos, *sin;
    std::vector<Layer> layers;
    std::vector<Story> stories;  // of the slots, where drafts are made
    int64_t key_rows, value_first, value_rows, group_rows, group_bytes, vocab_pad, most_rows;
    virtual ~Decoder() = default;
    virtual void make_room() = 0;
    virtual void step(const int64_t* tokens, const int64_t* places, const int64_t* slots, const int64_t* starts, int64_t units, float* logits, Columns* draws, int threads) = 0;
    virtual void round(Columns& columns, int64_t count, int64_t most, double least, int threads) = 0;
};
