// Reads the address, shape and dtype of Python's tensors without a Python call per tensor and
// without torch's headers.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>

#include "core/types.h"

namespace ncfast {

// The part of DLPack 1.3 that describes a tensor: a table of C functions, which the type of the
// tensor holds. Nothing is copied and no reference is counted. The layouts are those of
// https://github.com/dmlc/dlpack, include/dlpack/dlpack.h.
namespace dlpack {

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
enum Code : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Version {
    std::uint32_t major, minor;
};
struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements
    std::uint64_t byte_offset;
};
struct Table {
    Version version;
    void* previous;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*view)(void* object, Tensor* out);  // may be null; -1 with a Python exception set
    void* current_stream;
};

}  // namespace dlpack

class TensorReader {
public:
    // Only objects of the types `tensor` and `parameter` are read, through their `table`, and only
    // while all `guards` return a false value. `threads` returns the number of threads to use.
    TensorReader(pybind11::type tensor, pybind11::type parameter, const pybind11::capsule& table,
                 pybind11::tuple guards, pybind11::function threads)
        : tensor_(std::move(tensor)), parameter_(std::move(parameter)), guards_(std::move(guards)),
          threads_(std::move(threads)), is_neg_(tensor_.attr("is_neg")) {
        const auto* found = table.get_pointer<const dlpack::Table>();
        if (found->version.major == dlpack::kMajor) view_ = found->view;
    }

    // Whether a tracer is active, so that no tensor may be read.
    bool guarded() const {
        for (const pybind11::handle& guard : guards_)
            if (PyObject_IsTrue(guard().ptr()) != 0) return true;
        return false;
    }

    // Whether the memory holds the negatives of the tensor's numbers. Another thread may run
    // meanwhile.
    bool negated(pybind11::handle tensor) const {
        const auto found = pybind11::reinterpret_steal<pybind11::object>(
            PyObject_CallOneArg(is_neg_.ptr(), tensor.ptr()));  // creates no tuple of arguments
        if (!found) throw pybind11::error_already_set();
        return found.ptr() == Py_True;
    }

    int threads() const { return threads_().cast<int>(); }

    bool is_tensor(pybind11::handle object) const { return is(object, tensor_); }
    bool is_parameter(pybind11::handle object) const { return is(object, parameter_); }

    // Describes a tensor or parameter on the CPU; false for anything else.
    bool view(pybind11::handle object, dlpack::Tensor& out) const {
        if (view_ == nullptr) return false;
        if (view_(object.ptr(), &out) != 0) {
            PyErr_Clear();
            return false;
        }
        return out.device.type == dlpack::kCpu && out.dtype.lanes == 1;
    }

    // A plain tensor of `ndim` axes in memory that holds its numbers.
    bool view_plain(pybind11::handle object, std::int32_t ndim, dlpack::Tensor& out) const {
        return is_tensor(object) && !negated(object) && view(object, out) && out.data != nullptr &&
               out.ndim == ndim;
    }

    // Features (N, D) with N > 0, if they are a plain tensor with adjacent columns.
    std::optional<Matrix> matrix(pybind11::handle feats) const {
        dlpack::Tensor found;
        if (!view_plain(feats, 2, found) || found.shape[0] <= 0) return std::nullopt;
        if (found.strides[1] != 1 && found.shape[1] != 1) return std::nullopt;
        const std::optional<Dtype> dtype = dtype_of(found.dtype);
        if (!dtype) return std::nullopt;
        return Matrix{data_of(found), *dtype, found.shape[0], found.shape[1], found.strides[0]};
    }

    // Labels (N,), if they are a plain tensor of that length.
    std::optional<Labels> labels(pybind11::handle labels, std::int64_t rows) const {
        dlpack::Tensor found;
        if (!view_plain(labels, 1, found) || found.shape[0] != rows) return std::nullopt;
        const std::optional<LabelType> type = label_type_of(found.dtype);
        if (!type) return std::nullopt;
        return Labels{data_of(found), *type, found.strides[0]};
    }

    // The memory of a plain contiguous tensor of 8-byte numbers of that kind and shape, else null.
    void* contiguous(pybind11::handle object, dlpack::Code code,
                     std::initializer_list<std::int64_t> shape) const {
        dlpack::Tensor found;
        if (!view_plain(object, static_cast<std::int32_t>(shape.size()), found)) return nullptr;
        if (found.dtype.code != code || found.dtype.bits != 64) return nullptr;
        if (!std::equal(shape.begin(), shape.end(), found.shape)) return nullptr;
        return is_contiguous(found) ? const_cast<void*>(data_of(found)) : nullptr;
    }

    static bool is_contiguous(const dlpack::Tensor& tensor) {
        std::int64_t size = 1;
        for (std::int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
            if (tensor.strides[axis] != size && tensor.shape[axis] != 1) return false;
            size *= tensor.shape[axis];
        }
        return true;
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

private:
    static bool is(pybind11::handle object, const pybind11::type& type) {
        return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type.ptr();
    }

    const pybind11::type tensor_, parameter_;
    const pybind11::tuple guards_;
    const pybind11::function threads_;
    const pybind11::object is_neg_;
    decltype(dlpack::Table::view) view_ = nullptr;
};

}  // namespace ncfast
