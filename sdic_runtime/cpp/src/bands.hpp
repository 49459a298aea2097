// A stage in bands of rows: graphs that each compute some rows (axis 2) of every output, for one picture, and run side by side. A graph
// that is for one picture at a time is one band.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "method.hpp"
#include "onnx_session.hpp"

namespace sdic_internal {

class Bands {
public:
    // `sessions` are the bands from top to bottom, checked to be for one picture each and to add up to the rows of `stage`; `workers` of
    // them run at a time. `bundle` is the folder that errors name.
    Bands(const Stage &stage, const Method &method, std::vector<std::unique_ptr<Session>> sessions, int workers, const std::string &bundle);

    // The stage for as many pictures as the tensors hold. Every band of every picture is a task: this thread takes tasks until none is left,
    // and others help it. Safe to call from several threads.
    void run(const std::vector<View> &inputs, const std::vector<View> &outputs) const;

private:
    // Output -> the first row of each band, and behind them the end of the last.
    using Rows = std::map<std::string, std::vector<std::size_t>>;

    void check_inputs(const Stage &stage, const Method &method) const;
    Rows rows(const Stage &stage, const Method &method) const;
    void run_one(std::size_t band, std::size_t picture, const std::vector<View> &inputs, const std::vector<View> &outputs) const;

    std::string stage_, bundle_;
    std::vector<std::unique_ptr<Session>> sessions_;
    std::size_t workers_;
    Rows rows_;
};

}  // namespace sdic_internal
