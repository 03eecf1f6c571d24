// From one row of logits to one token: temperature, top-k, top-p, min-p, inverse CDF. The same rules as engine/sampler.py, which is
// its reference; sums are taken in double, in fixed pieces of 64 tokens. Not here: penalties and other processors.
#pragma once
#include <numeric>

#include "common.h"

struct Draw { int64_t token; float logprob; };
struct Cuts { float temperature; int64_t top_k; float top_p, min_p; };

static const int64_t PIECE = 64;

// Zeroes the weights that the cuts remove: they keep a prefix of the tokens in falling order (ties: lowest id first).
static void cut_weights(float* w, int64_t v, const Cuts& c, double total, std::vector<int32_t>& ids) {
    for (float least = 0.0625f;; least = least > 1e-12f ? least * 0.0625f : 0.f) {  // the largest is 1; widen until the prefix fits
        ids.clear();
        for (int64_t i = 0; i < v; i++)
            if (w[i] >= least) ids.push_back(int32_t(i));
        std::sort(ids.begin(), ids.end(), [w](int32_t a, int32_t b) { return w[a] != w[b] ? w[a] > w[b] : a < b; });
        int64_t found = int64_t(ids.size()), limit = c.top_k > 0 ? std::min(c.top_k, v) : v;
        double all = total, sum = 0.;
        if (c.top_k > 0) {  // top_p is a share of what top_k keeps
            if (found < limit && least > 0.f) continue;
            all = 0.;
            for (int64_t i = 0; i < std::min(limit, found); i++) all += w[ids[i]];
        }
        int64_t kept = 0;
        bool closed = false;
        for (; kept < found; kept++) {
            float p = w[ids[kept]];
            closed = kept >= limit || !(float(sum) < c.top_p * float(all) || c.top_p >= 1.f) || !(p >= c.min_p * w[ids[0]]);
            if (closed) break;
            sum += p;
        }
        if (!closed && least > 0.f && least > c.min_p && found < limit) continue;
        for (int64_t i = 0; i < v; i++)
            if (w[i] < least) w[i] = 0.f;
        for (int64_t i = std::max<int64_t>(kept, 1); i < found; i++) w[ids[i]] = 0.f;
        return;
    }
}

static double sum_pieces(const float* w, int64_t v, double* pieces) {
    double total = 0.;
    for (int64_t b = 0; b * PIECE < v; b++) {
        double s = 0.;
        int64_t end = std::min(v, (b + 1) * PIECE);
#pragma omp simd reduction(+ : s)
        for (int64_t i = b * PIECE; i < end; i++) s += w[i];
        pieces[b] = s;
        total += s;
    }
    return total;
}

// `w` (v) and `pieces` (v / 64 + 1) are scratch. NaN logits give a valid token and a NaN logprob.
static Draw draw(const float* z, int64_t v, const Cuts& c, double uniform, float* w, double* pieces, std::vector<int32_t>& ids) {
    float inv_t = c.temperature == 0.f ? 1.f : 1.f / c.temperature, top = z[0];
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < v; i++) top = z[i] > top ? z[i] : top;
#pragma omp simd
    for (int64_t i = 0; i < v; i++) w[i] = fast_exp((z[i] - top) * inv_t);
    bool nan = false;
#pragma omp simd reduction(| : nan)
    for (int64_t i = 0; i < v; i++) nan |= z[i] != z[i];
    double total = sum_pieces(w, v, pieces);
    if (nan || !(total < INFINITY)) return {0, NAN};
    float log_total = float(std::log(total));
    int64_t token = 0;
    if (c.temperature == 0.f) {
        while (z[token] != top) token++;
    } else {
        if (c.top_k > 0 || c.top_p < 1.f || c.min_p > 0.f) {
            cut_weights(w, v, c, total, ids);
            total = sum_pieces(w, v, pieces);
        }
        double target = uniform * total, before = 0.;
        int64_t b = 0, last = (v - 1) / PIECE;
        while (b < last && before + pieces[b] <= target) before += pieces[b++];
        int64_t likely = -1;
        for (token = b * PIECE; token < v; token++) {
            if (w[token] > 0.f) likely = token;
            before += w[token];
            if (before > target) break;
        }
        if (token == v) {  // rounding brought the target to the end: the last token that has weight
            for (token = likely >= 0 ? likely : v - 1; token > 0 && w[token] == 0.f; token--) {}
        } else if (w[token] == 0.f) token = likely >= 0 ? likely : token;
    }
    return {token, (z[token] - top) * inv_t - log_total};
}
