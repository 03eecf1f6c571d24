// The functions that Python calls: open and close a decoder, its cache, and its steps. The layers, the drafts and the steps themselves
// are in decoder_layers.h, decoder_drafts.h and decoder_steps.h.
#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "decoder_steps.h"

extern "C" {
const char* decoder_names() { return NAMES(LAYER_VECTORS) "; " NAMES(LAYER_MATRICES) "; " NAMES(SIZES) "; " NAMES(COLUMNS); }
// globals: embed, norm, head, cos, sin, then struct Mtp. layer_pointers: 20 a layer, as in struct Layer; the MTP module's come last.
void* decoder_open(const int64_t* sizes, const double* reals, const void* const* globals, const void* const* layer_pointers, int64_t most_rows, int64_t threads) {
    Sizes z;
    std::memcpy(&z, sizes, sizeof z);
    auto make = [&](auto* d) -> Decoder* {
        d->z = z;
        std::memcpy(&d->r, reals, sizeof d->r);
        d->embed = globals[0]; d->norm_out = (const float*)globals[1]; d->head = globals[2]; d->cos = (const float*)globals[3]; d->sin = (const float*)globals[4];
        std::memcpy(&d->mtp, globals + 5, sizeof d->mtp);
        d->layers.resize(size_t(z.layers + z.has_mtp()));
        std::memcpy(d->layers.data(), layer_pointers, d->layers.size() * sizeof(Layer));
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
int64_t decoder_block_bytes(Decoder* d) { return int64_t(d->layers.size()) * d->z.groups * d->group_bytes; }
void decoder_rope(Decoder* d, const float* cos, const float* sin) { d->cos = cos; d->sin = sin; }
void decoder_cache(Decoder* d, uint8_t* arena, int64_t blocks, int64_t slots, int64_t per_slot) {
    d->pages.open(arena, decoder_block_bytes(d), blocks, slots, per_slot);
#if defined(MADV_HUGEPAGE)  // blocks are read all over the arena: with small pages half the time goes into looking up addresses
    uint8_t* whole = (uint8_t*)((uintptr_t(arena) + 4095) / 4096 * 4096);
    int64_t size = arena + blocks * d->pages.block_bytes - whole;
    if (size > 4096) madvise(whole, size_t(size), MADV_HUGEPAGE);
#endif
    if (d->z.drafts) d->stories.resize(size_t(slots));
    d->make_room();
}
void decoder_release(Decoder* d, int64_t first, int64_t last) { for (int64_t s = first; s < last; s++) d->pages.release(s); }
void decoder_move(Decoder* d, int64_t src, int64_t dst) {
    d->pages.move(src, dst);
    if (d->z.drafts) std::swap(d->stories[src], d->stories[dst]);
}
int64_t decoder_share(Decoder* d, int64_t src, int64_t dst, int64_t tokens) {
    if (d->z.drafts) d->stories[dst] = d->stories[src];
    return d->pages.share(src, dst, tokens, d->z.has_mtp()) ? 0 : -1;  // the module's last position will differ
}
int64_t decoder_free_blocks(Decoder* d) { return int64_t(d->pages.free_list.size()); }

// Sequences u = tokens starts[u] .. starts[u + 1] into slot slots[u] after its past[u] tokens; logits (units, vocab padded to 16) of the last
// ones. Returns -1, with nothing computed, where the arena has no block left.
int64_t decoder_feed(Decoder* d, const int64_t* tokens, const int64_t* starts, const int64_t* slots, const int64_t* past, int64_t count, float* logits, int64_t threads) {
    std::vector<int64_t> places(size_t(starts[count])), where(size_t(starts[count]));
    for (int64_t u = 0; u < count; u++) {
        if (!d->pages.grow(slots[u], past[u] + starts[u + 1] - starts[u])) return -1;
        for (int64_t i = starts[u]; i < starts[u + 1]; i++) { places[i] = past[u] + i - starts[u]; where[i] = slots[u]; }
    }
    for (int64_t u = 0; u < count && d->z.drafts; u++) d->stories[slots[u]].tell(past[u], tokens + starts[u], starts[u + 1] - starts[u]);
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
// The same with drafts, at most `most_drafts` a slot and step, and none that the MTP module gives less than `least` chance: the number of
// steps. Adds to `counts` what was drafted and what of it was right.
int64_t decoder_speculate(Decoder* d, int64_t count, int64_t most, int64_t most_drafts, double least, Columns* c, int64_t* counts, int64_t threads) {
    int64_t done = 0;
    bool ended = false;
    most_drafts = std::min({most_drafts, Story::MOST, d->most_rows - 1});
    for (; done < most && !ended; done++) {
        for (int64_t s = 0; s < count; s++) {
            if (!d->pages.grow(s, c->lengths[s] + 1)) return done;
            int64_t wanted = std::min(most_drafts, c->budget[s] - c->steps[s] - 1);
            while (wanted > 0 && !d->pages.grow(s, c->lengths[s] + 1 + wanted)) wanted--;
            d->stories[s].room = wanted;
        }
        d->round(*c, count, most_drafts, least, int(threads));
        for (int64_t s = 0; s < count; s++) {
            Story& story = d->stories[s];
            ended |= c->ended[s];
            counts[0] += story.drafted; counts[1] += story.accepted;
            story.drafted = story.accepted = 0;
        }
    }
    return done;
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
