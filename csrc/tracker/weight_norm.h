// The norm of a module's parameters, as `ncfast.weight_norm` has it in Python.
#pragma once

#include <memory>

#include "tracker/norm.h"
#include "tracker/parameter_walk.h"
#include "tracker/tensor_reader.h"
#include "moments/units.h"

namespace ncfast {

class WeightNorm {
public:
    WeightNorm(std::shared_ptr<const TensorReader> reader, const pybind11::type& module)
        : reader_(std::move(reader)), walk_(module) {}

    // Of all parameters; nothing where they are not plain floating numbers on the CPU, side by side
    // in any order of their axes, or where something traces.
    std::optional<double> of_module(const pybind11::object& module) const {
        std::vector<pybind11::object> tensors;
        if (reader_->guarded() || !walk_(module, tensors)) return std::nullopt;
        return of_all(tensors);
    }

    std::optional<double> of_tensors(const pybind11::list& list) const {
        if (reader_->guarded()) return std::nullopt;
        std::vector<pybind11::object> tensors;
        for (const pybind11::handle& each : list)
            tensors.push_back(pybind11::reinterpret_borrow<pybind11::object>(each));
        return of_all(tensors);
    }

private:
    // They are held while another thread may have the interpreter.
    std::optional<double> of_all(const std::vector<pybind11::object>& tensors) const {
        if (tensors.empty()) return std::nullopt;
        std::vector<Span> spans;
        spans.reserve(tensors.size());
        for (const pybind11::object& tensor : tensors) {
            const std::optional<Span> span = span_of(tensor);
            if (!span) return std::nullopt;
            spans.push_back(*span);
        }
        if (bytes_of(spans) < kUnitBytes) return norm(spans, 1);
        const int threads = reader_->threads();
        const pybind11::gil_scoped_release release;
        return norm(spans, threads);
    }

    std::optional<Span> span_of(const pybind11::object& tensor) const {
        dlpack::Tensor found;
        if (!reader_->is_parameter(tensor) && !reader_->is_tensor(tensor)) return std::nullopt;
        if (!reader_->view(tensor, found)) return std::nullopt;
        const std::optional<Dtype> dtype = TensorReader::dtype_of(found.dtype);
        std::int64_t count = 1;
        for (int axis = 0; axis < found.ndim; ++axis) count *= found.shape[axis];
        if (!dtype || (count > 0 && found.data == nullptr) || !dense(found, count)) return std::nullopt;
        return Span{TensorReader::data_of(found), *dtype, count};
    }

    // Whether every place of `count` in a row is an element: some axis has the next step outwards.
    static bool dense(const dlpack::Tensor& of, std::int64_t count) {
        std::int64_t step = 1;
        while (step < count) {
            int axis = of.ndim - 1;
            while (axis >= 0 && (of.strides[axis] != step || of.shape[axis] == 1)) --axis;
            if (axis < 0) return false;
            step *= of.shape[axis];
        }
        return true;
    }

    const std::shared_ptr<const TensorReader> reader_;
    const ParameterWalk walk_;
};

// Norms one after another, each with its entry in `steps`.
class NormWriter {
public:
    NormWriter(std::uintptr_t base, std::int64_t rows, pybind11::list steps,
               std::shared_ptr<const WeightNorm> norm)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), steps_(std::move(steps)),
          norm_(std::move(norm)) {}

    // False, and nothing has changed, where there is no norm to be had or no place left.
    bool push(const pybind11::object& step, const pybind11::object& module) {
        const std::optional<double> found = measure(module);
        if (!found || full()) return false;
        place(step, *found);
        return true;
    }

    // May let another thread run, which may take the values that are there.
    std::optional<double> measure(const pybind11::object& module) const {
        return full() ? std::nullopt : norm_->of_module(module);
    }
    bool full() const { return number() >= rows_; }
    void place(const pybind11::object& step, double value) {
        base_[number()] = value;
        steps_.append(step);
    }

private:
    std::int64_t number() const { return static_cast<std::int64_t>(PyList_GET_SIZE(steps_.ptr())); }

    double* const base_;
    const std::int64_t rows_;
    pybind11::list steps_;
    const std::shared_ptr<const WeightNorm> norm_;
};

}  // namespace ncfast
