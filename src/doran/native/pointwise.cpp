// Row-wise kernels of a training step: RMSNorm, RoPE, SwiGLU, gathering rows for experts, combining experts, softmax cross-entropy.
// Each replaces five to ten passes over memory by one. Sums over rows are taken in NUM_CHUNKS fixed pieces, so that results
// do not depend on the number of threads.
#include "common.h"

static const int64_t NUM_CHUNKS = 16;

template <class S>
static void rmsnorm_fwd(const S* x, int64_t ldx, const float* w, S* y, float* rstd, int64_t n, int64_t d, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const S* xi = x + i * ldx;
        S* yi = y + i * d;
        float sum = 0.f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++) { float a = load(xi, j); sum += a * a; }
        float r = 1.f / std::sqrt(sum / float(d) + eps);
        rstd[i] = r;
#pragma omp simd
        for (int64_t j = 0; j < d; j++) store(yi, j, load(xi, j) * r * w[j]);
    }
}

template <class S>
static void rmsnorm_bwd(const S* gy, const S* x, int64_t ldx, const float* w, const float* rstd, S* gx, float* gw, int64_t n, int64_t d) {
    std::vector<float> partial(NUM_CHUNKS * d, 0.f);
    int64_t step = (n + NUM_CHUNKS - 1) / NUM_CHUNKS;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < NUM_CHUNKS; c++) {
        float* pw = &partial[c * d];
        for (int64_t i = c * step; i < std::min(n, (c + 1) * step); i++) {
            const S* xi = x + i * ldx;
            const S* gi = gy + i * d;
            S* oi = gx + i * d;
            float r = rstd[i], dot = 0.f;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < d; j++) dot += load(gi, j) * w[j] * load(xi, j);
            float k = dot * r * r * r / float(d);
#pragma omp simd
            for (int64_t j = 0; j < d; j++) {
                float g = load(gi, j), a = load(xi, j);
                pw[j] += g * a * r;
                store(oi, j, g * w[j] * r - a * k);
            }
        }
    }
    for (int64_t j = 0; j < d; j++) gw[j] = 0.f;
    for (int64_t c = 0; c < NUM_CHUNKS; c++)
        for (int64_t j = 0; j < d; j++) gw[j] += partial[c * d + j];
}

// Rotate (first half, second half) pairs of width r: x (n, heads, r) with strides -> y contiguous. sign = -1 is the backward.
template <class S>
static void rope(const S* x, int64_t xt, int64_t xh, const float* cos, const float* sin, S* y, int64_t n, int64_t heads, int64_t r, float sign) {
    int64_t half = r / 2;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++) {
            const S* a = x + i * xt + h * xh;
            S* o = y + (i * heads + h) * r;
            const float *c = cos + i * half, *s = sin + i * half;
#pragma omp simd
            for (int64_t j = 0; j < half; j++) {
                float u = load(a, j), v = load(a, half + j), sj = s[j] * sign;
                store(o, j, u * c[j] - v * sj);
                store(o, half + j, v * c[j] + u * sj);
            }
        }
}

// y (n, i) = silu(gate) * up; gate and up have row strides, so they may be the two halves of one matrix
template <class S>
static void swiglu_fwd(const S* gate, int64_t ldg, const S* up, int64_t ldu, S* y, int64_t n, int64_t i) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) {
        const S *g = gate + t * ldg, *u = up + t * ldu;
        S* o = y + t * i;
#pragma omp simd
        for (int64_t j = 0; j < i; j++) { float a = load(g, j); store(o, j, a / (1.f + fast_exp(-a)) * load(u, j)); }
    }
}
template <class S>
static void swiglu_bwd(const S* gy, const S* gate, int64_t ldg, const S* up, int64_t ldu, S* ggate, S* gup, int64_t ldo, int64_t n, int64_t i) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) {
        const S *g = gate + t * ldg, *u = up + t * ldu, *o = gy + t * i;
        S *gg = ggate + t * ldo, *gu = gup + t * ldo;
#pragma omp simd
        for (int64_t j = 0; j < i; j++) {
            float a = load(g, j), b = load(u, j), d = load(o, j), s = 1.f / (1.f + fast_exp(-a));
            store(gg, j, d * b * s * (1.f + a * (1.f - s)));
            store(gu, j, d * a * s);
        }
    }
}

// y[i] = x[index[i]]
template <class S>
static void gather(const S* x, const int64_t* index, S* y, int64_t n, int64_t d) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) std::memcpy(y + i * d, x + index[i] * d, size_t(d) * sizeof(S));
}
// y[t] = sum_k (w ? w[t, k] : 1) * x[index[t, k]]
template <class S>
static void combine(const S* x, const int64_t* index, const float* w, S* y, int64_t n, int64_t k, int64_t d) {
#pragma omp parallel
    {
        std::vector<float> acc(d);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < n; t++) {
            std::fill(acc.begin(), acc.end(), 0.f);
            for (int64_t e = 0; e < k; e++) {
                const S* row = x + index[t * k + e] * d;
                float s = w ? w[t * k + e] : 1.f;
#pragma omp simd
                for (int64_t j = 0; j < d; j++) acc[j] += s * load(row, j);
            }
            for (int64_t j = 0; j < d; j++) store(y, t * d + j, acc[j]);
        }
    }
}
// backward of combine: gx[index[t,k]] = w[t,k] * gy[t];  gw[t,k] = gy[t] . x[index[t,k]]   (every row of x is used exactly once)
template <class S>
static void combine_bwd(const S* gy, const S* x, const int64_t* index, const float* w, S* gx, float* gw, int64_t n, int64_t k, int64_t d) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++)
        for (int64_t e = 0; e < k; e++) {
            int64_t r = index[t * k + e];
            float s = w[t * k + e], dot = 0.f;
            const S *g = gy + t * d, *row = x + r * d;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < d; j++) { float a = load(g, j); dot += a * load(row, j); store(gx, r * d + j, a * s); }
            gw[t * k + e] = dot;
        }
}

