// A whole decoder step in one call: embedding, layers, norm, head, and on request the draw of the next token. For models with GQA or
// absorbed MLA and dense or routed SwiGLU, in fp32 or bf16; doran/layers has the equations and is the reference. The residual stream,
// norms, softmax and router are fp32; T is the number type of weights and of what they multiply, C that of the cache. A row's result
// depends on its own past only, bit for bit, not on its neighbours or on threads.
#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "decoder.h"

struct Decoder {
    Sizes z; Reals r; Pages pages;
    const void *embed, *head;
    const float *norm_out, *cos, *sin;
    std::vector<Layer> layers;
    int64_t key_rows, value_first, value_rows, group_rows, group_bytes, vocab_pad, most_rows;
    virtual ~Decoder() = default;
    virtual void make_room() = 0;
    virtual void step(const int64_t* tokens, const int64_t* places, const int64_t* slots, const int64_t* starts, int64_t units, float* logits, Columns* draws, int threads) = 0;
};

template <class T, class C>
struct Typed : Decoder {
    using unit = typename Dot<C>::unit;
    struct Work {  // of one set of rows; a team shares it
        Rows<float> h, qkv, q, logits;
        Rows<T> low, nope, latent_t, o, act, expert_act;
        Rows<C> query;
    };
    struct Own {  // of one thread
        Rows<T> x, picked;
        Rows<float> wide, routed, biased, score;
        Rows<C> query;
        std::vector<const C*> blocks, next_blocks;
        std::vector<int64_t> chosen, kept, row_of, begin, next;
        std::vector<float> chosen_weight, weight_of, w;
        std::vector<int32_t> ids;
        std::vector<double> pieces;
        Rounded rounded;
    };
    std::vector<Work> works;
    std::vector<Own> owns;

    void open(int threads) {
        int64_t M = most_rows, heads = z.heads, wide = z.mla ? z.heads * (z.nope + z.rope) : (z.heads + 2 * z.groups) * z.rope;
        works.resize(size_t(threads)); owns.resize(size_t(threads));
        for (auto& w : works) {
            w.h.open(M, z.hidden); w.qkv.open(M, wide + z.q_rank + z.rank + z.rope); w.o.open(M, heads * z.value); w.logits.open(M, z.vocab);
            if (z.mla) {
                w.q.open(M, wide); w.low.open(M, z.q_rank); w.nope.open(M, heads * (z.nope + 1)); w.query.open(M, heads * (key_rows + 2) + 16);
                w.latent_t.open(M, heads * pad16(z.rank));
            }
            w.act.open(M, std::max(z.dense, z.shared)); w.expert_act.open(z.experts ? M * z.top_k : 0, z.expert);
        }
        for (auto& o : owns) {
            o.x.open(M, z.hidden); o.picked.open(M, z.hidden); o.routed.open(M, z.experts); o.query.open(1, heads * (key_rows + 2));
            o.wide.open(z.experts ? M : 0, z.hidden); o.biased.open(2, z.experts); o.kept.resize(size_t(z.n_group));
            o.chosen.resize(size_t(M * z.top_k)); o.chosen_weight.resize(size_t(M * z.top_k)); o.row_of.resize(size_t(M * z.top_k));
            o.weight_of.resize(size_t(M * z.top_k)); o.begin.resize(size_t(z.experts + 1)); o.next.resize(size_t(z.experts + 1));
            o.w.resize(size_t(z.vocab)); o.pieces.resize(size_t(z.vocab / PIECE + 1));
        }
    }
    void make_room() override {  // after the cache was opened
        for (auto& o : owns) { o.score.open(1, 8 * pages.per_slot * BLOCK); o.blocks.resize(size_t(pages.per_slot)); o.next_blocks.resize(size_t(pages.per_slot)); }
    }

