// An opened bundle: its manifest, and its files, each checked against its hash before its path is handed out.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "manifest.hpp"

namespace sdic_internal {

class Bundle {
public:
    // Opens the bundle in the folder `path`; with `verify` false hashes are not compared.
    Bundle(const std::string &path, bool verify);

    const std::string &path() const { return path_; }
    const Manifest &manifest() const { return manifest_; }

    // The path of the file `name`, there and (once per bundle) checked against its size and hash.
    std::string file(const std::string &name);
    // Checks several files, some at a time.
    void check(const Names &names);
    // The precision to run in: `wanted`, or the bundle's default where it is empty.
    std::string precision(const std::string &wanted) const;

private:
    std::string path_;
    bool verify_;
    Manifest manifest_;
    std::mutex lock_;
    std::set<std::string> checked_;
};

}  // namespace sdic_internal
