// The Python functions of the search for neighbors.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "neighbors/search.h"

namespace ncfast {

class KnnBinding {
public:
    using Address = std::uintptr_t;
    using Numbers = std::vector<std::int64_t>;

    static std::int64_t nearest(bool tree, Address data, const Numbers& ends,
                                const Numbers& offsets, bool linf, std::int64_t k,
                                Address distances, Address ids, int threads) {
        NearestOut out{to<double>(distances), to<std::int64_t>(ids), 0};
        (tree ? nearest_tree : nearest_direct)(points(data, ends, offsets, linf), k, out, threads);
        return out.repeated;
    }

    static void joint(bool tree, Address data, const Numbers& ends, const Numbers& offsets,
                      bool linf, std::int64_t k, bool rectangle, Address radii, Address counts,
                      Address extents, Address ties, int threads) {
        const JointOut out{to<double>(radii), to<std::int64_t>(counts), to<double>(extents),
                           to<std::int64_t>(ties)};
        (tree ? joint_tree : joint_direct)(points(data, ends, offsets, linf), k, rectangle, out,
                                           threads);
    }

    static void count(bool tree, Address data, const Numbers& ends, const Numbers& offsets,
                      bool linf, Address radii, bool strict, Address counts, int threads) {
        (tree ? count_tree : count_direct)(points(data, ends, offsets, linf),
                                           to<const double>(radii), strict,
                                           to<std::int64_t>(counts), threads);
    }

    static std::int64_t of_rows(Address data, std::int64_t rows, std::int64_t dim, bool linf,
                                std::int64_t k, Address which, std::int64_t number,
                                Address distances, Address ids, int threads) {
        NearestOut out{to<double>(distances), to<std::int64_t>(ids), 0};
        nearest_of_rows(points(data, {dim}, {0, rows}, linf), to<const std::int64_t>(which), number,
                        k, out, threads);
        return out.repeated;
    }

    static void scores(Address data, std::int64_t rows, std::int64_t dim, bool linf, Address ids,
                       std::int64_t per_row, Address out, int threads) {
        scores_of(points(data, {dim}, {0, rows}, linf), to<const std::int64_t>(ids), per_row,
                  to<double>(out), threads);
    }

    static void bind(pybind11::module_& module) {
        const auto no_gil = pybind11::call_guard<pybind11::gil_scoped_release>();
        module.def("knn_nearest", &nearest, no_gil);
        module.def("knn_of_rows", &of_rows, no_gil);
        module.def("knn_scores", &scores, no_gil);
        module.def("knn_joint", &joint, no_gil);
        module.def("knn_count", &count, no_gil);
    }

private:
    template <class T>
    static T* to(Address address) {
        return reinterpret_cast<T*>(address);
    }
    static PointSet points(Address data, const Numbers& ends, const Numbers& offsets, bool linf) {
        return {to<const double>(data), ends.back(), ends.data(),
                static_cast<std::int64_t>(ends.size()), offsets.data(),
                static_cast<std::int64_t>(offsets.size()) - 1, linf};
    }
};

}  // namespace ncfast
