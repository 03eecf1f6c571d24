// Causal attention inside each packed sequence, forward and backward, for GQA and for MLA in expanded form.
// A head's query is [q1 (d1) ; q2 (d2)] and its key [k1 (d1) ; k2 (d2)]: for MLA q1/k1 are the "nope" parts and k2 is the one
// rotary key that all heads share; for GQA d2 = 0. Each sequence is one task for one thread, so that results do not depend on the
// number of threads. Not here: paging, dropout, sequences so long that L*L floats do not fit the cache comfortably (still correct).
#include "common.h"

struct Shape { int64_t heads, kv_heads, d1, d2, dv; float scale; };

template <class S>
struct Head {  // one sequence and head copied to fp32, widths padded to 16 with zeros, rows padded to 4
    int len, rows, keys, dq, dvp;
    std::vector<float> q, k, kt, v, p;
    void reserve(int n, const Shape& s) {
        len = n; rows = round_up(n, 4); keys = round_up(n, 16); dq = round_up(int(s.d1 + s.d2), 16); dvp = round_up(int(s.dv), 16);
        q.assign(size_t(rows) * dq, 0.f); k.assign(size_t(keys) * dq, 0.f); kt.assign(size_t(dq) * keys, 0.f);
        v.assign(size_t(keys) * dvp, 0.f); p.assign(size_t(rows) * keys, 0.f);
    }
    void fill(const S* q1, int64_t q1s, const S* q2, int64_t q2s, const S* k1, int64_t k1s, const S* k2, int64_t k2s, const S* vv, int64_t vs, const Shape& s) {
        for (int i = 0; i < len; i++) {
            for (int d = 0; d < s.d1; d++) { q[i * dq + d] = load(q1, i * q1s + d) * s.scale; k[i * dq + d] = load(k1, i * k1s + d); }
            for (int d = 0; d < s.d2; d++) { q[i * dq + s.d1 + d] = load(q2, i * q2s + d) * s.scale; k[i * dq + s.d1 + d] = load(k2, i * k2s + d); }
            for (int d = 0; d < s.dv; d++) v[i * dvp + d] = load(vv, i * vs + d);
        }
        transpose(k.data(), dq, kt.data());
    }
    void transpose(const float* from, int width, float* to) const {
        for (int i = 0; i < len; i++)
            for (int d = 0; d < width; d++) to[d * keys + i] = from[i * width + d];
    }
    void scores() {  // p = scaled q k^T, only the columns a row block can see
        for (int i = 0; i < rows; i += 4) rows4(&q[i * dq], dq, 1, kt.data(), keys, &p[i * keys], keys, std::min(keys, round_up(i + 4, 16)), 0, dq);
    }
};

template <class S>
static void forward(const S* q1, int64_t q1t, int64_t q1h, const S* q2, int64_t q2t, int64_t q2h, const S* k1, int64_t k1t, int64_t k1h, const S* k2, int64_t k2t,
                    const S* v, int64_t vt, int64_t vh, S* o, float* lse, const int64_t* cu, int64_t num_seqs, Shape s) {
    int64_t group = s.heads / s.kv_heads;
#pragma omp parallel
    {
        Head<S> hd;
        std::vector<float> out;
#pragma omp for schedule(dynamic, 1)
        for (int64_t n = 0; n < num_seqs; n++) {
            int64_t t0 = cu[n];
            int len = int(cu[n + 1] - t0);
            if (len == 0) continue;
            hd.reserve(len, s);
            out.assign(size_t(4) * hd.dvp, 0.f);
            for (int64_t h = 0; h < s.heads; h++) {
                int64_t g = h / group;
                hd.fill(q1 + t0 * q1t + h * q1h, q1t, q2 + t0 * q2t + h * q2h, q2t, k1 + t0 * k1t + g * k1h, k1t, k2 + t0 * k2t, k2t, v + t0 * vt + g * vh, vt, s);
                hd.scores();
                for (int i = 0; i < hd.rows; i += 4) {
                    for (int r = 0; r < 4; r++) {
                        float* row = &hd.p[(i + r) * hd.keys];
                        int seen = std::min(i + r + 1, len);
                        float top = row[0], sum = 0.f;
#pragma omp simd reduction(max : top)
                        for (int j = 0; j < seen; j++) top = std::max(top, row[j]);
#pragma omp simd reduction(+ : sum)
                        for (int j = 0; j < seen; j++) { row[j] = fast_exp(row[j] - top); sum += row[j]; }
                        for (int j = seen; j < std::min(hd.keys, round_up(i + 4, 16)); j++) row[j] = 0.f;
                        float inv = 1.f / sum;
#pragma omp simd
                        for (int j = 0; j < seen; j++) row[j] *= inv;
                        if (i + r < len) lse[(t0 + i + r) * s.heads + h] = top + std::log(sum);
                    }
                    rows4(&hd.p[i * hd.keys], hd.keys, 1, hd.v.data(), hd.dvp, out.data(), hd.dvp, hd.dvp, 0, std::min(i + 4, len));
                    for (int r = 0; r < 4 && i + r < len; r++)
                        for (int d = 0; d < s.dv; d++) store(o, ((t0 + i + r) * s.heads + h) * s.dv + d, out[r * hd.dvp + d]);
                }
            }
        }
    }
}

