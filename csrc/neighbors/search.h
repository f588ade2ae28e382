// Exact nearest neighbours and range counts of a set of rows among themselves.
//
// A score is a squared Euclidean distance, summed over the columns in their order in double with
// no product fused into a sum, or a maximum of absolute differences. Over several blocks of
// columns it is the largest of the blocks' scores.
#pragma once

#include <cstdint>

namespace ncfast {

// Row-major rows, sorted by group; only rows of the same group see each other.
struct PointSet {
    const double* data;
    std::int64_t dim;
    const std::int64_t* ends;     // column after each block of columns; the last is dim
    std::int64_t num_blocks;
    const std::int64_t* offsets;  // num_groups + 1 row numbers
    std::int64_t num_groups;
    bool linf;

    std::int64_t rows() const { return offsets[num_groups]; }
};

// Of each row's k neighbours, nearest first, equal ones by number; unfound: infinity and -1.
struct NearestOut {
    double* distances;       // (rows, k)
    std::int64_t* ids;       // (rows, k) row numbers
    std::int64_t second;     // rows that had to be searched again in double
};

struct JointOut {
    double* radii;           // (rows)
    std::int64_t* counts;    // (num_blocks, rows)
    double* extents;         // (num_blocks, rows)
    std::int64_t* ties;      // (rows)
};

// By panels of points and direct differences: any dimension.
void nearest_direct(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_direct(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                  int threads);
void count_direct(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                  int threads);

// Of some rows only, all of one group; out holds `number` rows.
void nearest_of_rows(const PointSet& points, const std::int64_t* rows, std::int64_t number,
                     std::int64_t k, NearestOut& out, int threads);
// Scores between each row and the `per_row` rows named for it.
void scores_of(const PointSet& points, const std::int64_t* ids, std::int64_t per_row,
               double* scores, int threads);

// By a tree over the points: low dimension.
void nearest_tree(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_tree(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                int threads);
void count_tree(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                int threads);

}  // namespace ncfast
