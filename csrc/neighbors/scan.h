// Scans panels of points by direct differences from a few queries; one lane per point.
#pragma once

#include "core/simd.h"
#include "neighbors/search.h"

namespace ncfast {
namespace NCFAST_ISA {

// Comparisons, one bit per lane.
inline __attribute__((always_inline)) unsigned at_most(VecF a, VecF b) {
#if NCFAST_VECTOR_BYTES == 64
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
#elif NCFAST_VECTOR_BYTES == 32
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LE_OQ)));
#else
    unsigned bits = 0;
    for (int i = 0; i < kLanes<float>; ++i) bits |= static_cast<unsigned>(a[i] <= b[i]) << i;
    return bits;
#endif
}
inline __attribute__((always_inline)) unsigned at_most(VecD a, VecD b) {
#if NCFAST_VECTOR_BYTES == 64
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
#elif NCFAST_VECTOR_BYTES == 32
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LE_OQ)));
#else
    unsigned bits = 0;
    for (int i = 0; i < kLanes<double>; ++i) bits |= static_cast<unsigned>(a[i] <= b[i]) << i;
    return bits;
#endif
}
template <class V>
inline __attribute__((always_inline)) unsigned below(V a, V b) {
    return ((1u << (sizeof(V) / sizeof(a[0]))) - 1) & ~at_most(b, a);
}

typedef std::uint64_t VecQ __attribute__((vector_size(NCFAST_VECTOR_BYTES)));

inline __attribute__((always_inline)) VecF magnitude(VecF a) {
    return (VecF)((VecU)a & 0x7fffffffu);
}
inline __attribute__((always_inline)) VecD magnitude(VecD a) {
    return (VecD)((VecQ)a & 0x7fffffffffffffffull);
}

// The larger value of each lane. On x86 the instruction is named: gcc would compare and blend.
inline __attribute__((always_inline)) VecF larger(VecF a, VecF b) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecF)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecF)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
inline __attribute__((always_inline)) VecD larger(VecD a, VecD b) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecD)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecD)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return a > b ? a : b;
#endif
}

// Adds the term of one column to a score. In double the product is rounded before it is added, as
// in every engine.
template <bool Linf>
inline __attribute__((always_inline)) void add(VecF& score, VecF gap) {
    if constexpr (Linf) {
        score = larger(magnitude(gap), score);
    } else {
        score += gap * gap;
    }
}
template <bool Linf>
inline __attribute__((always_inline)) void add(VecD& score, VecD gap) {
    if constexpr (Linf) {
        score = larger(magnitude(gap), score);
    } else {
        score += pinned(gap * gap);
    }
}

// The scores of R queries in the columns first .. last of one panel. The coordinates of a query are
// Step apart.
template <bool Linf, int Step, int R, class C, class V>
inline __attribute__((always_inline)) void block_scores(const C* panel, const C* const (&at)[R],
                                                        std::int64_t first, std::int64_t last,
                                                        V (&score)[R][kPanelVectors]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < kPanelVectors; ++v) score[r][v] = V{};
    for (std::int64_t d = first; d < last; ++d) {
        V points[kPanelVectors];
        for (int v = 0; v < kPanelVectors; ++v)
            points[v] = load(panel + d * kPanel<C> + v * kLanes<C>);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kPanelVectors; ++v)
                add<Linf>(score[r][v], points[v] - at[r][d * Step]);
    }
}

// The joint scores of R queries in all columns of one panel.
template <bool Linf, int Step, int R, class C, class V>
inline __attribute__((always_inline)) void panel_scores(const Panels<C>& of, std::int64_t panel,
                                                        const C* const (&at)[R],
                                                        V (&score)[R][kPanelVectors]) {
    const C* data = of.data + panel * of.dim * kPanel<C>;
    block_scores<Linf, Step>(data, at, 0, of.ends[0], score);
    for (std::int64_t b = 1; b < of.num_blocks; ++b) {
        V other[R][kPanelVectors];
        block_scores<Linf, Step>(data, at, of.ends[b - 1], of.ends[b], other);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < kPanelVectors; ++v) score[r][v] = larger(score[r][v], other[r][v]);
    }
}

// The largest score in float of a point that may be as near as a point of `score`.
template <bool Linf>
inline float reach(float score, const Margin& m) {
    const double most = (score + m.absolute) / (1 - m.relative);
    const double far = Linf ? most + m.blur : __builtin_sqrt(most) + m.blur;
    const double bound = (Linf ? far : far * far) * (1 + m.relative) + m.absolute;
    return bound < 3e38 ? static_cast<float>(bound * (1 + 0x1p-22)) : FLT_MAX;
}

