// Walks through a tree for all points of one leaf at once.
//
// Distances to boxes are computed by the same operations in the same order as scores, and rounding
// is monotone: a box's nearest distance is never above the score of a point in it, nor its farthest
// below, so that nothing is lost to rounding.
#pragma once

#include "knn_sweep.h"

namespace ncfast {
namespace NCFAST_ISA {

inline __attribute__((always_inline)) double unfused(double product) {
#if defined(__x86_64__)
    asm("" : "+x"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#endif
    return product;
}

// The joint score that the gaps of each column, gap(d), add up to.
template <bool Linf, class Gap>
inline __attribute__((always_inline)) double joint_score(const TreeView& tree, Gap gap) {
    double joint = 0;
    for (std::int64_t b = 0, d = 0; b < tree.num_blocks; ++b) {
        double score = 0;
        for (; d < tree.ends[b]; ++d) {
            const double width = gap(d);
            if constexpr (Linf) score = width > score ? width : score;
            else score += unfused(width * width);
        }
        joint = score > joint ? score : joint;
    }
    return joint;
}

inline __attribute__((always_inline)) double positive(double a, double b) {
    const double most = a > b ? a : b;
    return most > 0 ? most : 0;
}

// Least score between a point of one box (low, high) and one of a node.
template <bool Linf>
inline double nearest_score(const TreeView& tree, const double* low, const double* high,
                            std::int64_t node) {
    const double* from = tree.boxes + node * 2 * tree.dim;
    const double* to = from + tree.dim;
    return joint_score<Linf>(tree, [=](std::int64_t d) __attribute__((always_inline)) {
        return positive(from[d] - high[d], low[d] - to[d]);
    });
}

template <bool Linf>
inline double farthest_score(const TreeView& tree, const double* low, const double* high,
                             std::int64_t node) {
    const double* from = tree.boxes + node * 2 * tree.dim;
    const double* to = from + tree.dim;
    return joint_score<Linf>(tree, [=](std::int64_t d) __attribute__((always_inline)) {
        return positive(to[d] - low[d], high[d] - from[d]);
    });
}

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
inline void scan(const TreeView& tree, std::int64_t leaf, Seeker<double>& q) {
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

inline double widest(const Seeker<double>* queries, std::int64_t count) {
    double most = -1;
    for (std::int64_t i = 0; i < count; ++i)
        most = queries[i].threshold > most ? queries[i].threshold : most;
    return most;
}

constexpr int kDeepest = 64;

// Searches below `top` for queries that all lie in the box (low, high).
template <bool Linf>
inline void search_below(const TreeView& tree, std::int64_t top, const double* low,
                         const double* high, Seeker<double>* queries, std::int64_t count,
                         double& reach) {
    std::int64_t stack[kDeepest];
    int depth = 0;
    stack[depth++] = top;
    while (depth > 0) {
        const std::int64_t node = stack[--depth];
        if (nearest_score<Linf>(tree, low, high, node) > reach) continue;
        if (node < tree.leaves) {
            stack[depth++] = 2 * node + 1;
            stack[depth++] = 2 * node;
            continue;
        }
        for (std::int64_t i = 0; i < count; ++i)
            if (nearest_score<Linf>(tree, queries[i].at, queries[i].at, node) <=
                queries[i].threshold)
                scan<Linf>(tree, node - tree.leaves, queries[i]);
        reach = widest(queries, count);
    }
}

// The queries are the points of the leaf, in its order.
template <bool Linf>
void walk_nearest(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries) {
    const std::int64_t count = tree.start(leaf + 1) - tree.start(leaf);
    for (std::int64_t i = 0; i < count; ++i) scan<Linf>(tree, leaf, queries[i]);
    const double* low = tree.boxes + (tree.leaves + leaf) * 2 * tree.dim;
    double reach = widest(queries, count);
    for (std::int64_t node = tree.leaves + leaf; node > 1; node /= 2)
        search_below<Linf>(tree, node ^ 1, low, low + tree.dim, queries, count, reach);
}

template <bool Linf>
inline std::int64_t count_leaf(const TreeView& tree, std::int64_t leaf, const double* query,
                               double limit) {
    const std::int64_t node = tree.leaves + leaf;
    if (nearest_score<Linf>(tree, query, query, node) > limit) return 0;
    if (farthest_score<Linf>(tree, query, query, node) <= limit)
        return tree.start(leaf + 1) - tree.start(leaf);
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
    const std::int64_t number = tree.start(leaf + 1) - tree.start(leaf);
    const double* low = tree.boxes + (tree.leaves + leaf) * 2 * tree.dim;
    const double* high = low + tree.dim;
    double least = limits[0], most = limits[0];
    for (std::int64_t i = 1; i < number; ++i) {
        least = limits[i] < least ? limits[i] : least;
        most = limits[i] > most ? limits[i] : most;
    }
    std::int64_t stack[kDeepest];
    int depth = 0;
    stack[depth++] = 1;
    while (depth > 0) {
        const std::int64_t node = stack[--depth];
        if (nearest_score<Linf>(tree, low, high, node) > most) continue;
        if (farthest_score<Linf>(tree, low, high, node) <= least) {
            const std::int64_t all = rows_below(tree, node);
            for (std::int64_t i = 0; i < number; ++i) counts[i] += all;
        } else if (node < tree.leaves) {
            stack[depth++] = 2 * node + 1;
            stack[depth++] = 2 * node;
        } else {
            for (std::int64_t i = 0; i < number; ++i)
                counts[i] += count_leaf<Linf>(tree, node - tree.leaves, queries + i * tree.dim,
                                              limits[i]);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