    C* rows_at(uint8_t* block, int64_t layer, int64_t group) const { return (C*)(block + (layer * z.groups + group) * group_bytes); }
    // This row's blocks into o.blocks, and the next reader's into o.next_blocks, to be asked for meanwhile.
    Ahead<C> find_blocks(Own& o, int64_t slot, int64_t len, int64_t layer, int64_t group, int64_t next_slot, int64_t next_len, int64_t next_group) {
        for (int64_t b = 0; b * BLOCK < len; b++) o.blocks[b] = rows_at(pages.block(slot, b), layer, group);
        int64_t count = 0;
        for (; count * BLOCK < next_len; count++) o.next_blocks[count] = rows_at(pages.block(next_slot, count), layer, next_group);
        return {o.next_blocks.data(), count, 0, group_bytes / 64};
    }
    template <class X>
    static auto into(Rows<X>& to, const float* bias) {
        return [&to, bias](int64_t m, int64_t p, const float* v, int64_t n) {
            for (int64_t i = p * 16; n > 0; n--, i += 16, v += 16) put16(to[m] + i, bias ? get16(v) + get16(bias + i) : get16(v));
        };
    }
    static auto gated(Rows<T>& to, const float* bias, int64_t first) {  // panels come as gate, up, gate, up, ...
        return [&to, bias, first](int64_t m, int64_t p, const float* v, int64_t n) {
            for (; n > 0; n -= 2, p += 2, v += 32) {
                v16 gate = get16(v), up = get16(v + 16);
                if (bias) { gate += get16(bias + p * 16); up += get16(bias + p * 16 + 16); }
                put16(to[first + m] + p * 8, silu(gate) * up);
            }
        };
    }
    static auto added(Rows<float>& to, const float* bias) {
        return [&to, bias](int64_t m, int64_t p, const float* v, int64_t n) {
            float* y = to[m] + p * 16;
            for (int64_t i = 0; i < n * 16; i += 16) put16(y + i, get16(y + i) + (bias ? get16(v + i) + get16(bias + p * 16 + i) : get16(v + i)));
        };
    }
    void norms(Work& w, Own& o, const float* weight, int64_t M) {
        for (int64_t m = 0; m < M; m++) norm(w.h[m], weight, z.hidden, r.eps, o.x[m]);
    }

