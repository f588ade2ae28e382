// Walks through a tree for all points of one leaf at once; one lane per point.
//
// The score from a point to a box is computed by the same operations in the same order as the score
// of two points, and rounding is monotone. The score to the nearest place of a box is therefore
// never above that of a point in it, and the score to the farthest place never below. Rounding
// loses no point.
#pragma once

#include "neighbors/scan.h"

namespace ncfast {
namespace NCFAST_ISA {

// Offers a point to a query. Points come in any order, so the lower number wins among equal scores.
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

// The joint scores of one query and one panel.
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

// Offers the points of a leaf to one query.
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

// Compares the scores of the points of a leaf with their limits, one bit per point: scores at or
// below the limit, and scores at or above it. Column d of a score comes from gap(d, coordinates).
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

// Compares the scores to the nearest or the farthest place of a node's box with the limits.
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

// Compares numbers with another number, one bit each: those below it.
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

// Searches the neighbors of all points of a leaf, from the leaf outwards. A box at exactly the
// threshold of a query is visited only if it holds a number below that of the query's last
// neighbor. Without this rule a search among repeated points would visit all of them.
template <bool Linf, bool Repeats>
void walk_outwards(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries) {
    const std::int64_t count = tree.start(leaf + 1) - tree.start(leaf);
    alignas(64) double limits[kLeafRows];
    alignas(64) std::int32_t last[kLeafRows];  // number of the last neighbor of each query
    for (double& limit : limits) limit = -1;
    for (std::int32_t& number : last) number = INT32_MAX;
    const auto visit = [&](std::int64_t i, std::int64_t other) {
        const Seeker<double>& q = queries[i];
        scan_leaf<Linf>(tree, other, queries[i]);
        limits[i] = q.threshold;
        if (Repeats && q.found == q.k) last[i] = q.ids[q.k - 1];
    };
    for (std::int64_t i = 0; i < count; ++i) visit(i, leaf);
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
                for (; bits != 0; bits &= bits - 1) visit(__builtin_ctz(bits), node - tree.leaves);
            } else if (bits != 0) {
                stack[depth++] = 2 * node + 1;
                stack[depth++] = 2 * node;
            }
        }
    }
}

// Searches the neighbors of the points of a leaf; the queries are these points in order.
template <bool Linf>
void walk_nearest(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries) {
    if (tree.first == nullptr) walk_outwards<Linf, false>(tree, leaf, queries);
    else walk_outwards<Linf, true>(tree, leaf, queries);
}

// The number of points of a leaf with a joint score up to `limit`.
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

// The number of points below a node.
inline std::int64_t rows_below(const TreeView& tree, std::int64_t node) {
    std::int64_t first = node, last = node + 1;
    while (first < tree.leaves) {
        first *= 2;
        last *= 2;
    }
    return tree.start(last - tree.leaves) - tree.start(first - tree.leaves);
}

// Counts, for each point of the leaf, the points with a joint score up to its limit, itself
// included. `queries` are the coordinates of the points. Limits are finite.
template <bool Linf>
void walk_count(const TreeView& tree, std::int64_t leaf, const double* queries,
                const double* limits, std::int64_t* counts) {
    struct Open {
        std::int64_t node;
        unsigned queries;  // whose limit cuts the box of its parent
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
