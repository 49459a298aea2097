// An opened bundle: its manifest, and its files, each checked against its hash before its path is handed out.
#pragma once

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace sdic_internal {

class Bundle {
public:
    // Opens the bundle in the folder `path`; with `verify` false hashes are not compared.
    Bundle(const std::string &path, bool verify);

    const std::string &path() const { return path_; }
    const Manifest &manifest() const { return manifest_; }

    // The path of the file `name`, there and (once per bundle) proven against its size and hash.
    std::string file(const std::string &name);
    // Proves several files, some at a time.
    void check(const std::vector<std::string> &names);
    // The precision to run in: `wanted`, or the bundle's default where it is empty.
    std::string precision(const std::string &wanted) const;
    // The proven ONNX file of `stage`, its external weights proven too.
    std::string stage_file(const std::string &stage, const std::string &precision);
    // The proven ONNX files of `stage` (or a "stage:output") arranged for processors, their external weights proven too; none where the bundle has no such.
    // Several are bands of rows, see `Manifest`.
    std::vector<std::string> cpu_files(const std::string &stage);
    // The proven ONNX file that computes only `output` of `stage`; "" where the bundle has none. It shares the stage's external weights.
    std::string partial_file(const std::string &stage, const std::string &output, const std::string &precision);

private:
    std::vector<std::string> proven(const std::vector<std::string> &names);

    std::string path_;
    bool verify_;
    Manifest manifest_;
    std::mutex lock_;
    std::set<std::string> checked_;
};

}  // namespace sdic_internal
