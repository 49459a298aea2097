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
    // Whether a file of the bundle is a link to a place outside it.
    bool leaves(const std::string &path) const;
    // The graph reads no file but the weights that the manifest lists for it, and runs known operators. Throws Error.
    void check_graph(const std::string &name, const std::string &path) const;

    std::string path_;
    bool verify_;
    Manifest manifest_;
    std::mutex lock_;
    std::set<std::string> checked_, graphs_;
};

}  // namespace sdic_internal