    // ---- attention ----
    void grouped(Work& w, Own& o, Team& t, const Layer& l, int64_t layer, const int64_t* places, const int64_t* slots, int64_t M) {
        int64_t N = z.rope, group = z.heads / z.groups, ldq = (N + 1) / 2 * 2;
        for (int64_t m = 0; m < M; m++) {
            int64_t at = places[m];
            const float *c = cos + at * (N / 2), *s = sin + at * (N / 2);
            for (int64_t g = t.from(z.groups, 1); g < t.to(z.groups, 1); g++) {
                float *k = w.qkv[m] + (z.heads + g) * N, *v = k + z.groups * N;
                if (l.k_norm) norm(k, l.k_norm, N, r.eps, k);
                rotate(k, c, s, N / 2);
                C* rows = rows_at(pages.block(slots[m], at / BLOCK), layer, g);
                for (int64_t i = 0; i < N; i++) { put(rows, i, at % BLOCK, k[i]); put(rows, value_first + i, at % BLOCK, v[i]); }
                for (int64_t h = 0; h < group; h++) {
                    float* q = w.qkv[m] + (g * group + h) * N;
                    if (l.q_norm) norm(q, l.q_norm, N, r.eps, q);
                    rotate(q, c, s, N / 2);
                    copy_row(q, N, o.query[0] + h * ldq);
                }
                bool last = g + 1 == t.to(z.groups, 1);
                int64_t then = last ? std::min(m + 1, M - 1) : m;
                auto ahead = find_blocks(o, slots[m], at + 1, layer, g, slots[then], then == m && last ? 0 : places[then] + 1, last ? t.from(z.groups, 1) : g + 1);
                attend<C>((const unit*)o.query[0], ldq / Dot<C>::width, group, o.blocks.data(), at + 1, N, value_first, N, float(r.scale), o.score[0],
                          w.o[m] + g * group * N, N, ahead);
            }
        }
    }
    void latent(Work& w, Own& o, Team& t, const Layer& l, int64_t layer, const int64_t* places, const int64_t* slots, int64_t M) {
        int64_t X = z.nope + z.rope, K = z.rank, R = z.rope, Kp = pad16(K), np = (z.nope + 1) / 2 * 2, ldq = (K + R + 1) / 2 * 2;
        int64_t h0 = t.from(z.heads, 1), h1 = t.to(z.heads, 1), kv = z.q_rank ? z.q_rank : z.heads * X;
        auto remember = [&](int64_t m) {
            int64_t at = places[m];
            float *c = w.qkv[m] + kv, *pe = c + K;
            norm(c, l.k_norm, K, r.inner_eps, c);
            rotate(pe, cos + at * (R / 2), sin + at * (R / 2), R / 2);
            C* rows = rows_at(pages.block(slots[m], at / BLOCK), layer, 0);
            for (int64_t i = 0; i < K + R; i++) put(rows, i, at % BLOCK, c[i]);
        };
        if (t.rank == 0 && t.size > 1)
            for (int64_t m = 0; m < M; m++) remember(m);
        Rows<float>& q = z.q_rank ? w.q : w.qkv;
        for (int64_t m = 0; m < M; m++)
            for (int64_t h = h0; h < h1; h++) copy_row(q[m] + h * X, z.nope, w.nope[m] + h * np);
        const int64_t absorbed = units<T>(z.nope) * Kp, raised = units<T>(K) * pad16(z.value);
        for (int64_t h = h0; h < h1; h++)
            multiply(w.nope[0] + h * np, w.nope.ld, M, (const float*)l.absorb + h * absorbed, z.nope, 0, Kp / 16, [&](int64_t m, int64_t p, const float* v, int64_t n) {
                for (int64_t i = 0; i < n * 16; i += 16) put16(w.query[m] + h * ldq + p * 16 + i, get16(v + i));  // beyond K: overwritten below
            });
        t.sync();
        for (int64_t m = 0; m < M; m++) {
            int64_t at = places[m];
            if (t.size == 1) remember(m);
            for (int64_t h = h0; h < h1; h++) {
                float* pe = q[m] + h * X + z.nope;
                rotate(pe, cos + at * (R / 2), sin + at * (R / 2), R / 2);
                copy_row(pe, R, w.query[m] + h * ldq + K);
                if (ldq > K + R) w.query[m][h * ldq + K + R] = 0;
            }
            bool last = m + 1 == M;
            auto ahead = find_blocks(o, slots[m], at + 1, layer, 0, slots[last ? m : m + 1], last ? 0 : places[m + 1] + 1, 0);
            attend<C>((const unit*)(w.query[m] + h0 * ldq), ldq / Dot<C>::width, h1 - h0, o.blocks.data(), at + 1, K + R, 0, K, float(r.scale), o.score[0],
                      w.latent_t[m] + h0 * Kp, Kp, ahead);
        }
        for (int64_t h = h0; h < h1; h++)
            multiply(w.latent_t[0] + h * Kp, w.latent_t.ld, M, (const float*)l.value_up + h * raised, K, 0, pad16(z.value) / 16, [&](int64_t m, int64_t p, const float* v, int64_t n) {
                copy_row(v, std::min(n * 16, z.value - p * 16), w.o[m] + h * z.value + p * 16);
            });
    }
    void attention(Work& w, Own& o, Team& t, int64_t layer, const int64_t* places, const int64_t* slots, int64_t M) {
        const Layer& l = layers[layer];
        norms(w, o, l.norm_in, M);
        int64_t wide = z.mla ? (z.q_rank ? z.q_rank : z.heads * (z.nope + z.rope)) + z.rank + z.rope : (z.heads + 2 * z.groups) * z.rope, P = pad16(wide) / 16;
        product(l.kind(Layer::QKV), o.rounded, o.x[0], o.x.ld, M, l.qkv, z.hidden, t.from(P), t.to(P), into(w.qkv, l.qkv_bias));
        t.sync();
        if (z.q_rank) {
            if (t.rank == 0)
                for (int64_t m = 0; m < M; m++) norm(w.qkv[m], l.q_norm, z.q_rank, r.inner_eps, w.low[m]);
            t.sync();
            P = pad16(z.heads * (z.nope + z.rope)) / 16;
            product(l.kind(Layer::Q_B), o.rounded, w.low[0], w.low.ld, M, l.q_b, z.q_rank, t.from(P), t.to(P), into(w.q, nullptr));
            t.sync();
        }
        if (z.mla) latent(w, o, t, l, layer, places, slots, M);
        else grouped(w, o, t, l, layer, places, slots, M);
        t.sync();
        P = pad16(z.hidden) / 16;
        product(l.kind(Layer::O), o.rounded, w.o[0], w.o.ld, M, l.o, z.heads * z.value, t.from(P), t.to(P), added(w.h, l.o_bias));
        t.sync();
    }

