// The batches of a training loop, one after another into rows of packed moments: all that a step of
// the tracker asks for in one call, because between two training steps no cache holds its code.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <optional>

#include "dlpack.h"
#include "moments.h"
#include "units.h"

namespace ncfast {

class RowWriter {
public:
    // Rows of `classes * (cols + 2) + 2` doubles from `base` on: counts, means, within_ss, norm_sum,
    // norm_max. A full row has its entry in `steps`. `tensor` is the only type that is read, through
    // the `table` it holds, and only while every one of `guards` returns something false.
    RowWriter(std::uintptr_t base, std::int64_t rows, std::int64_t classes, std::int64_t cols,
              pybind11::list steps, pybind11::type tensor, const pybind11::capsule& table,
              pybind11::tuple guards, pybind11::function threads)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), classes_(classes), cols_(cols),
          steps_(std::move(steps)), tensor_(std::move(tensor)), guards_(std::move(guards)),
          threads_(std::move(threads)) {
        const auto* found = table.get_pointer<const dlpack::Table>();
        if (found->version.major == dlpack::kMajor) view_ = found->view;
    }

    // Measures a batch into the next row and appends `step` to the steps. False, and nothing has
    // changed, if there is anything about the arguments that needs another look: their types,
    // shapes or memory, labels out of range, features that are not finite, no row left.
    bool push(const pybind11::object& step, const pybind11::object& feats,
              const pybind11::object& labels) {
        const auto row = static_cast<std::int64_t>(PyList_GET_SIZE(steps_.ptr()));
        if (row >= rows_ || guarded()) return false;
        const std::optional<Matrix> x = matrix(feats);
        const std::optional<Labels> y = x ? classes(labels, x->rows) : std::nullopt;
        if (!y || !measure(*x, *y, base_ + row * size())) return false;
        steps_.append(step);
        return true;
    }

private:
    std::int64_t size() const { return classes_ * (cols_ + 2) + 2; }

    bool guarded() const {
        for (const pybind11::handle& guard : guards_)
            if (PyObject_IsTrue(guard().ptr()) != 0) return true;
        return false;
    }

    bool view(const pybind11::object& object, std::int32_t ndim, dlpack::Tensor& out) const {
        if (view_ == nullptr || reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != tensor_.ptr())
            return false;
        if (view_(object.ptr(), &out) != 0) {
            PyErr_Clear();
            return false;
        }
        return out.data != nullptr && out.device.type == dlpack::kCpu && out.ndim == ndim &&
               out.dtype.lanes == 1 && out.shape[0] > 0;
    }

    std::optional<Matrix> matrix(const pybind11::object& feats) const {
        dlpack::Tensor found;
        if (!view(feats, 2, found) || found.shape[1] != cols_) return std::nullopt;
        if (found.strides[1] != 1 && cols_ != 1) return std::nullopt;
        const std::optional<Dtype> dtype = dtype_of(found.dtype);
        if (!dtype) return std::nullopt;
        return Matrix{data_of(found), *dtype, found.shape[0], cols_, found.strides[0]};
    }

    std::optional<Labels> classes(const pybind11::object& labels, std::int64_t rows) const {
        dlpack::Tensor found;
        if (!view(labels, 1, found) || found.shape[0] != rows) return std::nullopt;
        const std::optional<LabelType> type = label_type_of(found.dtype);
        if (!type) return std::nullopt;
        return Labels{data_of(found), *type, found.strides[0]};
    }

    // False where the norms are not numbers: features are not, or a label is out of range.
    bool measure(const Matrix& x, const Labels& y, double* row) const {
        double* means = row + classes_;
        double* within = means + classes_ * cols_;
        double* norms = within + classes_;
        const Moments out{reinterpret_cast<std::int64_t*>(row), means, within, norms, norms + 1};
        const auto bytes = x.rows * cols_ * static_cast<std::int64_t>(size_of(x.dtype));
        if (bytes < kUnitBytes) {  // one thread, and over before another could take the lock
            class_moments(x, y, classes_, out, 1);
        } else {
            const int threads = threads_().cast<int>();
            const pybind11::gil_scoped_release release;
            class_moments(x, y, classes_, out, threads);
        }
        return std::isfinite(norms[0]);
    }

    static const void* data_of(const dlpack::Tensor& tensor) {
        return static_cast<const char*>(tensor.data) + tensor.byte_offset;
    }

    static std::optional<Dtype> dtype_of(const dlpack::DataType& type) {
        if (type.code == dlpack::kFloat && type.bits == 32) return Dtype::f32;
        if (type.code == dlpack::kFloat && type.bits == 64) return Dtype::f64;
        if (type.code == dlpack::kFloat && type.bits == 16) return Dtype::f16;
        if (type.code == dlpack::kBfloat && type.bits == 16) return Dtype::bf16;
        return std::nullopt;
    }

    static std::optional<LabelType> label_type_of(const dlpack::DataType& type) {
        if (type.code == dlpack::kUInt && type.bits == 8) return LabelType::u8;
        if (type.code != dlpack::kInt) return std::nullopt;
        switch (type.bits) {
            case 8: return LabelType::i8;
            case 16: return LabelType::i16;
            case 32: return LabelType::i32;
            case 64: return LabelType::i64;
            default: return std::nullopt;
        }
    }

    double* const base_;
    const std::int64_t rows_, classes_, cols_;
    pybind11::list steps_;
    const pybind11::type tensor_;
    const pybind11::tuple guards_;
    const pybind11::function threads_;
    decltype(dlpack::Table::view) view_ = nullptr;
};

}  // namespace ncfast
