// The norm of a module's parameters, read without a Python call per parameter. The reference is
// `ncfast.weight_norm`.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "moments/rows.h"
#include "tracker/norm.h"
#include "tracker/tensor_reader.h"

namespace ncfast {

// Lists the parameters that `module.parameters()` yields, in the same order.
class ParameterWalk {
public:
    // `module` is torch.nn.Module. Its methods are replaced here, unless a class overrides them.
    explicit ParameterWalk(const pybind11::type& module)
        : parameters_(interned("_parameters")), modules_(interned("_modules")) {
        for (const char* name : {"named_modules", "parameters", "named_parameters", "_named_members"})
            methods_.emplace_back(interned(name), module.attr(name));
    }

    // False if a class or a module overrides a method or stores its members in another way.
    bool operator()(pybind11::handle module, std::vector<pybind11::object>& found) const {
        for (const auto& [name, method] : methods_)
            if (!is_method(module, name, method)) return false;
        std::unordered_set<PyObject*> seen;
        return visit(module, seen, found);
    }

private:
    using Seen = std::unordered_set<PyObject*>;

    bool visit(pybind11::handle module, Seen& seen, std::vector<pybind11::object>& found) const {
        if (!seen.insert(module.ptr()).second) return true;
        const auto& [name, method] = methods_.front();
        if (!is_method(module, name, method)) return false;
        const pybind11::list parameters = values(attribute(module, parameters_));
        const pybind11::list modules = values(attribute(module, modules_));
        if (!parameters || !modules) return false;
        for (const pybind11::handle& each : parameters)
            if (!each.is_none() && seen.insert(each.ptr()).second)
                found.push_back(pybind11::reinterpret_borrow<pybind11::object>(each));
        for (const pybind11::handle& each : modules)
            if (!each.is_none() && !visit(each, seen, found)) return false;
        return true;
    }

    // Interned like the names in Python code, so that lookups compare addresses.
    static pybind11::str interned(const char* name) {
        return pybind11::reinterpret_steal<pybind11::str>(PyUnicode_InternFromString(name));
    }

    static pybind11::object attribute(pybind11::handle of, const pybind11::str& name) {
        PyObject* found = PyObject_GetAttr(of.ptr(), name.ptr());
        if (found == nullptr) PyErr_Clear();
        return pybind11::reinterpret_steal<pybind11::object>(found);
    }

    // The values of a dict or an ordered dict; a null object for anything else.
    static pybind11::list values(const pybind11::object& of) {
        const bool found = of && PyDict_Check(of.ptr()) != 0;
        return pybind11::reinterpret_steal<pybind11::list>(found ? PyMapping_Values(of.ptr())
                                                                 : nullptr);
    }

    // Whether the method is not overridden, neither by the class nor by the module itself.
    static bool is_method(pybind11::handle of, const pybind11::str& name,
                          const pybind11::object& method) {
        const pybind11::object found = attribute(of, name);
        return found && PyMethod_Check(found.ptr()) != 0 &&
               PyMethod_GET_FUNCTION(found.ptr()) == method.ptr() &&
               PyMethod_GET_SELF(found.ptr()) == of.ptr();
    }

    const pybind11::str parameters_, modules_;
    std::vector<std::pair<pybind11::str, pybind11::object>> methods_;
};

// The norm of all parameters of a module, or of a list of tensors.
//
// There is no result if a tensor is not an ordinary dense floating-point tensor on the CPU, or
// while a tracer is active. Python then computes the norm.
class WeightNorm {
public:
    WeightNorm(std::shared_ptr<const TensorReader> reader, const pybind11::type& module)
        : reader_(std::move(reader)), walk_(module) {}

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
    // Holds references to the tensors, because another thread may run Python meanwhile.
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

    // Whether the tensor is dense: its `count` elements fill adjacent memory in some order of the
    // axes.
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

// Writes the norm of each step into a buffer, and the step into the list `steps`.
class NormWriter {
public:
    NormWriter(std::uintptr_t base, std::int64_t rows, pybind11::list steps,
               std::shared_ptr<const WeightNorm> norm)
        : base_(reinterpret_cast<double*>(base)), rows_(rows), steps_(std::move(steps)),
          norm_(std::move(norm)) {}

    // Returns false and changes nothing if there is no norm or the buffer is full.
    bool push(const pybind11::object& step, const pybind11::object& module) {
        const std::optional<double> found = measure(module);
        if (!found || full()) return false;
        place(step, *found);
        return true;
    }

    // Another thread may run meanwhile and may empty the buffer.
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