    // ---- feed-forward ----
    // The k experts with the best biased scores among the kept groups, best first (DeepSeek-V3 eq 12-16); ties: lowest first
    void choose(Own& o, const float* scores, const float* bias, int64_t* best) {
        int64_t E = z.experts, per = E / z.n_group;
        float* biased = o.biased[0];
        for (int64_t e = 0; e < E; e++) biased[e] = scores[e] + bias[e];
        if (z.topk_group < z.n_group) {
            float* pairs = o.biased[1];
            for (int64_t g = 0; g < z.n_group; g++) {
                float a = -INFINITY, b = -INFINITY;
                for (int64_t e = g * per; e < (g + 1) * per; e++) {
                    if (biased[e] > a) { b = a; a = biased[e]; }
                    else if (biased[e] > b) b = biased[e];
                }
                pairs[g] = a + b;
            }
            take_best(pairs, z.n_group, z.topk_group, o.kept.data());
            for (int64_t g = 0; g < z.topk_group; g++) pairs[o.kept[g]] = NAN;  // marks the kept ones
            for (int64_t e = 0; e < E; e++)
                if (pairs[e / per] == pairs[e / per]) biased[e] = z.mask_zero ? 0.f : -INFINITY;
        }
        take_best(biased, E, z.top_k, best);
    }
    static void take_best(const float* x, int64_t n, int64_t k, int64_t* best) {
        for (int64_t i = 0; i < k; i++) {
            int64_t found = -1;
            for (int64_t j = 0; j < n; j++)
                if ((found < 0 || x[j] > x[found]) && std::find(best, best + i, j) == best + i) found = j;
            best[i] = found;
        }
    }
    void route(Own& o, const Layer& l, int64_t M) {  // rows grouped by expert: row_of, weight_of, begin
        int64_t k = z.top_k;
        for (int64_t m = 0; m < M; m++)
            for (int64_t i = 0; i < z.hidden; i++) o.wide[m][i] = load(o.x[m], i);
        multiply(o.wide[0], o.wide.ld, M, l.route, z.hidden, 0, pad16(z.experts) / 16, [&](int64_t m, int64_t p, const float* v, int64_t n) {
            for (int64_t i = 0; i < n * 16; i++) o.routed[m][p * 16 + i] = 1.f / (1.f + std::exp(-v[i]));
        });
        std::fill(o.begin.begin(), o.begin.end(), 0);
        for (int64_t m = 0; m < M; m++) {
            const float* s = o.routed[m];
            int64_t* best = &o.chosen[m * k];
            choose(o, s, l.route_bias, best);
            float sum = z.norm_topk ? 1e-20f : 0.f;
            for (int64_t i = 0; i < k; i++) { o.begin[best[i] + 1]++; sum += s[best[i]]; }
            for (int64_t i = 0; i < k; i++) o.chosen_weight[m * k + i] = s[best[i]] / (z.norm_topk ? sum : 1.f) * float(r.routed_scale);
        }
        for (int64_t e = 0; e < z.experts; e++) o.begin[e + 1] += o.begin[e];
        std::copy(o.begin.begin(), o.begin.end(), o.next.begin());
        for (int64_t i = 0; i < M * k; i++) {
            int64_t to = o.next[o.chosen[i]]++;
            o.row_of[to] = i / k;
            o.weight_of[to] = o.chosen_weight[i];
        }
    }
    void feed_forward(Work& w, Own& o, Team& t, const Layer& l, int64_t M) {
        norms(w, o, l.norm_post, M);
        int64_t inner = l.route ? z.shared : z.dense, P = pad16(inner) / 8, D = pad16(z.hidden) / 16, E = l.route ? z.experts : 0, PE = pad16(z.expert) / 8;
        const int64_t in_kind = l.kind(Layer::EXPERT_GATE_UP), out_kind = l.kind(Layer::EXPERT_DOWN), width = pad16(z.expert);  // bytes of an expert:
        const int64_t in_size = PE * (in_kind ? q_panel_bytes(in_kind - 1, z.hidden) : units<T>(z.hidden) * 64);
        const int64_t out_size = D * (out_kind ? q_panel_bytes(out_kind - 1, width) : units<T>(width) * 64);
        if (E) route(o, l, M);
        for (int64_t e = 0; e < E; e++) {
            int64_t first = o.begin[e], n = o.begin[e + 1] - first;
            if (n == 0) continue;
            for (int64_t i = 0; i < n; i++) std::memcpy(o.picked[i], o.x[o.row_of[first + i]], size_t(o.x.ld) * sizeof(T));
            product(in_kind, o.rounded, o.picked[0], o.picked.ld, n, (const uint8_t*)l.expert_gate_up + e * in_size, z.hidden, t.from(PE), t.to(PE), gated(w.expert_act, nullptr, first));
        }
        if (inner) product(l.kind(Layer::GATE_UP), o.rounded, o.x[0], o.x.ld, M, l.gate_up, z.hidden, t.from(P), t.to(P), gated(w.act, l.gate_up_bias, 0));
        t.sync();
        for (int64_t e = 0; e < E; e++) {  // experts in order, shared last: a row's sum has one order whatever the batch
            int64_t first = o.begin[e], n = o.begin[e + 1] - first;
            if (n == 0) continue;
            product(out_kind, o.rounded, w.expert_act[first], w.expert_act.ld, n, (const uint8_t*)l.expert_down + e * out_size, width, t.from(D), t.to(D),
                     [&](int64_t m, int64_t p, const float* v, int64_t count) {
                         float *y = w.h[o.row_of[first + m]] + p * 16, s = o.weight_of[first + m];
                         for (int64_t i = 0; i < count * 16; i += 16) put16(y + i, get16(y + i) + s * get16(v + i));
                     });
        }
        if (inner) product(l.kind(Layer::DOWN), o.rounded, w.act[0], w.act.ld, M, l.down, pad16(inner), t.from(D), t.to(D), added(w.h, l.down_bias));
        t.sync();
    }

