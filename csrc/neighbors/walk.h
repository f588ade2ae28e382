// Walks through a tree for all points of one leaf at once, lanes over these points.
//
// Distances to boxes are computed by the same operations in the same order as scores, and rounding
// is monotone: a box's nearest distance is never above the score of a point in it, nor its farthest
// below, so that nothing is lost to rounding.
#pragma once

#include "neighbors/scan.h"

namespace ncfast {
namespace NCFAST_ISA {

// Points come in any order: of equal scores the lower number wins.
inline void take_any(Seeker<double>& q, double score, std::int32_t id) {
    if (id == q.self || score > q.threshold) return;
    if (q.found == q.k && score == q.best[q.k - 1] && id > q.ids[q.k - 1]) return;
    int at = q.found < q.k ? q.found++ : q.k - 1;
    for (; at > 0; --at) {
        const double other = q.best[at - 1];
        if (other < score || (other == score && q.ids[at - 1] < id)) break;
        q.best[at] = other;
        q.ids[at] = q.ids[at - 1];
    }
    q.best[at] = score;
    q.ids[at] = id;
    if (q.found == q.k) q.threshold = q.best[q.k - 1];
}

// Joint scores of one query against one panel.
template <bool Linf>
inline __attribute__((always_inline)) void panel_scores(const TreeView& tree, const double* panel,
                                                        const double* query,
                                                        VecD (&score)[1][kPanelVectors]) {
    const double* const at[1] = {query};
    block_scores<Linf, 1>(panel, at, 0, tree.ends[0], score);
    for (std::int64_t b = 1; b < tree.num_blocks; ++b) {
        VecD other[1][kPanelVectors];
        block_scores<Linf, 1>(panel, at, tree.ends[b - 1], tree.ends[b], other);
        for (int v = 0; v < kPanelVectors; ++v) score[0][v] = larger(score[0][v], other[0][v]);
    }
}

template <bool Linf>
inline void scan_leaf(const TreeView& tree, std::int64_t leaf, Seeker<double>& q) {
    for (std::int64_t p = 0; p < tree.panels_per_leaf; ++p) {
        const std::int64_t panel = leaf * tree.panels_per_leaf + p;
        VecD score[1][kPanelVectors];
        panel_scores<Linf>(tree, tree.panels + panel * tree.dim * kPanel<double>, q.at, score);
        for (int v = 0; v < kPanelVectors; ++v) {
            unsigned bits = at_most(score[0][v], VecD{} + q.threshold);
            if (bits == 0) continue;
            double lanes[kLanes<double>];
            store(lanes, score[0][v]);
            const std::int32_t* ids = tree.ids + panel * kPanel<double> + v * kLanes<double>;
            for (; bits != 0; bits &= bits - 1) {
                const int lane = __builtin_ctz(bits);
                take_any(q, lanes[lane], ids[lane]);
            }
        }
    }
}

constexpr int kDeepest = 64;

// Which points of a leaf, a bit for each, have a score up to their limit from gaps to a box, whose
// column d is gap(d, coordinates of the points); and which have one from their limit on.
struct Against {
    unsigned within = 0, beyond = 0;
};

template <bool Linf, class Gap>
inline __attribute__((always_inline)) Against against_limits(const TreeView& tree,
                                                             std::int64_t leaf,
                                                             const double* limits, Gap gap) {
    Against bits;
    for (std::int64_t p = 0; p < tree.panels_per_leaf; ++p) {
        const double* points =
            tree.panels + (leaf * tree.panels_per_leaf + p) * tree.dim * kPanel<double>;
        VecD joint[kPanelVectors] = {};
        for (std::int64_t b = 0, d = 0; b < tree.num_blocks; ++b) {
            VecD score[kPanelVectors] = {};
            for (; d < tree.ends[b]; ++d)
                for (int v = 0; v < kPanelVectors; ++v)
                    add<Linf>(score[v], gap(d, load(points + d * kPanel<double> +
                                                    v * kLanes<double>)));
            for (int v = 0; v < kPanelVectors; ++v) joint[v] = larger(joint[v], score[v]);
        }
        for (int v = 0; v < kPanelVectors; ++v) {
            const std::int64_t lane = p * kPanel<double> + v * kLanes<double>;
            const VecD limit = load(limits + lane);
            bits.within |= at_most(joint[v], limit) << lane;
            bits.beyond |= at_most(limit, joint[v]) << lane;
        }
    }
    return bits;
}

// Of the nearest place in a node's box, or of the farthest one.
template <bool Linf, bool Farthest>
inline __attribute__((always_inline)) Against against_box(const TreeView& tree, std::int64_t leaf,
                                                          const double* limits, std::int64_t node) {
    const double* low = tree.boxes + node * 2 * tree.dim;
    const double* high = low + tree.dim;
    return against_limits<Linf>(
        tree, leaf, limits, [=](std::int64_t d, VecD x) __attribute__((always_inline)) {
            if constexpr (Farthest) return larger(high[d] - x, x - low[d]);
            else return larger(larger(low[d] - x, x - high[d]), VecD{});
        });
}

// Which of the numbers are below another one, a bit for each.
inline unsigned numbers_below(const std::int32_t* numbers, std::int32_t other) {
#if NCFAST_VECTOR_BYTES == 64
    return _mm512_cmplt_epi32_mask(_mm512_loadu_si512(numbers), _mm512_set1_epi32(other));
#elif NCFAST_VECTOR_BYTES == 32
    unsigned bits = 0;
    for (int i = 0; i < kLeafRows; i += 8) {
        const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers + i));
        const __m256i less = _mm256_cmpgt_epi32(_mm256_set1_epi32(other), eight);
        bits |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(less))) << i;
    }
    return bits;
