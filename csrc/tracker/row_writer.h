// Writes the class moments of each training batch into the next row of a buffer, updates class
// moments in place, or sums them up.
//
// One call does all the work: after a training step no cache holds the code of a step or an update,
// so every further call would cost misses.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "moments/moments.h"
#include "moments/rows.h"
#include "summary/summary.h"
#include "tracker/tensor_reader.h"
#include "tracker/weight_norm.h"

namespace ncfast {

// Rows of a buffer, each of which keeps a parameter as it was at one step.
class ParameterRows {
public:
    // `rows` (R, ...) is a contiguous tensor. Parameters have the shape and dtype of one row.
    ParameterRows(pybind11::object rows, std::shared_ptr<const TensorReader> reader)
        : rows_(std::move(rows)), reader_(std::move(reader)) {
        if (!reader_->view(rows_, to_) || !TensorReader::is_contiguous(to_))
            throw std::invalid_argument("Expected contiguous rows on the CPU.");
        for (int axis = 1; axis < to_.ndim; ++axis) count_ *= to_.shape[axis];
    }

    // Returns false and copies nothing if the slow path must look: at another shape, dtype or layout,
    // or while a tracer is active.
    bool copy(std::int64_t row, const pybind11::object& parameter) const {
        dlpack::Tensor from;
        if (row >= to_.shape[0] || reader_->guarded() || !reader_->is_parameter(parameter) ||
            reader_->negated(parameter) || !reader_->view(parameter, from))
            return false;
        const bool same = from.dtype.code == to_.dtype.code && from.dtype.bits == to_.dtype.bits &&
                          std::equal(from.shape, from.shape + from.ndim, to_.shape + 1,
                                     to_.shape + to_.ndim);
        if (!same || !TensorReader::is_contiguous(from)) return false;
        const std::int64_t bytes = count_ * (to_.dtype.bits / 8);
        auto* to = static_cast<char*>(const_cast<void*>(TensorReader::data_of(to_)));
        std::memcpy(to + row * bytes, TensorReader::data_of(from), static_cast<std::size_t>(bytes));
        return true;
    }

private:
    const pybind11::object rows_;  // held: it owns the memory
    const std::shared_ptr<const TensorReader> reader_;
    dlpack::Tensor to_{};
    std::int64_t count_ = 1;
};

class RowWriter {
public:
    // The buffer begins at `base`. A row has `slots * (cols + 2) + 2` doubles: counts, means,
    // within_ss, norm_sum, norm_max. `steps` has one entry per filled row. With fewer slots than
    // `num_classes` the slots hold the classes of the batch, in the order of their first rows.
    RowWriter(std::uintptr_t base, std::int64_t rows, std::int64_t num_classes, std::int64_t slots,
              std::int64_t cols, pybind11::list steps, std::shared_ptr<const TensorReader> reader)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), num_classes_(num_classes),
          slots_(slots), cols_(cols),
          steps_(std::move(steps)), reader_(std::move(reader)) {}

    // Computes the moments of a batch into the next row and appends `step` to the steps. Returns
    // false and changes nothing if the slow path must look at the batch: unexpected types, shapes
    // or memory, labels out of range, features that are not finite, or a full buffer.
    bool push(const pybind11::object& step, const pybind11::object& feats,
              const pybind11::object& labels) {
        if (!fill(feats, labels)) return false;
        steps_.append(step);
        return true;
    }

    // Does the same and writes the norm of the module's parameters into `norms`: both or neither.
    // The norm is computed first, because no other thread may run between filling a row and
    // appending its step.
    bool push_with_norm(const pybind11::object& step, const pybind11::object& feats,
                        const pybind11::object& labels, NormWriter& norms,
                        const pybind11::object& module) {
        const std::optional<double> norm = norms.measure(module);
        if (!norm || !fill(feats, labels) || norms.full()) return false;
        norms.place(step, *norm);
        steps_.append(step);
        return true;
    }