    // ---- the step ----
    void forward(Work& w, Own& o, Team& t, const int64_t* tokens, const int64_t* places, const int64_t* slots, int64_t M) {
        if (t.rank == 0)
            for (int64_t m = 0; m < M; m++) {
                if (z.embed_kind) unpack_row(z.embed_kind - 1, (const uint8_t*)embed, z.hidden, tokens[m], w.h[m]);
                else for (int64_t i = 0; i < z.hidden; i++) w.h[m][i] = load((const T*)embed, tokens[m] * z.hidden + i);
            }
        t.sync();
        for (int64_t layer = 0; layer < z.layers; layer++) {
            attention(w, o, t, layer, places, slots, M);
            feed_forward(w, o, t, layers[layer], M);
        }
    }
    void predict(Work& w, Own& o, Team& t, int64_t M) {  // logits of the M rows whose states are in w.h
        norms(w, o, norm_out, M);
        int64_t P = vocab_pad / 16;
        product(z.head_kind, o.rounded, o.x[0], o.x.ld, M, head, z.hidden, t.from(P), t.to(P), into(w.logits, nullptr));
        t.sync();
    }
    void deliver(Work& w, Own& o, Team& t, int64_t first, int64_t M, float* logits, Columns* d) {
        for (int64_t m = t.rank; m < M; m += t.size) {
            int64_t s = first + m;
            if (logits) std::memcpy(logits + s * vocab_pad, w.logits[m], size_t(vocab_pad) * 4);
            if (!d) continue;
            Cuts cuts{d->temperature[s], d->top_k[s], d->top_p[s], d->min_p[s]};
            int64_t n = d->steps[s]++, at = s * d->width + n;
            Draw got = draw(w.logits[m], z.vocab, cuts, d->uniforms[at], o.w.data(), o.pieces.data(), o.ids);
            d->new_tokens[at] = d->tokens[s] = got.token;
            d->new_logprobs[at] = got.logprob;
            d->lengths[s]++;
            bool ended = n + 1 == d->budget[s];
            for (int64_t k = 0; k < d->num_stops; k++) ended |= got.token == d->stops[s * d->num_stops + k];
            d->ended[s] = ended;
        }
    }
    // Unit u is rows starts[u] .. starts[u + 1], one sequence in order; its last row's logits or draw are delivered as entry u.
    void step(const int64_t* tokens, const int64_t* places, const int64_t* slots, const int64_t* starts, int64_t count, float* logits, Columns* draws, int threads) override {
        int64_t total = starts[count], share = (total + threads - 1) / threads, pieces = (share + most_rows - 1) / most_rows;
        int64_t rows = std::max<int64_t>(1, (share + pieces - 1) / pieces);
        if (total == count && total <= 2 * threads && threads > 1) {  // few rows: the threads share each matrix
            std::atomic<int64_t> arrived{0};
#pragma omp parallel num_threads(threads)
            {
                Team t{omp_get_thread_num(), omp_get_num_threads(), &arrived};
                forward(works[0], owns[t.rank], t, tokens, places, slots, total);
                predict(works[0], owns[t.rank], t, total);
                deliver(works[0], owns[t.rank], t, 0, total, logits, draws);
            }
            return;
        }
        std::vector<int64_t> tasks{0};  // consecutive units of together about `rows` rows; a longer unit alone
        for (int64_t u = 0; u < count; u++)
            if (u + 1 == count || starts[u + 2] - starts[tasks.back()] > rows) tasks.push_back(u + 1);
        int64_t num_tasks = int64_t(tasks.size()) - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < num_tasks; i++) {
            int64_t u0 = tasks[i], u1 = tasks[i + 1], a = starts[u0], b = starts[u1];
            Work& w = works[omp_get_thread_num()];
            Own& o = owns[omp_get_thread_num()];
            Team alone;
            for (int64_t at = a, n; at < b; at += n) {
                n = std::min(most_rows, b - at);
                forward(w, o, alone, tokens + at, places + at, slots + at, n);
            }
            int64_t held = a + (b - a - 1) / most_rows * most_rows;  // the rows that w.h still has
            for (int64_t u = u0; u < u1; u++) {
                int64_t from = starts[u + 1] - 1 - held;
                if (from != u - u0) std::memcpy(w.h[u - u0], w.h[from], size_t(w.h.ld) * 4);
            }
            predict(w, o, alone, u1 - u0);
            deliver(w, o, alone, u0, u1 - u0, logits, draws);
        }
    }
};

