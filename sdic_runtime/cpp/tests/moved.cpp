// A pipeline that another is moved into is closed at once, while what its callbacks point at is still there.
#include <sdic/sdic.hpp>

#include <memory>
#include <utility>
#include <vector>

namespace {

struct Pointed {
    bool &alive;
    explicit Pointed(bool &flag) : alive(flag) { alive = true; }
    ~Pointed() { alive = false; }
};

bool alive[2];
std::vector<int> closed;  // the handles, in the order of closing
bool safe = true;

sdic::Options with(int number) {
    sdic::Options options;
    options.device = number;
    options.log = [kept = std::make_shared<Pointed>(alive[number])](sdic_log_level, const char *) {};
    return options;
}

}  // namespace

struct sdic_pipeline {
    int number;
};

const char *sdic_last_error(void) { return ""; }
void sdic_open_params_default(sdic_open_params *params) { *params = sdic_open_params{}; }
sdic_status sdic_open(const char *, const sdic_open_params *params, sdic_pipeline **out) {
    *out = new sdic_pipeline{params->device};
    return SDIC_OK;
}
void sdic_close(sdic_pipeline *pipeline) {
    if (pipeline == nullptr) return;
    safe = safe && alive[pipeline->number];
    closed.push_back(pipeline->number);
    delete pipeline;
}

int main() {
    {
        sdic::Pipeline first("bundle", with(0)), second("bundle", with(1));
        first = std::move(second);
        if (closed != std::vector<int>{0} || alive[0] || !alive[1]) return 1;
        sdic::Pipeline third(std::move(first));
        sdic::Pipeline &same = third;
        third = std::move(same);
        if (closed.size() != 1 || !alive[1]) return 2;
    }
    return safe && closed == std::vector<int>{0, 1} && !alive[1] ? 0 : 3;
}
