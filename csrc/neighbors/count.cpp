#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "neighbors/queries.h"

namespace ncfast {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

float downwards(double value) {
    if (!(value >= 0)) return -1;
    const double most = std::min(value * (1 - 0x1p-22), 3e38);
    return static_cast<float>(most);
}
float upwards(double value) { return static_cast<float>(std::min(value * (1 + 0x1p-22), 3e38)); }

// The scores in float that are surely within a limit, and those beyond which none is.
void float_limits(double limit, bool linf, double scale, const Margin& m, float& inside,
                  float& maybe) {
    if (limit < 0 || limit == kInf) {
        inside = maybe = -1;  // nothing to look at
        return;
    }
    const double radius = (linf ? limit : std::sqrt(limit)) * scale, blur = m.blur / 2;
    const double least = std::max(radius - blur, 0.0), most = radius + blur;
    const double low = linf ? least : least * least, high = linf ? most : most * most;
    inside = radius > blur ? downwards(low * (1 - m.relative) - m.absolute) : -1;
    maybe = upwards(high * (1 + m.relative) + m.absolute);
}

// The row itself, at score zero, was counted where `inside` admits it.
template <class C>
void leave_out_self(const Space& space, const Ask& ask, const C* inside) {
    for (std::int64_t b = 0; b < space.points().num_blocks; ++b) {
        if (ask.limits[b] == kInf) ask.counts[b] = space.rows() - 1;
        else if (inside[b] >= 0) --ask.counts[b];
    }
}

void count_in_double(const Space& space, const std::vector<const Ask*>& asks) {
    std::vector<Counter<double>> counters;
    for (const Ask* ask : asks) {
        std::fill(ask->counts, ask->counts + space.points().num_blocks, 0);
        Counter<double> q{};
        q.at = space.row(ask->id);
        q.inside = q.maybe = ask->limits;
        q.counts = ask->counts;
        q.together = ask->joint;
        counters.push_back(q);
    }
    space.for_each_piece<double>([&](const Panels<double>& panels) {
        space.kernels().exact_sweep.count[space.points().linf](
            panels, counters.data(), static_cast<std::int64_t>(counters.size()));
    });
    for (std::size_t i = 0; i < asks.size(); ++i) {
        leave_out_self(space, *asks[i], asks[i]->limits);
        if (asks[i]->ties != nullptr)
            *asks[i]->ties = asks[i]->joint == kInf ? space.rows() - 1
                                                    : counters[i].ties - (asks[i]->joint >= 0);
    }
}

void decide(const Space& space, const Ask& ask, const Counter<float>& q) {
    const PointSet& points = space.points();
    for (std::int32_t i = 0; i < q.held; ++i) {
        if (q.ids[i] == ask.id) continue;
        const std::int32_t block = q.blocks[i];
        const std::int64_t first = block == 0 ? 0 : points.ends[block - 1];
        const double score = exact_score(space.row(ask.id), space.row(q.ids[i]), first,
                                         points.ends[block], points.linf);
        ask.counts[block] += score <= ask.limits[block];
    }
    leave_out_self(space, ask, q.inside);
}

}  // namespace

void count_of(const Space& space, const std::vector<Ask>& asks) {
    const PointSet& points = space.points();
    const std::int64_t dim = points.dim, blocks = points.num_blocks;
    const std::int64_t room = 64 + space.rows() / 64;
    std::vector<const Ask*> wide, narrow;
    for (const Ask& ask : asks) (ask.wide ? wide : narrow).push_back(&ask);
    const auto number = static_cast<std::int64_t>(narrow.size());
    std::vector<float> at(static_cast<std::size_t>(number * dim));
    std::vector<float> limits(static_cast<std::size_t>(2 * number * blocks));
    std::vector<std::int32_t> held(static_cast<std::size_t>(2 * number * room));
    std::vector<Counter<float>> counters;
    for (std::int64_t i = 0; i < number; ++i) {
        const Ask& ask = *narrow[i];
        const Margin margin = space.margin(ask.id);
        float* inside = limits.data() + 2 * i * blocks;
        float* maybe = inside + blocks;
        for (std::int64_t b = 0; b < blocks; ++b)
            float_limits(ask.limits[b], points.linf, space.scale(), margin, inside[b], maybe[b]);
        space.copy_row(ask.id, at.data() + i * dim);
        std::fill(ask.counts, ask.counts + blocks, 0);
        Counter<float> q{};
        q.at = at.data() + i * dim;
        q.inside = inside;
        q.maybe = maybe;
        q.counts = ask.counts;
        q.room = static_cast<std::int32_t>(room);
        q.ids = held.data() + 2 * i * room;
        q.blocks = q.ids + room;
        counters.push_back(q);
    }
    space.for_each_piece<float>([&](const Panels<float>& panels) {
        space.kernels().sweep.count[points.linf](panels, counters.data(), number);
    });
    for (std::int64_t i = 0; i < number; ++i) {
        if (counters[i].overflow) wide.push_back(narrow[i]);
        else decide(space, *narrow[i], counters[i]);
    }
    if (!wide.empty()) count_in_double(space, wide);
}

}  // namespace ncfast
