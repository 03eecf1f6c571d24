// The steps of a native decoder: which rows pass through the layers, and what becomes of their logits. One is plain: sequences in, the
// last rows' logits or draws out. The other speculates: a few drafted tokens behind the last one of each slot, all checked at once. A
// token is drawn from the model's own logits, with the uniform of its place, whatever was drafted: drafts decide how fast a text comes,
// not what it says. engine/speculate.py is the reference.
#pragma once
#include "decoder_drafts.h"

template <class T, class C>
struct Typed : Drafting<T, C> {
    using Base = Drafting<T, C>;
    using typename Base::Work;
    using typename Base::Own;
    using Base::z, Base::stories, Base::works, Base::owns, Base::norm_out, Base::most_rows, Base::vocab_pad;

    // Few units: the team of all threads takes the tasks one by one and shares each matrix. Else each thread has tasks of its own.
    static bool together(int64_t units, int64_t rows, int threads) { return threads > 1 && (units < threads || rows <= 2 * threads); }
    template <class Run> void spread(const std::vector<int64_t>& tasks, bool as_team, int threads, Run run) {
        int64_t count = int64_t(tasks.size()) - 1;
        if (as_team) {
            std::atomic<int64_t> arrived{0};
#pragma omp parallel num_threads(threads)
            {
                Team t{omp_get_thread_num(), omp_get_num_threads(), &arrived};
                for (int64_t i = 0; i < count; i++) run(works[0], owns[t.rank], t, tasks[i], tasks[i + 1]);
            }
            return;
        }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < count; i++) {
            Team alone;
            run(works[omp_get_thread_num()], owns[omp_get_thread_num()], alone, tasks[i], tasks[i + 1]);
        }
    }
    // The next token of slot s from its logits; true where the slot has ended by it.
    bool take(Own& o, Columns& d, int64_t s, const float* logits) {
        int64_t n = d.steps[s]++, at = s * d.width + n;
        Draw got = draw(logits, z.vocab, Base::cuts(d, s), d.uniforms[at], o.w.data(), o.pieces.data(), o.ids);
        d.new_tokens[at] = d.tokens[s] = got.token;
        d.new_logprobs[at] = got.logprob;
        d.lengths[s]++;
        bool ended = n + 1 == d.budget[s];
        for (int64_t k = 0; k < d.num_stops; k++) ended |= got.token == d.stops[s * d.num_stops + k];
        d.ended[s] = ended;
        return ended;
    }

    // ---- the plain step ----
    struct Batch {
        const int64_t *tokens, *places, *slots, *starts, *units;  // units: the slot of each
        float* logits;
        Columns* draws;
    };
    void pass(Work& w, Own& o, Team& t, const Batch& b, int64_t u0, int64_t u1) {
        int64_t first = b.starts[u0], end = b.starts[u1];
        if (z.has_mtp()) Base::catch_up(Base::behind(w), o, t, b.units + u0, u1 - u0);
        for (int64_t at = first, n; at < end; at += n) {
            n = std::min(most_rows, end - at);
            Base::forward(w, o, t, b.tokens + at, b.places + at, b.slots + at, n);
            if (z.has_mtp()) Base::show(w, o, t, b.places + at, b.slots + at, n);
        }
        if (t.rank == 0) {
            int64_t held = first + (end - first - 1) / most_rows * most_rows;  // the rows that w.h still has
            for (int64_t u = u0; u < u1; u++) {
                int64_t from = b.starts[u + 1] - 1 - held;
                if (from != u - u0) std::memcpy(w.h[u - u0], w.h[from], size_t(w.h.ld) * 4);
            }
        }
        t.sync();
        Base::predict(w, o, t, norm_out, u1 - u0);
        for (int64_t u = u0 + t.rank; u < u1; u += t.size) {
            if (b.logits) std::memcpy(b.logits + u * vocab_pad, w.logits[u - u0], size_t(vocab_pad) * 4);
            if (b.draws) take(o, *b.draws, u, w.logits[u - u0]);
        }
        t.sync();
    }
    // Unit u is rows starts[u] .. starts[u + 1], one sequence in order; its last row's logits or draw are delivered as entry u.
    void step(const int64_t* tokens, const int64_t* places, const int64_t* slots, const int64_t* starts, int64_t count, float* logits, Columns* draws, int threads) override {
        bool as_team = together(count, starts[count], threads);
        int64_t share = as_team ? starts[count] : (starts[count] + threads - 1) / threads, pieces = (share + most_rows - 1) / most_rows;
        int64_t rows = std::max<int64_t>(1, (share + pieces - 1) / pieces);
        std::vector<int64_t> tasks{0};  // consecutive units of together about `rows` rows; a longer unit alone
        for (int64_t u = 0; u < count; u++)
            if (u + 1 == count || starts[u + 2] - starts[tasks.back()] > rows) tasks.push_back(u + 1);
        std::vector<int64_t> units;
        for (int64_t u = 0; u < count; u++) units.push_back(slots[starts[u]]);
        Batch batch{tokens, places, slots, starts, units.data(), logits, draws};
        spread(tasks, as_team, threads, [&](Work& w, Own& o, Team& t, int64_t u0, int64_t u1) { pass(w, o, t, batch, u0, u1); });
    }

    // ---- the speculating step ----
    void check(Work& w, Own& o, Team& t, Columns& c, int64_t s0, int64_t s1, double least) {
        Base::propose(w, o, t, c, s0, s1, least);
        if (t.rank == 0) {
            Base::clear(w);
            for (int64_t s = s0; s < s1; s++) {
                Story& story = stories[s];
                story.first_row = int64_t(w.tokens.size());
                for (int64_t i = 0; i <= story.num_drafts; i++) {
                    w.tokens.push_back(i == 0 ? c.tokens[s] : story.drafts[i - 1]);
                    w.places.push_back(c.lengths[s] + i);
                    w.slots.push_back(s);
                }
            }
        }
        t.sync();
        int64_t rows = int64_t(w.tokens.size());
        Base::forward(w, o, t, w.tokens.data(), w.places.data(), w.slots.data(), rows);
        Base::predict(w, o, t, norm_out, rows);
        for (int64_t s = s0 + t.rank; s < s1; s += t.size) {
            Story& story = stories[s];
            bool more = true;
            for (int64_t i = 0; more; i++) {
                bool ended = take(o, c, s, w.logits[story.first_row + i]);
                if (z.has_mtp()) Base::keep_pending(story, w.h[story.first_row + i]);
                more = i < story.num_drafts && story.drafts[i] == c.tokens[s];
                story.accepted += more;
                if (ended || !more) break;
                story.ids.push_back(c.tokens[s]);
            }
            story.cached = c.lengths[s];
            story.drafted += story.num_drafts;
        }
        t.sync();
    }
    // For slots 0 .. count one token, and as many more as were drafted (at most story.room) and turn out right.
    void round(Columns& c, int64_t count, int64_t most, double least, int threads) override {
        int64_t rows = most + 1, each = std::max<int64_t>(1, most_rows / rows);
        bool as_team = together(count, count, threads);
        if (!as_team) each = std::min(each, (count + threads - 1) / threads);
        std::vector<int64_t> tasks{0};
        while (tasks.back() < count) tasks.push_back(std::min(count, tasks.back() + each));
        spread(tasks, as_team, threads, [&](Work& w, Own& o, Team& t, int64_t s0, int64_t s1) { check(w, o, t, c, s0, s1, least); });
    }
};