// Inserts a score into the ascending list of the best; returns its place.
template <class C>
inline int place(C* best, std::int32_t& found, std::int32_t k, C score) {
    int at = found < k ? found++ : k - 1;
    for (; at > 0 && best[at - 1] > score; --at) best[at] = best[at - 1];
    best[at] = score;
    return at;
}

// Drops the candidates that are no longer below the threshold.
inline void drop_candidates(Seeker<float>& q) {
    std::int32_t kept = 0;
    for (std::int32_t i = 0; i < q.held; ++i) {
        if (!(q.scores[i] < q.threshold)) continue;
        q.scores[kept] = q.scores[i];
        q.ids[kept++] = q.ids[i];
    }
    q.held = kept;
    q.overflow = kept > q.room - q.room / 4;
}

// Offers a point to a query.
template <bool Linf>
inline void take(Seeker<float>& q, float score, std::int32_t id) {
    if (id == q.self || !(score < q.threshold)) return;
    if (q.held == q.room) drop_candidates(q);
    if (q.overflow) {
        q.threshold = -1;
        return;
    }
    q.scores[q.held] = score;
    q.ids[q.held++] = id;
    if (q.found == q.k && score >= q.best[q.k - 1]) return;
    place(q.best, q.found, q.k, score);
    if (q.found == q.k) q.threshold = reach<Linf>(q.best[q.k - 1], q.margin);
}

// Points come in the order of their numbers, so the first of equal scores stays.
template <bool Linf>
inline void take(Seeker<double>& q, double score, std::int32_t id) {
    if (id == q.self || !(score < q.threshold)) return;
    const int last = q.found < q.k ? q.found : q.k - 1;
    const int at = place(q.best, q.found, q.k, score);
    for (int i = last; i > at; --i) q.ids[i] = q.ids[i - 1];
    q.ids[at] = id;
    if (q.found == q.k) q.threshold = q.best[q.k - 1];
}

template <bool Linf, class C>
inline __attribute__((noinline)) void take_lanes(Seeker<C>& q, Vec<C> score, unsigned bits,
                                                 std::int64_t id) {
    C lanes[kLanes<C>];
    store(lanes, score);
    for (; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        take<Linf>(q, lanes[lane], static_cast<std::int32_t>(id + lane));
    }
}

template <bool Linf, int R, class C>
inline void seek_some(const Panels<C>& panels, Seeker<C>* queries) {
    using V = Vec<C>;
    const C* at[R];
    for (int r = 0; r < R; ++r) at[r] = queries[r].at;
    for (std::int64_t p = 0; p < panels.count; ++p) {
        V score[R][kPanelVectors];
        panel_scores<Linf, 1>(panels, p, at, score);
        const std::int64_t id = panels.first + p * kPanel<C>;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kPanelVectors; ++v) {
                const unsigned bits = below(score[r][v], V{} + queries[r].threshold);
                if (__builtin_expect(bits != 0, 0))
                    take_lanes<Linf>(queries[r], score[r][v], bits, id + v * kLanes<C>);
            }
    }
}

constexpr int kQueries = 4;

template <class C, bool Linf>
void seek(const Panels<C>& panels, Seeker<C>* queries, std::int64_t count) {
    std::int64_t q = 0;
    for (; q + kQueries <= count; q += kQueries) seek_some<Linf, kQueries>(panels, queries + q);
    for (; q < count; ++q) seek_some<Linf, 1>(panels, queries + q);
}

// ---- all points seek one another ----

// Queries at once, neighbors in one panel: their scores take half of the registers.
constexpr int kPeers = NCFAST_VECTOR_BYTES == 64 ? 8 : 4;

// Offers the points id, id + 1, .. to a query, and the query to them unless both are in one panel:
// then each pair comes twice.
template <bool Linf>
__attribute__((noinline)) void take_both(const Peers& peers, VecF score, std::int64_t query,
                                         std::int64_t id, bool one_panel) {
    float lanes[kLanes<float>];
    store(lanes, score);
    const auto offer = [&](std::int64_t to, int lane, std::int64_t point) {
        take<Linf>(peers.seekers[to], lanes[lane], static_cast<std::int32_t>(point));
        peers.thresholds[to] = peers.seekers[to].threshold;
    };
    unsigned for_query = below(score, VecF{} + peers.thresholds[query]);
    unsigned for_points = one_panel ? 0 : below(score, load(peers.thresholds + id));
    for (; for_query != 0; for_query &= for_query - 1) {
        const int lane = __builtin_ctz(for_query);
        offer(query, lane, id + lane);
    }
    for (; for_points != 0; for_points &= for_points - 1) {
        const int lane = __builtin_ctz(for_points);
        offer(id + lane, lane, query);
    }
}