    // Computes the moments of a batch into the next row, which does not count until `count` is
    // called. Returns false where `push` does.
    bool fill(const pybind11::object& feats, const pybind11::object& labels) {
        if (number() >= rows_ || reader_->guarded()) return false;
        const std::optional<Matrix> x = reader_->matrix(feats);
        if (!x || x->cols != cols_) return false;
        const std::optional<Labels> y = reader_->labels(labels, x->rows);
        if (!y || number() >= rows_) return false;
        if (num_classes_ == slots_) return measure(*x, *y);
        std::vector<std::int32_t> numbers(static_cast<std::size_t>(x->rows));
        return renumber(*y, numbers) && measure(*x, {numbers.data(), LabelType::i32, 1});
    }

    // Appends `step` to the steps, if `row` is still the next row: a signal handler may have emptied
    // the buffer since it was filled.
    bool count(const pybind11::object& step, std::int64_t row) {
        if (number() != row) return false;
        steps_.append(step);
        return true;
    }

    // Does the same and writes the norm of the module's parameters into `norms`: both or neither.
    bool count_with_norm(const pybind11::object& step, std::int64_t row, NormWriter& norms,
                         const pybind11::object& module) {
        const std::optional<double> norm = norms.measure(module);
        if (!norm || norms.full() || number() != row) return false;
        norms.place(step, *norm);
        steps_.append(step);
        return true;
    }

private:
    std::int64_t size() const { return slots_ * (cols_ + 2) + 2; }
    std::int64_t number() const { return static_cast<std::int64_t>(PyList_GET_SIZE(steps_.ptr())); }

    // Numbers the classes of a batch in the order of their first rows; false if there are more than
    // slots, or if a label is out of range. A class has its number if its entry of position_ points
    // at an entry of present_ that points back (see Present), so nothing is cleared between batches.
    bool renumber(const Labels& y, std::vector<std::int32_t>& numbers) {
        position_.resize(static_cast<std::size_t>(num_classes_));
        present_.clear();
        return visit(y, [&](auto* labels) {
            for (std::size_t i = 0; i < numbers.size(); ++i) {
                const auto label = static_cast<std::int64_t>(
                    __atomic_load_n(labels + static_cast<std::int64_t>(i) * y.stride, __ATOMIC_RELAXED));
                if (label < 0 || label >= num_classes_) return false;
                auto at = static_cast<std::size_t>(position_[label]);
                if (at >= present_.size() || present_[at] != label) {
                    at = present_.size();
                    if (static_cast<std::int64_t>(at) == slots_) return false;
                    position_[label] = static_cast<std::int32_t>(at);
                    present_.push_back(label);
                }
                numbers[i] = static_cast<std::int32_t>(at);
            }
            return true;
        });
    }

    // Returns false if a feature is not finite or a label is out of range: the norms are then NaN
    // or infinite.
    bool measure(const Matrix& x, const Labels& y) {
        const auto bytes = x.rows * cols_ * static_cast<std::int64_t>(size_of(x.dtype));
        return bytes < kUnitBytes ? measure_into(x, y, base_ + number() * size(), 1)
                                  : measure_apart(x, y);
    }

    bool measure_into(const Matrix& x, const Labels& y, double* row, int threads) const {
        double* means = row + slots_;
        double* within = means + slots_ * cols_;
        double* norms = within + slots_;
        class_moments(x, y, slots_,
                      {reinterpret_cast<std::int64_t*>(row), means, within, norms, norms + 1},
                      threads);
        return std::isfinite(norms[0]);
    }

    // Other threads run Python meanwhile. They may empty the buffer or fill the next row, so the
    // row of this batch is chosen after its moments are computed.
    bool measure_apart(const Matrix& x, const Labels& y) {
        std::unique_ptr<double[]> own = std::move(scratch_);
        if (!own) own.reset(new double[static_cast<std::size_t>(size())]);
        const int threads = reader_->threads();
        bool good = false;
        {
            const pybind11::gil_scoped_release release;
            good = measure_into(x, y, own.get(), threads);
        }
        good = good && number() < rows_;
        if (good) std::copy_n(own.get(), size(), base_ + number() * size());
        scratch_ = std::move(own);
        return good;
    }

