// The layers of a native decoder over rows: attention, feed-forward, embedding, head and the MTP module's way in. doran/layers has the
// equations and is the reference. The residual stream, norms, softmax and router are fp32; T is the number type of weights and of what
// they multiply, C that of the cache. A row's result depends on its own past only, bit for bit, not on its neighbours or on threads.
// Not here: which rows, and what becomes of their logits (decoder_steps.h).
#pragma once
#include "decoder.h"

template <class T, class C>
struct Layers : Decoder {
    using unit = typename Dot<C>::unit;
    struct Work {  // of one set of rows; a team shares it
        Rows<float> h, qkv, q, logits, states;
        Rows<T> low, nope, latent_t, o, act, expert_act, joined;
        Rows<C> query;
        std::vector<int64_t> tokens, places, slots;  // of the rows, where a step makes its own
    };
    struct Own {  // of one thread
        Rows<T> x, picked;
        Rows<float> wide, routed, biased, score;
        Rows<C> query;
        std::vector<const C*> blocks, next_blocks;
        std::vector<int64_t> chosen, kept, row_of, begin, next;
        std::vector<float> chosen_weight, weight_of, w, embedding;
        std::vector<int32_t> ids;
        std::vector<double> pieces;
        Rounded rounded;
    };
    std::vector<Work> works;
    std::vector<Own> owns;

    void open(int threads) {
        int64_t M = most_rows, heads = z.heads, wide = z.mla ? z.heads * (z.nope + z.rope) : (z.heads + 2 * z.groups) * z.rope;
        works.resize(size_t(z.has_mtp() ? 2 * threads : threads)); owns.resize(size_t(threads));  // those of the MTP module come second
        for (auto& w : works) {
            w.states.open(z.has_mtp() ? M : 0, z.hidden); w.joined.open(z.has_mtp() ? M : 0, 2 * z.hidden);
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
            o.w.resize(size_t(z.vocab)); o.embedding.resize(size_t(pad16(z.hidden))); o.pieces.resize(size_t(z.vocab / PIECE + 1));
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

    // ---- the way in and the way out ----
    void embed_row(int64_t token, float* to) {
        if (z.embed_kind) unpack_row(z.embed_kind - 1, (const uint8_t*)embed, z.hidden, token, to);
        else for (int64_t i = 0; i < z.hidden; i++) to[i] = load((const T*)embed, token * z.hidden + i);
    }
    void forward(Work& w, Own& o, Team& t, const int64_t* tokens, const int64_t* places, const int64_t* slots, int64_t M) {
        if (t.rank == 0)
            for (int64_t m = 0; m < M; m++) embed_row(tokens[m], w.h[m]);
        t.sync();
        for (int64_t layer = 0; layer < z.layers; layer++) {
            attention(w, o, t, layer, places, slots, M);
            feed_forward(w, o, t, layers[layer], M);
        }
    }
    void predict(Work& w, Own& o, Team& t, const float* weight, int64_t M) {  // logits of the M rows in w.h, after the norm `weight`
        norms(w, o, weight, M);
        int64_t P = vocab_pad / 16;
        product(z.head_kind, o.rounded, o.x[0], o.x.ld, M, head, z.hidden, t.from(P), t.to(P), into(w.logits, nullptr));
        t.sync();
    }
    // The MTP module (DeepSeek-V3 s2.2): w.tokens follow the positions w.places, whose states are rows of `state_of`; its own into w.h.
    template <class StateOf> void look_ahead(Work& w, Own& o, Team& t, int64_t M, StateOf state_of) {
        for (int64_t m = t.rank; m < M; m += t.size) {
            embed_row(w.tokens[m], o.embedding.data());
            norm(o.embedding.data(), mtp.enorm, z.hidden, r.eps, w.joined[m]);
            norm(state_of(m), mtp.hnorm, z.hidden, r.eps, w.joined[m] + z.hidden);
        }
        t.sync();
        int64_t P = pad16(z.hidden) / 16;
        product(z.eh_kind, o.rounded, w.joined[0], w.joined.ld, M, mtp.eh, 2 * z.hidden, t.from(P), t.to(P), into(w.h, nullptr));
        t.sync();
        attention(w, o, t, z.layers, w.places.data(), w.slots.data(), M);
        feed_forward(w, o, t, layers[z.layers], M);
    }
};