#else
    unsigned bits = 0;
    for (int i = 0; i < kLeafRows; ++i) bits |= static_cast<unsigned>(numbers[i] < other) << i;
    return bits;
#endif
}

// A box at exactly the threshold of a query
// matters only if it holds a number below that of the query's last neighbour: without this rule a
// search among repeated points would visit all of them.
template <bool Linf, bool Repeats>
void walk_outwards(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries) {
    const std::int64_t count = tree.start(leaf + 1) - tree.start(leaf);
    alignas(64) double limits[kLeafRows];
    alignas(64) std::int32_t last[kLeafRows];  // number of the last neighbour
    for (double& limit : limits) limit = -1;
    for (std::int32_t& number : last) number = INT32_MAX;
    const auto look = [&](std::int64_t i, std::int64_t other) {
        const Seeker<double>& q = queries[i];
        scan_leaf<Linf>(tree, other, queries[i]);
        limits[i] = q.threshold;
        if (Repeats && q.found == q.k) last[i] = q.ids[q.k - 1];
    };
    for (std::int64_t i = 0; i < count; ++i) look(i, leaf);
    std::int64_t stack[kDeepest];
    for (std::int64_t side = tree.leaves + leaf; side > 1; side /= 2) {
        int depth = 0;
        stack[depth++] = side ^ 1;
        while (depth > 0) {
            const std::int64_t node = stack[--depth];
            const Against box = against_box<Linf, false>(tree, leaf, limits, node);
            unsigned bits = box.within;
            if constexpr (Repeats) bits &= ~(box.beyond & numbers_below(last, tree.first[node]));
            if (node >= tree.leaves) {
                for (; bits != 0; bits &= bits - 1) look(__builtin_ctz(bits), node - tree.leaves);
            } else if (bits != 0) {
                stack[depth++] = 2 * node + 1;
                stack[depth++] = 2 * node;
            }
        }
    }
}

// The queries are the points of the leaf, in its order.
template <bool Linf>
void walk_nearest(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries) {
    if (tree.first == nullptr) walk_outwards<Linf, false>(tree, leaf, queries);
    else walk_outwards<Linf, true>(tree, leaf, queries);
}

template <bool Linf>
inline std::int64_t count_leaf(const TreeView& tree, std::int64_t leaf, const double* query,
                               double limit) {
    std::int64_t inside = 0;
    for (std::int64_t p = 0; p < tree.panels_per_leaf; ++p) {
        const std::int64_t panel = leaf * tree.panels_per_leaf + p;
        VecD score[1][kPanelVectors];
        panel_scores<Linf>(tree, tree.panels + panel * tree.dim * kPanel<double>, query, score);
        for (int v = 0; v < kPanelVectors; ++v)
            inside += __builtin_popcount(at_most(score[0][v], VecD{} + limit));
    }
    return inside;
}

inline std::int64_t rows_below(const TreeView& tree, std::int64_t node) {
    std::int64_t first = node, last = node + 1;
    while (first < tree.leaves) {
        first *= 2;
        last *= 2;
    }
    return tree.start(last - tree.leaves) - tree.start(first - tree.leaves);
}

// Adds, for each point of the leaf, the points of a joint score up to its limit, itself included;
// `queries` are the points' coordinates. Limits are finite.
template <bool Linf>
void walk_count(const TreeView& tree, std::int64_t leaf, const double* queries,
                const double* limits, std::int64_t* counts) {
    struct Open {
        std::int64_t node;
        unsigned queries;  // that neither miss its parent nor have it within their limit
    };
    alignas(64) double own[kLeafRows];
    for (double& limit : own) limit = -1;
    std::memcpy(own, limits, sizeof(double) * (tree.start(leaf + 1) - tree.start(leaf)));
    Open stack[kDeepest];
    int depth = 0;
    stack[depth++] = {1, ~0u};
    while (depth > 0) {
        const std::int64_t node = stack[--depth].node;
        unsigned bits =
            stack[depth].queries & against_box<Linf, false>(tree, leaf, own, node).within;
        if (bits == 0) continue;
        const unsigned all = bits & against_box<Linf, true>(tree, leaf, own, node).within;
        for (unsigned left = all; left != 0; left &= left - 1)
            counts[__builtin_ctz(left)] += rows_below(tree, node);
        bits &= ~all;
        if (node >= tree.leaves) {
            for (; bits != 0; bits &= bits - 1) {
                const int i = __builtin_ctz(bits);
                counts[i] += count_leaf<Linf>(tree, node - tree.leaves, queries + i * tree.dim,
                                              limits[i]);
            }
        } else if (bits != 0) {
            stack[depth++] = {2 * node + 1, bits};
            stack[depth++] = {2 * node, bits};
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
