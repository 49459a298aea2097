#include "method.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

namespace sdic_internal {

namespace {

const std::string kBatch = "N";
constexpr std::int64_t kLargestSize = 1 << 16;           // of one axis
constexpr std::int64_t kLargestTensor = std::int64_t{1} << 28;  // values of one picture
constexpr std::size_t kLargestRank = 8;                  // what sdic_view has room for

const std::map<std::string, Axes> &fixed_axes() {
    static const std::map<std::string, Axes> axes = {{kImage, {kBatch, 3, "S", "S"}}, {kPicture, {kBatch, 3, "R", "R"}}};
    return axes;
}

bool is_letter(const std::string &name) {
    const auto alphabetic = [](unsigned char letter) { return letter >= 0x80 || std::isalpha(letter); };
    return !name.empty() && name != kBatch && std::all_of(name.begin(), name.end(), alphabetic);
}

void check_stage(const Method &method, const Stage &stage) {
    require(stage.name.find(':') == std::string::npos, "the stage \"", stage.name, "\" has a colon in its name");
    std::set<std::string> known;
    for (const Names *names : {&stage.inputs, &stage.outputs}) {
        for (const auto &tensor : *names) {
            require(method.tensors.find(tensor), "the stage \"", stage.name, "\" has the tensor \"", tensor, "\", which the table of tensors lacks");
            known.insert(tensor);
        }
    }
    const bool once = known.size() == stage.inputs.size() + stage.outputs.size();
    require(!stage.inputs.empty() && !stage.outputs.empty() && once, "the stage \"", stage.name, "\" needs inputs and outputs, each named once");
}

// Checks one program step by step; `axes_` are those of the values made so far.
class ProgramCheck {
public:
    ProgramCheck(const Method &method, const std::string &name, const Program &program) : method_(method) {
        for (const auto &tensor : program.takes) {
            require(method.tensors.find(tensor), "the program \"", name, "\" takes \"", tensor, "\", which the table of tensors lacks");
            axes_.emplace(tensor, *method.tensors.find(tensor));
        }
        for (const auto &zero : program.zeros) require(contains(program.takes, zero), "the program \"", name, "\" has zeros that it does not take");
        for (std::size_t i = 0; i < program.steps.size(); ++i) check_step(program.steps[i], say("step ", i + 1, " of the program \"", name, "\""));
        for (const auto &[tensor, value] : program.gives) {
            require(same(value, tensor), "the program \"", name, "\" gives \"", tensor, "\" from \"", value, "\", which it does not make or has other axes");
        }
        require(name == kPrepare || program.gives.find(kPicture), "the program \"", name, "\" gives no \"", kPicture, "\"");
    }

private:
    bool same(const std::string &value, const std::string &tensor) const {
        const auto found = axes_.find(value);
        const Axes *axes = method_.tensors.find(tensor);
        return found != axes_.end() && axes != nullptr && found->second == *axes;
    }

    void check_step(const Step &step, const std::string &where) {
        const Stage *stage = method_.stage(step.stage);
        require(stage, where, " runs \"", step.stage, "\", which is no stage");
        const Names bound = keys_of(step.inputs), asked = keys_of(step.outputs);
        const bool all = std::set<std::string>(bound.begin(), bound.end()) == std::set<std::string>(stage->inputs.begin(), stage->inputs.end());
        require(all, where, " binds ", listed(bound), " where \"", step.stage, "\" takes ", listed(stage->inputs));
        for (const auto &[tensor, value] : step.inputs) {
            require(same(value, tensor), where, " binds \"", value, "\" to \"", tensor, "\", which was not made before it or has other axes");
        }
        const bool given = std::all_of(asked.begin(), asked.end(), [&](const auto &output) { return contains(stage->outputs, output); });
        require(given && !asked.empty(), where, " asks for ", listed(asked, "nothing"), " where \"", step.stage, "\" gives ", listed(stage->outputs));
        for (const auto &[tensor, value] : step.outputs) {
            require(axes_.emplace(value, *method_.tensors.find(tensor)).second, where, " makes \"", value, "\", which is there already");
        }
    }

