// The batches of a training loop, one after another into rows of packed moments: all that a step of
// the tracker asks for in one call, because between two training steps no cache holds its code.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "moments/moments.h"
#include "tracker/tensor_reader.h"
#include "moments/plan.h"
#include "tracker/weight_norm.h"

namespace ncfast {

class RowWriter {
public:
    // Rows of `classes * (cols + 2) + 2` doubles from `base` on: counts, means, within_ss, norm_sum,
    // norm_max. A full row has its entry in `steps`.
    RowWriter(std::uintptr_t base, std::int64_t rows, std::int64_t classes, std::int64_t cols,
              pybind11::list steps, std::shared_ptr<const TensorReader> reader)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), classes_(classes), cols_(cols),
          steps_(std::move(steps)), reader_(std::move(reader)) {}

    // Measures a batch into the next row and appends `step` to the steps. False, and nothing has
    // changed, if there is anything about the arguments that needs another look: their types,
    // shapes or memory, labels out of range, features that are not finite, no row left.
    bool push(const pybind11::object& step, const pybind11::object& feats,
              const pybind11::object& labels) {
        if (!fill(feats, labels)) return false;
        steps_.append(step);
        return true;
    }

    // The same, and the norm of the module's parameters into `norms`: both or neither. The norm
    // comes first: nothing may let another thread run between a full row and its step.
    bool push_with_norm(const pybind11::object& step, const pybind11::object& feats,
                        const pybind11::object& labels, NormWriter& norms,
                        const pybind11::object& module) {
        const std::optional<double> norm = norms.measure(module);
        if (!norm || !fill(feats, labels) || norms.full()) return false;
        norms.place(step, *norm);
        steps_.append(step);
        return true;
    }

private:
    std::int64_t size() const { return classes_ * (cols_ + 2) + 2; }
    std::int64_t number() const { return static_cast<std::int64_t>(PyList_GET_SIZE(steps_.ptr())); }

    // Whether the next row holds the batch.
    bool fill(const pybind11::object& feats, const pybind11::object& labels) {
        if (number() >= rows_ || !ordinary(feats) || !ordinary(labels) || reader_->guarded())
            return false;
        const std::optional<Matrix> x = matrix(feats);
        const std::optional<Labels> y = x ? classes(labels, x->rows) : std::nullopt;
        return y && number() < rows_ && measure(*x, *y);
    }

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

    // False where the norms are not numbers: features are not, or a label is out of range.
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

    // Other threads run meanwhile. They may take the rows, or fill the next one: which row this
    // batch goes to is known only when it has been measured.
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
    std::unique_ptr<double[]> scratch_;  // a row; none while a batch is measured into it
};

}  // namespace ncfast
