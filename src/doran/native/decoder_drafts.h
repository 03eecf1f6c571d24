// Guesses of what comes next in a slot: tokens that followed the same few tokens before (prompt lookup), or the MTP module's (DeepSeek-V3
// s2.2), which goes on from its own state for more than one. Not here: whether they are right (decoder_steps.h).
#pragma once
#include "decoder_layers.h"

template <class T, class C>
struct Drafting : Layers<T, C> {
    using Base = Layers<T, C>;
    using typename Base::Work;
    using typename Base::Own;
    using Base::z, Base::r, Base::mtp, Base::stories, Base::pages, Base::works, Base::norm_out, Base::most_rows;
    static const int64_t SHORTEST = 2, LONGEST = 3;  // tokens that must be alike for a draft from the text

    static Cuts cuts(const Columns& c, int64_t s) { return {c.temperature[s], c.top_k[s], c.top_p[s], c.min_p[s]}; }
    Work& behind(Work& w) { return works[size_t(&w - works.data()) + works.size() / 2]; }  // the module's, beside the layers'

    // ---- what the module has to see of a sequence: every cached position with the token that follows ----
    static void clear(Work& d) { d.tokens.clear(); d.places.clear(); d.slots.clear(); }
    float* list(Work& d, int64_t token, int64_t place, int64_t slot) {  // where the row's state goes
        d.tokens.push_back(token); d.places.push_back(place); d.slots.push_back(slot);
        return d.states[int64_t(d.tokens.size()) - 1];
    }
    void list_pending(Work& d, int64_t slot, int64_t past) {
        Story& story = stories[slot];
        for (int64_t i = 0, at = past - story.pending; i < story.pending; i++, at++)
            std::memcpy(list(d, story.ids[at + 1], at, slot), story.states.data() + i * z.hidden, size_t(z.hidden) * 4);
        story.pending = 0;
    }
    void keep_pending(Story& story, const float* h) {
        story.states.resize(size_t((story.pending + 1) * z.hidden));
        norm(h, norm_out, z.hidden, r.eps, story.states.data() + story.pending++ * z.hidden);
    }
    void look(Work& d, Own& o, Team& t) {  // the listed rows
        t.sync();
        if (!d.tokens.empty()) Base::look_ahead(d, o, t, int64_t(d.tokens.size()), [&](int64_t m) { return d.states[m]; });
        t.sync();
    }
    void catch_up(Work& d, Own& o, Team& t, const int64_t* slots, int64_t count) {  // before more tokens of these are fed
        for (int64_t u = 0, next; u < count; u = next) {
            int64_t rows = 0;
            for (next = u; next < count && (next == u || rows + stories[slots[next]].pending <= most_rows); next++) rows += stories[slots[next]].pending;
            t.sync();
            if (t.rank == 0) {
                clear(d);
                for (int64_t i = u; i < next; i++) list_pending(d, slots[i], stories[slots[i]].cached);
            }
            look(d, o, t);
        }
    }
    void show(Work& w, Own& o, Team& t, const int64_t* places, const int64_t* slots, int64_t M) {  // rows that have just passed the layers
        Work& d = behind(w);
        if (t.rank == 0) {
            clear(d);
            for (int64_t m = 0; m < M; m++) {
                Story& story = stories[slots[m]];
                size_t next = size_t(places[m]) + 1;
                story.cached = places[m] + 1;
                if (next == story.ids.size()) keep_pending(story, w.h[m]);
                else norm(w.h[m], norm_out, z.hidden, r.eps, list(d, story.ids[next], places[m], slots[m]));
            }
        }
        look(d, o, t);
    }