    const Method &method_;
    std::map<std::string, Axes> axes_;
};

void check_keeps(const Method &method) {
    const Program *invert = method.programs.find(kInvert);
    require(invert && invert->takes == Names{kImage}, "the program \"", kInvert, "\" is missing, or does not take \"", kImage, "\" alone");
    for (const auto &tensor : method.keeps) {
        const bool there = contains(invert->takes, tensor) || invert->gives.find(tensor);
        require(there, "keeps has \"", tensor, "\", which the program \"", kInvert, "\" neither takes nor gives");
    }
    require(contains(method.keeps, kPicture), "keeps lacks \"", kPicture, "\"");
    const Names prepared = method.prepared();
    for (const auto &tensor : prepared) {
        require(!contains(method.keeps, tensor), "the program \"", kPrepare, "\" gives \"", tensor, "\", which an inversion keeps already");
    }
    for (const auto &[name, program] : method.programs) {
        for (const auto &tensor : program.takes) {
            const bool made = name != kPrepare && contains(prepared, tensor);
            const bool had = name == kInvert || made || contains(method.keeps, tensor) || contains(program.zeros, tensor);
            require(had, "the program \"", name, "\" takes ", tensor, ", which an inversion does not keep");
        }
    }
}

void check_moves(const Method &method) {
    const Axes code_axes = {kBatch, "L", "C"};
    for (const auto &[name, move] : method.moves) {
        const Program *program = method.programs.find(move.program);
        require(program, "the move \"", name, "\" runs \"", move.program, "\", which is no program");
        for (const auto &code : move.codes) {
            const bool known = contains(method.keeps, code) || contains(method.prepared(), code);
            const bool taken = known && *method.tensors.find(code) == code_axes;
            require(taken, "the move \"", name, "\" moves \"", code, "\", which is no latent code that an inversion keeps");
            const bool used = contains(program->takes, code) && !contains(program->zeros, code);
            require(used, "the move \"", name, "\" moves \"", code, "\", which its program \"", move.program, "\" does not take");
        }
        require(!move.codes.empty() && !move.kinds.empty(), "the move \"", name, "\" moves nothing or is for no kind of edit");
        for (const auto &kind : move.kinds) {
            const bool known = kind == kDirectionKind || kind == kGanSpaceKind;
            require(known, "the move \"", name, "\" is for \"", kind, "\"; the kinds are ", kDirectionKind, ", ", kGanSpaceKind);
        }
    }
}

}  // namespace

void check_sizes(const Sizes &sizes) {
    for (const char *letter : {"R", "S", "L", "C"}) require(sizes.find(letter), "sizes lacks ", letter);
    for (const auto &[letter, size] : sizes) {
        require(is_letter(letter), "sizes has \"", letter, "\", which is not a letter for a size");
        require(size > 0 && size <= kLargestSize, "sizes[\"", letter, "\"] is ", size, ", expected 1 to ", kLargestSize);
    }
}

void check_axes(const std::string &tensor, const Axes &axes, const Sizes &sizes) {
    bool right = axes.is_array() && !axes.empty() && axes.size() <= kLargestRank && axes[0] == kBatch;
    std::int64_t values = 1;
    for (std::size_t i = 1; right && i < axes.size(); ++i) {
        const Axes &axis = axes[i];
        const std::int64_t *letter = axis.is_string() ? sizes.find(axis.get_ref<const std::string &>()) : nullptr;
        const std::int64_t size = letter != nullptr ? *letter : axis.is_number_integer() ? axis.get<std::int64_t>() : 0;
        right = size > 0 && size <= kLargestSize && values <= kLargestTensor / size;
        values *= right ? size : 1;
    }
    require(right, "the axes of the tensor \"", tensor, "\" are ", shown(axes), ", expected \"N\", then sizes");
    if (const auto fixed = fixed_axes().find(tensor); fixed != fixed_axes().end()) {
        require(axes == fixed->second, "the tensor \"", tensor, "\" must have the axes ", shown(fixed->second));
    }
}

void check_method(const Method &method) {
    check_sizes(method.sizes);
    for (const auto &[name, axes] : method.tensors) check_axes(name, axes, method.sizes);
    for (const auto &item : fixed_axes()) require(method.tensors.find(item.first), "the tensor \"", item.first, "\" is missing");
    for (const Stage &stage : method.stages) check_stage(method, stage);
    for (const auto &[name, program] : method.programs) ProgramCheck(method, name, program);
    check_keeps(method);
    check_moves(method);
}

Shape shape_of(const Axes &axes, const Sizes &sizes, std::int64_t batch) {
    Shape shape = {batch};
    for (std::size_t i = 1; i < axes.size(); ++i) {
        shape.push_back(axes[i].is_string() ? *sizes.find(axes[i].get_ref<const std::string &>()) : axes[i].get<std::int64_t>());
    }
    return shape;
}

Names Method::prepared() const {
    const Program *program = programs.find(kPrepare);
    return program != nullptr ? keys_of(program->gives) : Names();
}

Shape Method::shape(const std::string &tensor, std::int64_t batch) const { return shape_of(*tensors.find(tensor), sizes, batch); }

const Stage *Method::stage(const std::string &name) const {
    const auto found = std::find_if(stages.begin(), stages.end(), [&](const Stage &stage) { return stage.name == name; });
    return found == stages.end() ? nullptr : &*found;
}

}  // namespace sdic_internal
