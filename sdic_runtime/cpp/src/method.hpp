// A method as data: its sizes, tensors, stages and programs. The same tables, and the same checks, as sdic_runtime/program.py.
#pragma once

#include <string>
#include <vector>

#include "tensor.hpp"
#include "value.hpp"

namespace sdic_internal {

inline const std::string kImage = "image", kPicture = "picture", kInvert = "invert", kBaseline = "baseline", kPrepare = "prepare";
inline const std::string kDirectionKind = "direction", kGanSpaceKind = "ganspace";

using Sizes = Table<std::int64_t>;  // letter -> number
using Axes = Json;                  // a list of numbers, letters of the sizes, and "N" for the batch, which comes first

// What one network or part of one takes and gives.
struct Stage {
    std::string name;
    Names inputs, outputs;
};

// One run of one stage: input -> value that it reads, output asked for -> value that it makes.
struct Step {
    std::string stage;
    Table<std::string> inputs, outputs;
};

// Steps from the tensors it takes to those it gives (tensor -> value). The host gives zeros for the takes named in `zeros`.
struct Program {
    Names takes;
    std::vector<Step> steps;
    Table<std::string> gives;
    Names zeros;
};

// One form of editing: the host moves `codes`, then runs `program`. `kinds` are the edits it is meant for.
struct Move {
    std::string program;
    Names codes, kinds;
};

struct Method {
    std::string method;
    Sizes sizes;
    Table<Axes> tensors;
    std::vector<Stage> stages;
    Table<Program> programs;
    Names keeps;  // the tensors that an inversion stores
    Table<Move> moves;

    // What the program "prepare" gives: programs of edits may take it as if an inversion kept it. It runs once per inversion, before the
    // first edit that takes any of it.
    Names prepared() const;
    std::int64_t size(const std::string &letter) const { return *sizes.find(letter); }
    Shape shape(const std::string &tensor, std::int64_t batch) const;
    const Stage *stage(const std::string &name) const;
};

// Throw Invalid: for sizes or axes that are out of bounds, and for tables, programs, keeps and moves that do not fit together.
void check_sizes(const Sizes &sizes);
void check_axes(const std::string &tensor, const Axes &axes, const Sizes &sizes);
void check_method(const Method &method);

Shape shape_of(const Axes &axes, const Sizes &sizes, std::int64_t batch);

}  // namespace sdic_internal