template <class S>
static void backward(const S* go, const S* q1, int64_t q1t, int64_t q1h, const S* q2, int64_t q2t, int64_t q2h, const S* k1, int64_t k1t, int64_t k1h, const S* k2,
                     int64_t k2t, const S* v, int64_t vt, int64_t vh, const S* o, const float* lse, S* gq1, S* gq2, S* gk1, S* gk2, S* gv, const int64_t* cu,
                     int64_t num_seqs, Shape s) {
    int64_t group = s.heads / s.kv_heads;
#pragma omp parallel
    {
        Head<S> hd;
        std::vector<float> dout, vt_, dp, dq, dk, dv, dk2;
#pragma omp for schedule(dynamic, 1)
        for (int64_t n = 0; n < num_seqs; n++) {
            int64_t t0 = cu[n];
            int len = int(cu[n + 1] - t0);
            if (len == 0) continue;
            hd.reserve(len, s);
            const int K = hd.keys, Q = hd.dq, V = hd.dvp, R = hd.rows;
            dout.assign(size_t(R) * V, 0.f); vt_.assign(size_t(V) * K, 0.f); dp.assign(size_t(R) * K, 0.f); dq.assign(size_t(4) * Q, 0.f);
            std::vector<float> tile(size_t(4) * std::max(Q, V), 0.f);
            dk2.assign(size_t(len) * std::max<int64_t>(s.d2, 1), 0.f);
            for (int64_t g = 0; g < s.kv_heads; g++) {
                dk.assign(size_t(round_up(len, 4)) * Q, 0.f); dv.assign(size_t(round_up(len, 4)) * V, 0.f);
                for (int64_t h = g * group; h < (g + 1) * group; h++) {
                    hd.fill(q1 + t0 * q1t + h * q1h, q1t, q2 + t0 * q2t + h * q2h, q2t, k1 + t0 * k1t + g * k1h, k1t, k2 + t0 * k2t, k2t, v + t0 * vt + g * vh, vt, s);
                    hd.transpose(hd.v.data(), V, vt_.data());
                    for (int i = 0; i < len; i++)
                        for (int d = 0; d < s.dv; d++) dout[i * V + d] = load(go, ((t0 + i) * s.heads + h) * s.dv + d);
                    hd.scores();
                    for (int i = 0; i < R; i += 4) {  // p = softmax, dp = p * (dO v^T - delta), then dq
                        int cols = std::min(K, round_up(i + 4, 16));
                        rows4(&dout[i * V], V, 1, vt_.data(), K, &dp[i * K], K, cols, 0, V);
                        for (int r = 0; r < 4; r++) {
                            float* p = &hd.p[(i + r) * K];
                            float* dpr = &dp[(i + r) * K];
                            int seen = i + r < len ? i + r + 1 : 0;
                            float l = 0.f, delta = 0.f;
                            if (seen) {
                                l = lse[(t0 + i + r) * s.heads + h];
                                for (int d = 0; d < s.dv; d++) delta += dout[(i + r) * V + d] * load(o, ((t0 + i + r) * s.heads + h) * s.dv + d);
                            }
#pragma omp simd
                            for (int j = 0; j < seen; j++) { p[j] = fast_exp(p[j] - l); dpr[j] = p[j] * (dpr[j] - delta); }
                            for (int j = seen; j < cols; j++) p[j] = dpr[j] = 0.f;
                        }
                        rows4(&dp[i * K], K, 1, hd.k.data(), Q, dq.data(), Q, Q, 0, std::min(i + 4, len));
                        for (int r = 0; r < 4 && i + r < len; r++) {
                            for (int d = 0; d < s.d1; d++) store(gq1, ((t0 + i + r) * s.heads + h) * s.d1 + d, dq[r * Q + d] * s.scale);
                            for (int d = 0; d < s.d2; d++) store(gq2, ((t0 + i + r) * s.heads + h) * s.d2 + d, dq[r * Q + s.d1 + d] * s.scale);
                        }
                    }
                    for (int j = 0; j < len; j += 4) {  // q already carries the scale
                        rows4(&dp[j], 1, K, hd.q.data(), Q, tile.data(), Q, Q, j, len);
                        for (int r = 0; r < 4; r++)
                            for (int d = 0; d < Q; d++) dk[(j + r) * Q + d] += tile[r * Q + d];
                        rows4(&hd.p[j], 1, K, dout.data(), V, tile.data(), V, V, j, len);
                        for (int r = 0; r < 4; r++)
                            for (int d = 0; d < V; d++) dv[(j + r) * V + d] += tile[r * V + d];
                    }
                }
                for (int i = 0; i < len; i++) {
                    for (int d = 0; d < s.d1; d++) store(gk1, ((t0 + i) * s.kv_heads + g) * s.d1 + d, dk[i * Q + d]);
                    for (int d = 0; d < s.dv; d++) store(gv, ((t0 + i) * s.kv_heads + g) * s.dv + d, dv[i * V + d]);
                    for (int d = 0; d < s.d2; d++) dk2[i * s.d2 + d] += dk[i * Q + s.d1 + d];
                }
            }
            for (int i = 0; i < len; i++)
                for (int d = 0; d < s.d2; d++) store(gk2, (t0 + i) * s.d2 + d, dk2[i * s.d2 + d]);
        }
    }
}

