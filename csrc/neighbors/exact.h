// Scores and distances in double, with the same bits in every engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ncfast {

// Prevents the compiler from fusing a product into the sum that follows.
inline double rounded(double product) {
#if defined(__x86_64__)
    asm("" : "+x"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#else
    volatile double kept = product;
    product = kept;
#endif
    return product;
}

// The score of two rows in the columns first .. last.
inline double exact_score(const double* a, const double* b, std::int64_t first, std::int64_t last,
                          bool linf) {
    double score = 0;
    if (linf) {
        for (std::int64_t d = first; d < last; ++d) score = std::max(score, std::fabs(a[d] - b[d]));
    } else {
        for (std::int64_t d = first; d < last; ++d) {
            const double gap = a[d] - b[d];
            score += rounded(gap * gap);
        }
    }
    return score;
}

// The joint scores of a row and kTogether others. Their sums do not wait for one another, as the
// terms of one sum do.
constexpr int kTogether = 4;

inline void exact_joints(const double* a, const double* const (&b)[kTogether],
                         const std::int64_t* ends, std::int64_t num_blocks, bool linf,
                         double (&joint)[kTogether]) {
    for (double& each : joint) each = 0;
    for (std::int64_t block = 0, d = 0; block < num_blocks; ++block) {
        double score[kTogether] = {};
        for (; d < ends[block]; ++d)
            for (int i = 0; i < kTogether; ++i) {
                const double gap = a[d] - b[i][d];
                score[i] = linf ? std::max(score[i], std::fabs(gap)) : score[i] + rounded(gap * gap);
            }
        for (int i = 0; i < kTogether; ++i) joint[i] = std::max(joint[i], score[i]);
    }
}

// A coordinate that can be sorted: another thread may have written a NaN since the check.
inline double ordered(double value) { return value == value ? value : 0; }

inline double distance_of(double score, bool linf) { return linf ? score : std::sqrt(score); }

// The largest score whose distance is at most `radius`, or below it if strict; negative if none is.
inline double score_limit(double radius, bool strict, bool linf) {
    constexpr double kInf = std::numeric_limits<double>::infinity();
    if (!(radius >= 0) || (strict && radius == 0)) return -1;
    if (std::isinf(radius)) return kInf;
    if (linf) return strict ? std::nextafter(radius, -kInf) : radius;
    const auto inside = [&](double score) {
        return strict ? std::sqrt(score) < radius : std::sqrt(score) <= radius;
    };
    double score = radius * radius;
    while (!inside(score)) score = std::nextafter(score, -kInf);
    for (double next = score; inside(next); next = std::nextafter(next, kInf)) score = next;
    return score;
}

// Neighbors are ordered by score, then by number.
struct Neighbor {
    double score;
    std::int64_t id;

    friend bool operator<(const Neighbor& a, const Neighbor& b) {
        return a.score < b.score || (a.score == b.score && a.id < b.id);
    }
};

}  // namespace ncfast
