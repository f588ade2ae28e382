// A piece of the rows of a space, searched in float with a margin, then decided in double.
#pragma once

#include <cstdint>
#include <vector>

#include "neighbors/exact.h"
#include "neighbors/space.h"

namespace ncfast {

// The exact neighbours of one row, and which of them the joint estimators need.
struct Nearest {
    std::vector<Neighbor> best;  // ascending, at most k
    std::int64_t ties = 0;       // points no farther than the last of them
    bool second = false;         // found in double lanes
};

// The neighbours of some rows of the space.
std::vector<Nearest> nearest_of(const Space& space, const std::vector<std::int64_t>& ids,
                                std::int64_t k);

// What to count around one row: per block, points of a score up to `limits[block]`.
struct Ask {
    std::int64_t id;
    const double* limits;
    double joint;          // limit of the joint score, for ties; used in double lanes only
    std::int64_t* counts;  // per block
    std::int64_t* ties;    // null: not asked for
    bool wide;             // go to double lanes at once
};

void count_of(const Space& space, const std::vector<Ask>& asks);

}  // namespace ncfast