// For each row of logits: logprob of its target, entropy of the distribution, and the log of the normaliser. target < 0: skipped (0).
template <class S>
static void ce_fwd(const S* z, const int64_t* target, float temperature, float* logprob, float* entropy, float* lse, int64_t n, int64_t v) {
    float inv_t = 1.f / temperature;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const S* zi = z + i * v;
        float top = -INFINITY, sum = 0.f, dot = 0.f;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < v; j++) { float a = load(zi, j); top = a > top ? a : top; }
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t j = 0; j < v; j++) { float a = (load(zi, j) - top) * inv_t, e = fast_exp(a); sum += e; dot += e * a; }
        float l = std::log(sum);
        lse[i] = top * inv_t + l;
        entropy[i] = l - dot / sum;
        logprob[i] = target[i] < 0 ? 0.f : load(zi, target[i]) * inv_t - lse[i];
    }
}
// gz = (gl * (onehot - p) - ge * p * (log p + H)) / temperature, with gl, ge the gradients of logprob and entropy
template <class S>
static void ce_bwd(const S* z, const int64_t* target, float temperature, const float* lse, const float* entropy, const float* gl, const float* ge, S* gz, int64_t n, int64_t v) {
    float inv_t = 1.f / temperature;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const S* zi = z + i * v;
        S* gi = gz + i * v;
        float a = (target[i] < 0 ? 0.f : gl[i]) * inv_t, b = (ge ? ge[i] : 0.f) * inv_t, l = lse[i], h = entropy[i];
#pragma omp simd
        for (int64_t j = 0; j < v; j++) {
            float lp = load(zi, j) * inv_t - l, p = fast_exp(lp);
            store(gi, j, -p * (a + b * (lp + h)));
        }
        if (target[i] >= 0) {
            float lp = load(zi, target[i]) * inv_t - l, p = fast_exp(lp);
            store(gi, target[i], a - p * (a + b * (lp + h)));
        }
    }
}

#define POINTWISE(S, name)                                                                                                                                             \
    extern "C" void rmsnorm_forward_##name(const S* x, int64_t ldx, const float* w, S* y, float* rstd, int64_t n, int64_t d, float eps) { rmsnorm_fwd(x, ldx, w, y, rstd, n, d, eps); } \
    extern "C" void rmsnorm_backward_##name(const S* gy, const S* x, int64_t ldx, const float* w, const float* rstd, S* gx, float* gw, int64_t n, int64_t d) { rmsnorm_bwd(gy, x, ldx, w, rstd, gx, gw, n, d); } \
    extern "C" void rope_##name(const S* x, int64_t xt, int64_t xh, const float* cos, const float* sin, S* y, int64_t n, int64_t h, int64_t r, float sign) { rope(x, xt, xh, cos, sin, y, n, h, r, sign); } \
    extern "C" void swiglu_forward_##name(const S* g, int64_t ldg, const S* u, int64_t ldu, S* y, int64_t n, int64_t i) { swiglu_fwd(g, ldg, u, ldu, y, n, i); } \
    extern "C" void swiglu_backward_##name(const S* gy, const S* g, int64_t ldg, const S* u, int64_t ldu, S* gg, S* gu, int64_t ldo, int64_t n, int64_t i) { swiglu_bwd(gy, g, ldg, u, ldu, gg, gu, ldo, n, i); } \
    extern "C" void gather_##name(const S* x, const int64_t* index, S* y, int64_t n, int64_t d) { gather(x, index, y, n, d); }                                          \
    extern "C" void combine_forward_##name(const S* x, const int64_t* index, const float* w, S* y, int64_t n, int64_t k, int64_t d) { combine(x, index, w, y, n, k, d); } \
    extern "C" void combine_backward_##name(const S* gy, const S* x, const int64_t* index, const float* w, S* gx, float* gw, int64_t n, int64_t k, int64_t d) { combine_bwd(gy, x, index, w, gx, gw, n, k, d); } \
    extern "C" void cross_entropy_forward_##name(const S* z, const int64_t* t, float temp, float* lp, float* h, float* lse, int64_t n, int64_t v) { ce_fwd(z, t, temp, lp, h, lse, n, v); } \
    extern "C" void cross_entropy_backward_##name(const S* z, const int64_t* t, float temp, const float* lse, const float* h, const float* gl, const float* ge, S* gz, int64_t n, int64_t v) { ce_bwd(z, t, temp, lse, h, gl, ge, gz, n, v); }
POINTWISE(float, f32)
POINTWISE(bf16, bf16)
