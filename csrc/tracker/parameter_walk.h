// The parameters of a module, without a call of Python for each of them.
#pragma once

#include <pybind11/pybind11.h>

#include <unordered_set>
#include <utility>
#include <vector>

namespace ncfast {

// What `module.parameters()` yields, once each and in its order.
class ParameterWalk {
public:
    // `module` is torch.nn.Module, whose methods are done without here.
    explicit ParameterWalk(const pybind11::type& module)
        : parameters_(interned("_parameters")), modules_(interned("_modules")) {
        for (const char* name : {"named_modules", "parameters", "named_parameters", "_named_members"})
            methods_.emplace_back(interned(name), module.attr(name));
    }

    // False where a class, or a module, has methods or members of another kind.
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

    // as the names in Python's code are: lookups compare addresses
    static pybind11::str interned(const char* name) {
        return pybind11::reinterpret_steal<pybind11::str>(PyUnicode_InternFromString(name));
    }

    static pybind11::object attribute(pybind11::handle of, const pybind11::str& name) {
        PyObject* found = PyObject_GetAttr(of.ptr(), name.ptr());
        if (found == nullptr) PyErr_Clear();
        return pybind11::reinterpret_steal<pybind11::object>(found);
    }

    // Of a dict, also an ordered one; none of anything else.
    static pybind11::list values(const pybind11::object& of) {
        const bool found = of && PyDict_Check(of.ptr()) != 0;
        return pybind11::reinterpret_steal<pybind11::list>(found ? PyMapping_Values(of.ptr()) : nullptr);
    }

    // Neither the class nor the module itself has put another in its place.
    static bool is_method(pybind11::handle of, const pybind11::str& name, const pybind11::object& method) {
        const pybind11::object found = attribute(of, name);
        return found && PyMethod_Check(found.ptr()) != 0 &&
               PyMethod_GET_FUNCTION(found.ptr()) == method.ptr() &&
               PyMethod_GET_SELF(found.ptr()) == of.ptr();
    }

    const pybind11::str parameters_, modules_;
    std::vector<std::pair<pybind11::str, pybind11::object>> methods_;
};

}  // namespace ncfast
