// The Python module ncfast._C. Arguments are addresses, shapes and strides; torch is not included.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/isa.h"
#include "moments/moments.h"
#include "neighbors/bind.h"
#include "products/second_pass.h"
#include "summary/summary.h"
#include "tracker/average.h"
#include "tracker/json_lines.h"
#include "tracker/row_writer.h"

namespace py = pybind11;
using namespace ncfast;

namespace {

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Matrix matrix(std::uintptr_t data, int dtype, std::int64_t rows, std::int64_t cols,
              std::int64_t stride) {
    return {pointer<const void>(data), static_cast<Dtype>(dtype), rows, cols, stride};
}

void moments(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
             std::int64_t stride, std::uintptr_t labels, int label_type, std::int64_t label_stride,
             std::int64_t num_classes, std::uintptr_t counts, std::uintptr_t means,
             std::uintptr_t within_ss, std::uintptr_t norm_sum, std::uintptr_t norm_max,
             int threads) {
    class_moments(matrix(feats, dtype, rows, cols, stride),
                  {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
                  num_classes,
                  {pointer<std::int64_t>(counts), pointer<double>(means),
                   pointer<double>(within_ss), pointer<double>(norm_sum), pointer<double>(norm_max)},
                  threads);
}

void gradients(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
               std::int64_t stride, std::uintptr_t labels, int label_type,
               std::int64_t label_stride, std::int64_t num_classes, std::uintptr_t counts,
               std::uintptr_t means, std::uintptr_t of_means, std::uintptr_t of_within_ss,
               std::uintptr_t of_norm_sum, std::uintptr_t of_norm_max, std::uintptr_t out,
               int threads) {
    moment_gradients(matrix(feats, dtype, rows, cols, stride),
                     {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
                     num_classes, pointer<const std::int64_t>(counts), pointer<const double>(means),
                     {pointer<const double>(of_means), pointer<const double>(of_within_ss),
                      pointer<const double>(of_norm_sum), pointer<const double>(of_norm_max)},
                     pointer<void>(out), threads);
}

std::int64_t update(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
                    std::int64_t stride, std::uintptr_t labels, int label_type,
                    std::int64_t label_stride, std::uintptr_t mask, std::int64_t mask_stride,
                    std::optional<std::int64_t> ignored, std::int64_t num_classes,
                    std::uintptr_t counts, std::uintptr_t means, std::uintptr_t within_ss,
                    std::uintptr_t norm_sum, std::uintptr_t norm_max, std::uintptr_t left_out,
                    std::uintptr_t scatter, int threads) {
    return update_moments(
        {matrix(feats, dtype, rows, cols, stride),
         {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
         pointer<const std::uint8_t>(mask), mask_stride, ignored},
        num_classes,
        {pointer<std::int64_t>(counts), pointer<double>(means), pointer<double>(within_ss),
         pointer<double>(norm_sum), pointer<double>(norm_max)},
        pointer<std::int64_t>(left_out), pointer<double>(scatter), threads);
}

void projections(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
                 std::int64_t stride, std::uintptr_t labels, int label_type,
                 std::int64_t label_stride, std::int64_t num_classes, std::uintptr_t means,
                 std::uintptr_t vectors, std::int64_t num_vectors, std::uintptr_t sums,
                 int threads) {
    projected_ss(matrix(feats, dtype, rows, cols, stride),
                 {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
                 num_classes, pointer<const double>(means), pointer<const double>(vectors),
                 num_vectors, pointer<double>(sums), threads);
}

struct StatesBinding {
    States states;

    StatesBinding(std::int64_t number, std::int64_t classes, std::int64_t cols, bool integer_counts,
                  std::uintptr_t counts, std::uintptr_t means, std::uintptr_t within_ss,
                  std::uintptr_t norm_sum, std::uintptr_t norm_max, std::int64_t counts_stride,
                  std::int64_t means_stride, std::int64_t within_stride, std::int64_t sum_stride,
                  std::int64_t max_stride)
        : states{number, classes, cols, integer_counts,
                 {pointer<const double>(counts), counts_stride},
                 {pointer<const double>(means), means_stride},
                 {pointer<const double>(within_ss), within_stride},
                 {pointer<const double>(norm_sum), sum_stride},
                 {pointer<const double>(norm_max), max_stride}} {}

    static void bind(py::module_& module) {
        const auto no_gil = py::call_guard<py::gil_scoped_release>();
        py::class_<StatesBinding>(module, "States")
            .def(py::init<std::int64_t, std::int64_t, std::int64_t, bool, std::uintptr_t,
                          std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t,
                          std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          std::int64_t>())
            .def("summarise", [](const StatesBinding& self, bool products, bool pairs,
                                 bool spectrum, bool centred_spectrum, std::uintptr_t out) {
                summarise(self.states, {products, pairs, spectrum, centred_spectrum},
                          pointer<double>(out));
            }, no_gil)
            .def("axes", [](const StatesBinding& self, std::uintptr_t out) {
                principal_axes(self.states, pointer<double>(out));
            }, no_gil)
            .def("axis_sums", [](const StatesBinding& self, std::uintptr_t feats, int dtype,
                                 std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                 std::uintptr_t labels, int label_type, std::int64_t label_stride,
                                 std::uintptr_t out, int threads) {
                const AxisSums found = axis_sums(
                    self.states, matrix(feats, dtype, rows, cols, stride),
                    {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
                    threads);
                pointer<double>(out)[0] = found.significant;
                pointer<double>(out)[1] = found.leading;
            }, no_gil)
            .def("classifier", [](const StatesBinding& self, std::uintptr_t weights,
                                  std::int64_t stride, std::uintptr_t biases,
                                  std::int64_t bias_stride, bool products, std::uintptr_t out) {
                classifier_summary(self.states, {pointer<const double>(weights), stride},
                                   {pointer<const double>(biases), bias_stride}, products,
                                   pointer<double>(out));
            }, no_gil);
        module.attr("SUMMARY_FIELDS") = py::tuple(py::cast(summary_names()));
        module.attr("CLASSIFIER_FIELDS") = py::tuple(py::cast(classifier_names()));
    }
};

void outer_products(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
                    std::int64_t stride, std::uintptr_t labels, std::uintptr_t means,
                    std::uintptr_t total, int threads) {
    scatter(matrix(feats, dtype, rows, cols, stride), pointer<const std::int64_t>(labels),
            pointer<const double>(means), pointer<double>(total), threads);
}

void distances(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
               std::int64_t stride, std::uintptr_t labels, std::uintptr_t means, std::uintptr_t out,
               int threads) {
    own_distances(matrix(feats, dtype, rows, cols, stride), pointer<const std::int64_t>(labels),
                  pointer<const double>(means), pointer<double>(out), threads);
}

void decisions(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
               std::int64_t stride, std::uintptr_t labels, int label_type,
               std::int64_t label_stride, std::int64_t num_classes, std::uintptr_t means,
               std::uintptr_t counts, std::uintptr_t within_ss, std::uintptr_t norm_sum,
               std::uintptr_t weight, std::uintptr_t bias, std::uintptr_t agreements,
               std::uintptr_t hits, std::uintptr_t shares, int threads) {
    compare_decisions(
        matrix(feats, dtype, rows, cols, stride),
        {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
        {num_classes, cols, pointer<const double>(means), pointer<const std::int64_t>(counts),
         pointer<const double>(within_ss), *pointer<const double>(norm_sum),
         pointer<const double>(weight), pointer<const double>(bias)},
        {pointer<double>(agreements), pointer<double>(hits), pointer<double>(shares)}, threads);
}

void projected_squares(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
                       std::int64_t stride, std::uintptr_t labels, int label_type,
                       std::int64_t label_stride, std::int64_t num_classes, std::uintptr_t means,
                       std::uintptr_t weight, std::uintptr_t total) {
    add_projected_squares(
        matrix(feats, dtype, rows, cols, stride),
        {pointer<const void>(labels), static_cast<LabelType>(label_type), label_stride},
        {num_classes, cols, pointer<const double>(means), pointer<const double>(weight)},
        pointer<double>(total));
}

void class_margins(std::uintptr_t feats, int dtype, std::int64_t rows, std::int64_t cols,
                   std::int64_t stride, std::uintptr_t labels, std::uintptr_t means,
                   std::uintptr_t centred, std::uintptr_t variances, std::uintptr_t counts,
                   std::uintptr_t weight, std::uintptr_t bias, std::int64_t num_classes,
                   std::uintptr_t projected, std::uintptr_t trace, std::uintptr_t radius,
                   int threads) {
    margins(matrix(feats, dtype, rows, cols, stride),
            {pointer<const void>(labels), LabelType::i64, 1},
            {num_classes, cols, pointer<const double>(means), pointer<const double>(centred),
             pointer<const double>(variances), pointer<const std::int64_t>(counts),
             pointer<const double>(weight), pointer<const double>(bias)},
            {pointer<double>(projected), pointer<double>(trace), pointer<double>(radius)}, threads);
}

py::tuple pairs(std::uintptr_t unit, std::uintptr_t length, std::uintptr_t variance,
                std::int64_t number, std::int64_t cols, double simplex, std::uintptr_t nearest,
                int threads) {
    PairSums sums;
    {
        const py::gil_scoped_release release;
        sums = class_pairs(pointer<const double>(unit), pointer<const double>(length),
                           pointer<const double>(variance), number, cols, simplex,
                           pointer<double>(nearest), threads);
    }
    const auto list = [](const double* from, int size) {
        return std::vector<double>(from, from + size);
    };
    return py::make_tuple(sums.count, list(sums.mean, kPairMeans), list(sums.squares, kPairMeans),
                          list(sums.largest, kPairMaxima));
}

#if defined(NCFAST_HAS_JSON_LINES)
py::bytes lines(std::uintptr_t steps, std::uintptr_t values, std::int64_t rows, std::int64_t cols,
                const std::vector<std::string>& keys, const std::vector<std::string>& tails,
                const std::vector<std::string>& notes) {
    std::string text;
    {
        const py::gil_scoped_release release;
        text = json_lines({pointer<const std::int64_t>(steps), pointer<const double>(values), rows,
                           cols}, keys, tails, notes);
    }
    return text;
}
#endif

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* each : usable_kernels()) names.emplace_back(each->name);
    return names;
}

}  // namespace

// Without py::mod_gil_not_used(): a Python without the lock enables it when it imports this module.
// All state of the library is atomic, local to a thread or protected by a mutex, but the writers of
// the tracker need the lock: a row is filled and its step appended while no other thread of Python
// runs (tracker/row_writer.h), and the Python code that empties the buffers relies on that.
PYBIND11_MODULE(_C, module) {
    module.doc() = "Fused CPU kernels; called through ncfast.ops.";
    const auto no_gil = py::call_guard<py::gil_scoped_release>();
    module.def("class_moments", &moments, no_gil);
    module.def("moment_gradients", &gradients, no_gil);
    module.def("update_moments", &update, no_gil,
               "The first row with a label out of range, or -1.");
    module.def("projected_ss", &projections, no_gil);
    StatesBinding::bind(module);
#if defined(NCFAST_HAS_JSON_LINES)
    module.def("json_lines", &lines);
#endif
    py::class_<TensorReader, std::shared_ptr<TensorReader>>(module, "TensorReader")
        .def(py::init<py::type, py::type, const py::capsule&, py::tuple, py::function>())
        .def("update_moments", &update_from_tensors,
             "As update_moments; -2 if the batch takes a closer look.")
        .def("class_moments", &moments_from_tensors, "None if the batch takes a closer look.")
        .def("traces", &traces_from_tensors, "None if the batch takes a closer look.");
    py::class_<WeightNorm, std::shared_ptr<WeightNorm>>(module, "WeightNorm")
        .def(py::init<std::shared_ptr<TensorReader>, py::type>())
        .def("of_module", &WeightNorm::of_module)
        .def("of_tensors", &WeightNorm::of_tensors);
    py::class_<NormWriter>(module, "NormWriter")
        .def(py::init<std::uintptr_t, std::int64_t, py::list, std::shared_ptr<WeightNorm>>())
        .def("push", &NormWriter::push);
    py::class_<ParameterRows>(module, "ParameterRows")
        .def(py::init<py::object, std::shared_ptr<TensorReader>>())
        .def("copy", &ParameterRows::copy);
    py::class_<RowWriter>(module, "RowWriter")
        .def(py::init<std::uintptr_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                      py::list, std::shared_ptr<TensorReader>>())
        .def("push", &RowWriter::push)
        .def("push", &RowWriter::push_with_norm)
        .def("fill", &RowWriter::fill)
        .def("count", &RowWriter::count)
        .def("count", &RowWriter::count_with_norm);
    py::class_<Average>(module, "Average")
        .def(py::init<std::int64_t, std::int64_t, std::int64_t, double, bool>())
        .def("update", [](Average& self, std::uintptr_t states, std::int64_t number) {
            self.update(pointer<double>(states), number);
        }, no_gil)
        .def("state_size", &Average::state_size)
        .def("save", [](const Average& self, std::uintptr_t state) {
            self.save(pointer<double>(state));
        })
        .def("load", [](Average& self, std::uintptr_t state) {
            self.load(pointer<const double>(state));
        });
    KnnBinding::bind(module);
    module.def("scatter", &outer_products, no_gil);
    module.def("own_distances", &distances, no_gil);
    module.def("compare_decisions", &decisions, no_gil);
    module.def("add_projected_squares", &projected_squares, no_gil);
    module.def("margins", &class_margins, no_gil);
    module.def("class_pairs", &pairs, "Returns count, means, sums of squared deviations, maxima.");
    module.def("instruction_sets", &instruction_sets, "Those this CPU can run, fastest first.");
    module.def("instruction_set", [] { return kernels().name; }, "The instruction set in use.");
    module.def("use_instruction_set", [](const std::string& name) {
        return use_kernels(name.c_str());
    }, "Selects an instruction set; False if this CPU cannot run it. For tests and measurements.");
}