extern "C" {
// globals: embed, norm, head, cos, sin. layer_pointers: 20 a layer, as in struct Layer.
void* decoder_open(const int64_t* sizes, const double* reals, const void* const* globals, const void* const* layer_pointers, int64_t most_rows, int64_t threads) {
    Sizes z;
    std::memcpy(&z, sizes, sizeof z);
    auto make = [&](auto* d) -> Decoder* {
        d->z = z;
        std::memcpy(&d->r, reals, sizeof d->r);
        d->embed = globals[0]; d->norm_out = (const float*)globals[1]; d->head = globals[2]; d->cos = (const float*)globals[3]; d->sin = (const float*)globals[4];
        d->layers.resize(size_t(z.layers));
        std::memcpy(d->layers.data(), layer_pointers, size_t(z.layers) * sizeof(Layer));
        d->key_rows = ((z.mla ? z.rank + z.rope : z.rope) + 1) / 2 * 2;
        d->value_rows = pad16(z.mla ? z.rank : z.value);
        d->value_first = z.mla ? 0 : d->key_rows;
        d->group_rows = z.mla ? std::max(d->key_rows, d->value_rows) : d->key_rows + d->value_rows;
        d->group_bytes = d->group_rows * BLOCK * (z.bf16_cache ? 2 : 4);
        d->vocab_pad = pad16(z.vocab); d->most_rows = most_rows;
        d->open(int(threads));
        return d;
    };
    if (z.bf16_weights) return z.bf16_cache ? make(new Typed<bf16, bf16>) : make(new Typed<bf16, float>);
    return z.bf16_cache ? make(new Typed<float, bf16>) : make(new Typed<float, float>);
}
void decoder_close(Decoder* d) { delete d; }
int64_t decoder_block_bytes(Decoder* d) { return d->z.layers * d->z.groups * d->group_bytes; }
void decoder_rope(Decoder* d, const float* cos, const float* sin) { d->cos = cos; d->sin = sin; }
void decoder_cache(Decoder* d, uint8_t* arena, int64_t blocks, int64_t slots, int64_t per_slot) {
    d->pages.open(arena, decoder_block_bytes(d), blocks, slots, per_slot);
#if defined(MADV_HUGEPAGE)  // blocks are read all over the arena: with small pages half the time goes into looking up addresses
    uint8_t* whole = (uint8_t*)((uintptr_t(arena) + 4095) / 4096 * 4096);
    int64_t size = arena + blocks * d->pages.block_bytes - whole;
    if (size > 4096) madvise(whole, size_t(size), MADV_HUGEPAGE);
#endif
    d->make_room();
}
void decoder_release(Decoder* d, int64_t first, int64_t last) { for (int64_t s = first; s < last; s++) d->pages.release(s); }
void decoder_move(Decoder* d, int64_t src, int64_t dst) { d->pages.move(src, dst); }
int64_t decoder_share(Decoder* d, int64_t src, int64_t dst, int64_t tokens) { return d->pages.share(src, dst, tokens) ? 0 : -1; }
int64_t decoder_free_blocks(Decoder* d) { return int64_t(d->pages.free_list.size()); }

// Sequences u = tokens starts[u] .. starts[u + 1] into slot slots[u] after its past[u] tokens; logits (units, vocab padded to 16) of the last
// ones. Returns -1, with nothing computed, where the arena has no block left.
int64_t decoder_feed(Decoder* d, const int64_t* tokens, const int64_t* starts, const int64_t* slots, const int64_t* past, int64_t count, float* logits, int64_t threads) {
    std::vector<int64_t> places(size_t(starts[count])), where(size_t(starts[count]));
    for (int64_t u = 0; u < count; u++) {
        if (!d->pages.grow(slots[u], past[u] + starts[u + 1] - starts[u])) return -1;
        for (int64_t i = starts[u]; i < starts[u + 1]; i++) { places[i] = past[u] + i - starts[u]; where[i] = slots[u]; }
    }
    d->step(tokens, places.data(), where.data(), starts, count, logits, nullptr, int(threads));
    return 0;
}
// One token after another of slots 0 .. count, until one has ended, a cache is full or `most` steps are done: the number of steps.
int64_t decoder_run(Decoder* d, int64_t count, int64_t most, Columns* c, int64_t threads) {
    std::vector<int64_t> starts(size_t(count + 1));
    std::iota(starts.begin(), starts.end(), 0);
    for (int64_t done = 0; done < most;) {
        for (int64_t s = 0; s < count; s++)
            if (!d->pages.grow(s, c->lengths[s] + 1)) return done;
        std::vector<int64_t> tokens(c->tokens, c->tokens + count), places(c->lengths, c->lengths + count);
        d->step(tokens.data(), places.data(), starts.data(), starts.data(), count, nullptr, c, int(threads));
        done++;
        for (int64_t s = 0; s < count; s++)
            if (c->ended[s]) return done;
    }
    return most;
}
// A fingerprint of arrays, to see whether weights have changed since they were packed. Every bit counts; not meant against malice.
uint64_t decoder_fingerprint(const uint8_t* const* data, const int64_t* bytes, int64_t count, int64_t threads) {
    typedef uint64_t q8 __attribute__((vector_size(64), aligned(1), may_alias));
    const int64_t piece = 1 << 16;
    std::vector<std::pair<const uint8_t*, int64_t>> pieces;
    for (int64_t i = 0; i < count; i++)
        for (int64_t at = 0; at < bytes[i]; at += piece) pieces.push_back({data[i] + at, std::min(piece, bytes[i] - at)});
    std::vector<uint64_t> sums(pieces.size());
#pragma omp parallel for schedule(dynamic, 4) num_threads(int(threads))
    for (size_t i = 0; i < pieces.size(); i++) {
        auto [p, n] = pieces[i];
        q8 h = q8{1, 2, 3, 4, 5, 6, 7, 8} + uint64_t(n);
        int64_t at = 0;
        for (; at + 64 <= n; at += 64) { h = (h ^ *(const q8*)(p + at)) * 0x9E3779B97F4A7C15ull; h ^= h >> 29; }
        for (; at < n; at++) { h[0] = (h[0] ^ p[at]) * 0x9E3779B97F4A7C15ull; h[0] ^= h[0] >> 29; }
        for (int l = 0; l < 8; l++) sums[i] = (sums[i] ^ h[l]) * 0xD6E8FEB86659FD93ull + (sums[i] >> 31);
    }
    uint64_t all = 0;
    for (uint64_t x : sums) all = ((all ^ x) * 0xD6E8FEB86659FD93ull) ^ (all >> 31);
    return all;
}
void decoder_draw(const float* logits, int64_t ld, int64_t n, int64_t v, const float* temperature, const int64_t* top_k, const float* top_p, const float* min_p,
                  const double* uniform, int64_t* tokens, float* logprobs) {
    std::vector<float> w(static_cast<size_t>(v));
    std::vector<double> pieces(size_t(v / PIECE + 1));
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; i++) {
        Draw got = draw(logits + i * ld, v, Cuts{temperature[i], top_k[i], top_p[i], min_p[i]}, uniform[i], w.data(), pieces.data(), ids);
        tokens[i] = got.token; logprobs[i] = got.logprob;
    }
}
}