    // ---- drafts of slots s0 .. s1, at most story.room each ----
    static void recall(Story& story) {  // what stood behind the latest earlier place that ends alike, the longest likeness first
        const int64_t *ids = story.ids.data(), size = int64_t(story.ids.size());
        int64_t found = -1, best = SHORTEST - 1;
        for (int64_t end = size - 1; end > 0 && best < LONGEST; end--) {
            int64_t n = 0;
            while (n < LONGEST && n < end && ids[end - 1 - n] == ids[size - 1 - n]) n++;
            if (n > best) { best = n; found = end; }
        }
        for (int64_t i = found; found > 0 && i < size && story.num_drafts < story.room; i++) story.drafts[story.num_drafts++] = ids[i];
    }
    void foresee(Work& d, Own& o, Team& t, const Columns& c, int64_t s0, int64_t s1, double least) {
        if (t.rank == 0) {
            clear(d);
            for (int64_t s = s0; s < s1; s++) { list_pending(d, s, c.lengths[s]); stories[s].chance = 1.; }
        }
        look(d, o, t);
        for (int64_t depth = 0;; depth++) {
            if (t.rank == 0) select(d, depth);
            t.sync();
            int64_t rows = int64_t(d.slots.size());
            if (rows == 0) return;
            Base::predict(d, o, t, mtp.norm, rows);
            for (int64_t u = t.rank; u < rows; u += t.size) {  // with the uniform that the token's own draw will have: the likeliest to agree
                int64_t s = d.slots[u];
                Draw got = draw(d.logits[u], z.vocab, cuts(c, s), c.uniforms[s * c.width + c.steps[s] + depth], o.w.data(), o.pieces.data(), o.ids);
                stories[s].drafts[depth] = d.tokens[u] = got.token;
                stories[s].chance *= got.logprob == got.logprob ? std::exp(double(got.logprob)) : 0.;
                norm(d.h[u], mtp.norm, z.hidden, r.eps, d.states[u]);
            }
            t.sync();
            if (t.rank == 0) go_on(d, depth, least);
            look(d, o, t);
        }
    }
    // After a look: the last row of each slot that may have a draft at this depth, moved to the front.
    void select(Work& d, int64_t depth) {
        int64_t n = 0, rows = int64_t(d.slots.size());
        for (int64_t m = 0; m < rows; m++) {
            if (m + 1 < rows && d.slots[m + 1] == d.slots[m]) continue;
            if (stories[d.slots[m]].room <= depth) continue;
            if (n != m) { std::memcpy(d.h[n], d.h[m], size_t(d.h.ld) * 4); d.slots[n] = d.slots[m]; d.places[n] = d.places[m]; d.tokens[n] = d.tokens[m]; }
            n++;
        }
        d.slots.resize(size_t(n)); d.places.resize(size_t(n)); d.tokens.resize(size_t(n));
    }
    // After the draws at a depth: the likely ones are kept, and looked at for the next where there is room for one.
    void go_on(Work& d, int64_t depth, double least) {
        int64_t n = 0;
        for (int64_t u = 0; u < int64_t(d.slots.size()); u++) {
            Story& story = stories[d.slots[u]];
            if (story.chance < least) continue;
            story.num_drafts = depth + 1;
            if (story.room <= depth + 1) continue;
            if (n != u) { std::memcpy(d.states[n], d.states[u], size_t(d.states.ld) * 4); d.slots[n] = d.slots[u]; d.tokens[n] = d.tokens[u]; d.places[n] = d.places[u]; }
            d.places[n++]++;
        }
        d.slots.resize(size_t(n)); d.places.resize(size_t(n)); d.tokens.resize(size_t(n));
    }
    void propose(Work& w, Own& o, Team& t, const Columns& c, int64_t s0, int64_t s1, double least) {
        if (t.rank == 0)
            for (int64_t s = s0; s < s1; s++) { stories[s].tell(c.lengths[s], c.tokens + s, 1); stories[s].num_drafts = 0; }
        if (z.has_mtp()) return foresee(behind(w), o, t, c, s0, s1, least);
        if (t.rank == 0)
            for (int64_t s = s0; s < s1; s++) recall(stories[s]);
        t.sync();
    }
};