// Offers the points of `left` and `right` to each other. A panel of `left` meets those of `right`
// from its own number on.
template <bool Linf>
void seek_peers(const Panels<float>& left, const Panels<float>& right, const Peers& peers) {
    constexpr int R = kPeers, kWidth = kPanel<float>;
    for (std::int64_t at_left = 0; at_left < left.count * kWidth; at_left += R) {
        const std::int64_t query = left.first + at_left, panel = query / kWidth * kWidth;
        const float* at[R];
        for (int r = 0; r < R; ++r)
            at[r] = left.data + at_left / kWidth * kWidth * left.dim + at_left % kWidth + r;
        for (std::int64_t p = 0; p < right.count; ++p) {
            const std::int64_t id = right.first + p * kWidth;
            if (id < panel) continue;
            VecF score[R][kPanelVectors];
            panel_scores<Linf, kWidth>(right, p, at, score);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kPanelVectors; ++v) {
                    const std::int64_t first = id + v * kLanes<float>;
                    const VecF most = larger(load(peers.thresholds + first),
                                             VecF{} + peers.thresholds[query + r]);
                    if (__builtin_expect(below(score[r][v], most) != 0, 0))
                        take_both<Linf>(peers, score[r][v], query + r, first, id == panel);
                }
        }
    }
}

// ---- counts ----

// Stores the points that the scores in float leave open.
inline __attribute__((noinline)) void hold(Counter<float>& q, unsigned bits, std::int64_t id,
                                           std::int64_t block) {
    for (; bits != 0; bits &= bits - 1) {
        if (q.held == q.room) {
            q.overflow = true;
            return;
        }
        q.ids[q.held] = static_cast<std::int32_t>(id + __builtin_ctz(bits));
        q.blocks[q.held++] = static_cast<std::int32_t>(block);
    }
}

inline __attribute__((always_inline)) void count_block(Counter<float>& q, VecF score, std::int64_t id,
                                                       std::int64_t block) {
    const unsigned maybe = at_most(score, VecF{} + q.maybe[block]);
    const unsigned inside = at_most(score, VecF{} + q.inside[block]);
    q.counts[block] += __builtin_popcount(inside);
    if (__builtin_expect(maybe != inside, 0)) hold(q, maybe & ~inside, id, block);
}
inline __attribute__((always_inline)) void count_block(Counter<double>& q, VecD score, std::int64_t,
                                                       std::int64_t block) {
    q.counts[block] += __builtin_popcount(at_most(score, VecD{} + q.inside[block]));
}
inline __attribute__((always_inline)) void count_joint(Counter<float>&, VecF) {}
inline __attribute__((always_inline)) void count_joint(Counter<double>& q, VecD joint) {
    q.ties += __builtin_popcount(at_most(joint, VecD{} + q.together));
}

template <bool Linf, int R, class C>
inline void count_some(const Panels<C>& panels, Counter<C>* queries) {
    using V = Vec<C>;
    const C* at[R];
    for (int r = 0; r < R; ++r) at[r] = queries[r].at;
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const C* panel = panels.data + p * panels.dim * kPanel<C>;
        const std::int64_t id = panels.first + p * kPanel<C>;
        V joint[R][kPanelVectors] = {};
        for (std::int64_t b = 0, first = 0; b < panels.num_blocks; first = panels.ends[b++]) {
            V score[R][kPanelVectors];
            block_scores<Linf, 1>(panel, at, first, panels.ends[b], score);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kPanelVectors; ++v) {
                    count_block(queries[r], score[r][v], id + v * kLanes<C>, b);
                    joint[r][v] = larger(joint[r][v], score[r][v]);
                }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < kPanelVectors; ++v) count_joint(queries[r], joint[r][v]);
    }
}

template <class C, bool Linf>
void count(const Panels<C>& panels, Counter<C>* queries, std::int64_t number) {
    std::int64_t q = 0;
    for (; q + kQueries <= number; q += kQueries) count_some<Linf, kQueries>(panels, queries + q);
    for (; q < number; ++q) count_some<Linf, 1>(panels, queries + q);
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