    double* const base_;
    const std::int64_t rows_, num_classes_, slots_, cols_;
    pybind11::list steps_;
    const std::shared_ptr<const TensorReader> reader_;
    std::unique_ptr<double[]> scratch_;  // one row; null while a batch uses it
    std::vector<std::int32_t> position_;  // of a class in present_; anything for the others
    std::vector<std::int64_t> present_;
};

constexpr std::int64_t kUnread = -2;

// Merges a batch into class moments of K classes, all of them tensors. Returns what update_moments
// does, or kUnread, with nothing changed, if the slow path must look: unexpected types, shapes or
// memory, or no row.
inline std::int64_t update_from_tensors(const TensorReader& reader, const pybind11::object& feats,
                                        const pybind11::object& labels,
                                        const pybind11::object& counts,
                                        const pybind11::object& means,
                                        const pybind11::object& within_ss,
                                        const pybind11::object& norm_sum,
                                        const pybind11::object& norm_max) {
    if (reader.guarded()) return kUnread;
    const std::optional<Matrix> x = reader.matrix(feats);
    const std::optional<Labels> y = x ? reader.labels(labels, x->rows) : std::nullopt;
    dlpack::Tensor found;
    if (!y || !reader.view_plain(counts, 1, found)) return kUnread;
    const std::int64_t k = found.shape[0];
    const auto of = [&](const pybind11::object& tensor, std::initializer_list<std::int64_t> shape) {
        return static_cast<double*>(reader.contiguous(tensor, dlpack::kFloat, shape));
    };
    const Moments state{static_cast<std::int64_t*>(reader.contiguous(counts, dlpack::kInt, {k})),
                        of(means, {k, x->cols}), of(within_ss, {k}), of(norm_sum, {}),
                        of(norm_max, {})};
    if (state.counts == nullptr || state.means == nullptr || state.within_ss == nullptr ||
        state.norm_sum == nullptr || state.norm_max == nullptr)
        return kUnread;
    const Batch batch{*x, *y, nullptr, 0, std::nullopt};
    if (x->rows * x->cols * static_cast<std::int64_t>(size_of(x->dtype)) < kUnitBytes)
        return update_moments(batch, k, state, nullptr, nullptr, 1);
    const int threads = reader.threads();
    const pybind11::gil_scoped_release release;
    return update_moments(batch, k, state, nullptr, nullptr, threads);
}

constexpr std::int64_t kMostClasses = (std::int64_t{1} << 31) - 1;

// The number of classes that labels name, the largest one plus one; 0 if a label is negative or no
// number of a class.
inline std::int64_t number_of_classes(const Labels& labels, std::int64_t rows) {
    return visit(labels, [&](auto* values) {
        std::int64_t low = 0, high = -1;
        for (std::int64_t i = 0; i < rows; ++i) {
            const auto label = static_cast<std::int64_t>(
                __atomic_load_n(values + i * labels.stride, __ATOMIC_RELAXED));
            low = std::min(low, label);
            high = std::max(high, label);
        }
        return low < 0 || high >= kMostClasses ? std::int64_t{0} : high + 1;
    });
}

// Plain features (N, D) with their labels (N,).
struct Labelled {
    Matrix feats;
    Labels labels;
    std::int64_t number;
};

// Reads both tensors. `num_classes` is K, or 0 for that of the labels. Returns nothing if the slow
// path must look: unexpected types, shapes or memory, or labels that are no classes.
inline std::optional<Labelled> read_labelled(const TensorReader& reader,
                                             const pybind11::object& feats,
                                             const pybind11::object& labels,
                                             std::int64_t num_classes) {
    if (reader.guarded()) return std::nullopt;
    const std::optional<Matrix> x = reader.matrix(feats);
    const std::optional<Labels> y = x ? reader.labels(labels, x->rows) : std::nullopt;
    if (!y || num_classes < 0 || num_classes > kMostClasses) return std::nullopt;
    const std::int64_t k = num_classes > 0 ? num_classes : number_of_classes(*y, x->rows);
    if (k == 0) return std::nullopt;
    return Labelled{*x, *y, k};
}

