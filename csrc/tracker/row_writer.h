// Writes the class moments of each training batch into the next row of a buffer.
//
// One call does all the work of a tracker's step: after a training step no cache holds the
// tracker's code, so every further call would cost misses.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "moments/moments.h"
#include "moments/plan.h"
#include "tracker/tensor_reader.h"
#include "tracker/weight_norm.h"

namespace ncfast {

class RowWriter {
public:
    // The buffer begins at `base`. A row has `classes * (cols + 2) + 2` doubles: counts, means,
    // within_ss, norm_sum, norm_max. `steps` has one entry per filled row.
    RowWriter(std::uintptr_t base, std::int64_t rows, std::int64_t classes, std::int64_t cols,
              pybind11::list steps, std::shared_ptr<const TensorReader> reader)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), classes_(classes), cols_(cols),
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
        if (number() >= rows_ || !ordinary(feats) || !ordinary(labels) || reader_->guarded())
            return false;
        const std::optional<Matrix> x = matrix(feats);
        const std::optional<Labels> y = x ? classes(labels, x->rows) : std::nullopt;
        return y && number() < rows_ && measure(*x, *y);
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
    std::int64_t size() const { return classes_ * (cols_ + 2) + 2; }
    std::int64_t number() const { return static_cast<std::int64_t>(PyList_GET_SIZE(steps_.ptr())); }

    bool ordinary(const pybind11::object& object) const {
        return reader_->is_tensor(object) && !reader_->negated(object);
    }

    bool view(const pybind11::object& object, std::int32_t ndim, dlpack::Tensor& out) const {
        return reader_->view(object, out) && out.data != nullptr && out.ndim == ndim &&
               out.shape[0] > 0;
    }

    std::optional<Matrix> matrix(const pybind11::object& feats) const {
        dlpack::Tensor found;
        if (!view(feats, 2, found) || found.shape[1] != cols_) return std::nullopt;
        if (found.strides[1] != 1 && cols_ != 1) return std::nullopt;
        const std::optional<Dtype> dtype = TensorReader::dtype_of(found.dtype);
        if (!dtype) return std::nullopt;
        return Matrix{TensorReader::data_of(found), *dtype, found.shape[0], cols_, found.strides[0]};
    }

    std::optional<Labels> classes(const pybind11::object& labels, std::int64_t rows) const {
        dlpack::Tensor found;
        if (!view(labels, 1, found) || found.shape[0] != rows) return std::nullopt;
        const std::optional<LabelType> type = TensorReader::label_type_of(found.dtype);
        if (!type) return std::nullopt;
        return Labels{TensorReader::data_of(found), *type, found.strides[0]};
    }

    // Returns false if a feature is not finite or a label is out of range: the norms are then NaN
    // or infinite.
    bool measure(const Matrix& x, const Labels& y) {
        const auto bytes = x.rows * cols_ * static_cast<std::int64_t>(size_of(x.dtype));
        return bytes < kUnitBytes ? measure_into(x, y, base_ + number() * size(), 1)
                                  : measure_apart(x, y);
    }

    bool measure_into(const Matrix& x, const Labels& y, double* row, int threads) const {
        double* means = row + classes_;
        double* within = means + classes_ * cols_;
        double* norms = within + classes_;
        class_moments(x, y, classes_,
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
    const std::int64_t rows_, classes_, cols_;
    pybind11::list steps_;
    const std::shared_ptr<const TensorReader> reader_;
    std::unique_ptr<double[]> scratch_;  // one row; null while a batch uses it
};

}  // namespace ncfast