// One new token for each of N rows against its own cached latents (absorbed MLA): an MQA with one key of width c + r, value = its first c.
template <class S>
static void decode(const S* q, const S* cache, int64_t slot_stride, const int64_t* slots, const int64_t* lens, S* o, int64_t N, int64_t H, int64_t c, int64_t r, float scale) {
    int64_t w = c + r;
#pragma omp parallel
    {
        std::vector<float> qf(H * w), p, key(w), acc(H * c);
#pragma omp for schedule(dynamic, 4)
        for (int64_t n = 0; n < N; n++) {
            const S* rows = cache + slots[n] * slot_stride;
            int64_t len = lens[n];
            p.resize(H * len);
            for (int64_t i = 0; i < H * w; i++) qf[i] = load(q, n * H * w + i) * scale;
            for (int64_t j = 0; j < len; j++) {
                for (int64_t d = 0; d < w; d++) key[d] = load(rows, j * w + d);
                for (int64_t h = 0; h < H; h++) {
                    float dot = 0.f;
                    const float* qh = &qf[h * w];
#pragma omp simd reduction(+ : dot)
                    for (int64_t d = 0; d < w; d++) dot += qh[d] * key[d];
                    p[h * len + j] = dot;
                }
            }
            for (int64_t h = 0; h < H; h++) {
                float* ph = &p[h * len];
                float top = ph[0], sum = 0.f;
#pragma omp simd reduction(max : top)
                for (int64_t j = 0; j < len; j++) top = std::max(top, ph[j]);
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < len; j++) { ph[j] = fast_exp(ph[j] - top); sum += ph[j]; }
                float inv = 1.f / sum;
#pragma omp simd
                for (int64_t j = 0; j < len; j++) ph[j] *= inv;
            }
            std::fill(acc.begin(), acc.end(), 0.f);
            for (int64_t j = 0; j < len; j++) {
                for (int64_t d = 0; d < c; d++) key[d] = load(rows, j * w + d);
                for (int64_t h = 0; h < H; h++) {
                    float ph = p[h * len + j];
                    float* a = &acc[h * c];
#pragma omp simd
                    for (int64_t d = 0; d < c; d++) a[d] += ph * key[d];
                }
            }
            for (int64_t i = 0; i < H * c; i++) store(o, n * H * c + i, acc[i]);
        }
    }
}

#define ATTENTION(S, name)                                                                                                                                        \
    extern "C" void attention_forward_##name(const S* q1, int64_t q1t, int64_t q1h, const S* q2, int64_t q2t, int64_t q2h, const S* k1, int64_t k1t, int64_t k1h, \
        const S* k2, int64_t k2t, const S* v, int64_t vt, int64_t vh, S* o, float* lse, const int64_t* cu, int64_t n, int64_t H, int64_t G, int64_t d1, int64_t d2, \
        int64_t dv, float scale) {                                                                                                                                \
        forward<S>(q1, q1t, q1h, q2, q2t, q2h, k1, k1t, k1h, k2, k2t, v, vt, vh, o, lse, cu, n, Shape{H, G, d1, d2, dv, scale});                                   \
    }                                                                                                                                                             \
    extern "C" void attention_backward_##name(const S* go, const S* q1, int64_t q1t, int64_t q1h, const S* q2, int64_t q2t, int64_t q2h, const S* k1, int64_t k1t, \
        int64_t k1h, const S* k2, int64_t k2t, const S* v, int64_t vt, int64_t vh, const S* o, const float* lse, S* gq1, S* gq2, S* gk1, S* gk2, S* gv,            \
        const int64_t* cu, int64_t n, int64_t H, int64_t G, int64_t d1, int64_t d2, int64_t dv, float scale) {                                                     \
        backward<S>(go, q1, q1t, q1h, q2, q2t, q2h, k1, k1t, k1h, k2, k2t, v, vt, vh, o, lse, gq1, gq2, gk1, gk2, gv, cu, n, Shape{H, G, d1, d2, dv, scale});      \
    }                                                                                                                                                             \
    extern "C" void mla_decode_##name(const S* q, const S* cache, int64_t slot_stride, const int64_t* slots, const int64_t* lens, S* o, int64_t N, int64_t H,     \
        int64_t c, int64_t r, float scale) {                                                                                                                      \
        decode<S>(q, cache, slot_stride, slots, lens, o, N, H, c, r, scale);                                                                                       \
    }
ATTENTION(float, f32)
ATTENTION(bf16, bf16)