// Returns false if a label is out of range. Other threads run Python while many features are read.
inline bool class_moments(const TensorReader& reader, const Labelled& of, const Moments& out) {
    const Matrix& x = of.feats;
    if (x.rows * x.cols * static_cast<std::int64_t>(size_of(x.dtype)) < kUnitBytes) {
        class_moments(x, of.labels, of.number, out, 1);
    } else {
        const int threads = reader.threads();
        const pybind11::gil_scoped_release release;
        class_moments(x, of.labels, of.number, out, threads);
    }
    if (!std::isnan(*out.norm_max)) return true;
    const std::int64_t named = number_of_classes(of.labels, x.rows);
    return named > 0 && named <= of.number;
}

// The class moments of two tensors as a tuple of tensors: counts, means, within_ss, norm_sum,
// norm_max. `integers` and `doubles` make tensors of a shape, (K,) or () for example. Returns None
// where `read_labelled` returns nothing, and if a label is out of range.
inline pybind11::object moments_from_tensors(const TensorReader& reader,
                                             const pybind11::object& feats,
                                             const pybind11::object& labels,
                                             std::int64_t num_classes,
                                             const pybind11::object& integers,
                                             const pybind11::object& doubles) {
    const std::optional<Labelled> of = read_labelled(reader, feats, labels, num_classes);
    if (!of) return pybind11::none();
    const pybind11::tuple scalar, classes = pybind11::make_tuple(of->number);
    const pybind11::tuple matrix = pybind11::make_tuple(of->number, of->feats.cols);
    pybind11::tuple out = pybind11::make_tuple(integers(classes), doubles(matrix), doubles(classes),
                                               doubles(scalar), doubles(scalar));
    void* data[5];
    for (std::size_t i = 0; i < 5; ++i) {
        dlpack::Tensor found;
        if (!reader.view(out[i], found)) return pybind11::none();
        data[i] = const_cast<void*>(TensorReader::data_of(found));
    }
    const Moments moments{static_cast<std::int64_t*>(data[0]), static_cast<double*>(data[1]),
                          static_cast<double*>(data[2]), static_cast<double*>(data[3]),
                          static_cast<double*>(data[4])};
    if (!class_moments(reader, *of, moments)) return pybind11::none();
    return std::move(out);
}

// The first fields of `summarise`, the traces, of two tensors. Returns nothing where `read_labelled`
// does, if a label is out of range, and for more than `most` or D + 1 classes.
inline std::optional<std::vector<double>> traces_from_tensors(const TensorReader& reader,
                                                              const pybind11::object& feats,
                                                              const pybind11::object& labels,
                                                              std::int64_t num_classes,
                                                              std::int64_t most) {
    const std::optional<Labelled> of = read_labelled(reader, feats, labels, num_classes);
    if (!of) return std::nullopt;
    const std::int64_t k = of->number, d = of->feats.cols;
    if (k > std::min(most, d + 1)) return std::nullopt;
    const std::unique_ptr<double[]> own(new double[static_cast<std::size_t>(k * (d + 2) + 2)]);
    double *means = own.get() + k, *within = means + k * d, *norms = within + k;
    const Moments moments{reinterpret_cast<std::int64_t*>(own.get()), means, within, norms, norms + 1};
    if (!class_moments(reader, *of, moments)) return std::nullopt;
    std::vector<double> fields(summary_names().size());
    summarise({1, k, d, true, {own.get(), 0}, {means, 0}, {within, 0}, {norms, 0}, {norms + 1, 0}},
              {false, false, false, false}, fields.data());
    fields.resize(kTraces);
    return fields;
}

}  // namespace ncfast
