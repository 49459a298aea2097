#include "files.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>
#include <vector>

#include "errors.hpp"

namespace sdic_internal {

namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

struct CloseFile {
    void operator()(std::FILE *file) const noexcept { std::fclose(file); }
};

// Hands the file to `use` in pieces. A folder can be opened for reading on POSIX systems and fails only at the first read.
template <typename Use>
void read_pieces(const std::string &path, int &number, Use use) {
    errno = 0;
    const std::unique_ptr<std::FILE, CloseFile> file(is_folder(path) ? nullptr : std::fopen(path.c_str(), "rb"));
    number = file ? 0 : errno ? errno : EISDIR;
    if (!file) return;
    std::vector<char> piece(kPiece);
    while (const std::size_t count = std::fread(piece.data(), 1, piece.size(), file.get())) use(piece.data(), count);
    if (std::ferror(file.get())) number = errno ? errno : EIO;
}

// The SHA-256 in hexadecimal of what `feed` hands, piece by piece, to the function that it is given.
template <typename Feed>
std::string sha256(Feed feed) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
    feed([&](const char *data, std::size_t count) { EVP_DigestUpdate(context.get(), data, count); });
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    EVP_DigestFinal_ex(context.get(), digest, &length);
    std::string text;
    for (unsigned int i = 0; i < length; ++i) (text += "0123456789abcdef"[digest[i] >> 4]) += "0123456789abcdef"[digest[i] & 15];
    return text;
}

std::string temporary_beside(const std::string &path) {
    static std::atomic<std::uint32_t> counter{0};
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    const std::uint64_t mixed = static_cast<std::uint64_t>(now) * 0x9E3779B97F4A7C15ull + counter.fetch_add(1);
    char unique[20];
    std::snprintf(unique, sizeof unique, "%016llx", static_cast<unsigned long long>(mixed));
    const std::filesystem::path target(path);
    return (target.parent_path() / say(".", target.filename().string(), ".", unique, ".tmp")).string();
}

[[noreturn]] void fail_to_write(const std::string &path, int number) {
    throw Error(SDIC_ERROR_FILE, "cannot write ", path, ": ", reason(number), "; choose another place or make room");
}

}  // namespace

std::string reason(int number) {
    std::string text = std::generic_category().message(number);
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    return text;
}

std::string clean_path(const std::string &path) {
    std::filesystem::path clean;
    for (const auto &part : std::filesystem::path(path)) {
        if (!part.empty() && part != ".") clean /= part;
    }
    return clean.empty() ? "." : clean.string();
}

bool is_folder(const std::string &path) {
    std::error_code ignored;
    return std::filesystem::is_directory(path, ignored);
}

bool exists(const std::string &path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}

std::string read_file(const std::string &path, int &number) {
    std::string text;
    read_pieces(path, number, [&](const char *data, std::size_t count) { text.append(data, count); });
    return number ? std::string() : text;
}

std::string sha256_of_file(const std::string &path, int &number) {
    return sha256([&](const auto &add) { read_pieces(path, number, add); });
}

std::string sha256_of_text(const std::string &text) {
    return sha256([&](const auto &add) { add(text.data(), text.size()); });
}

void write_into_place(const std::string &given, const std::function<void(std::ostream &)> &write) {
    const std::string path = clean_path(given);
    if (is_folder(path)) throw Error(SDIC_ERROR_FILE, "cannot write ", path, ": it is a folder; name a file");
    const std::string temporary = temporary_beside(path);
    struct Remove {
        const std::string &name;
        ~Remove() { std::remove(name.c_str()); }
    } remove{temporary};
    errno = 0;
    std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
    if (!stream) fail_to_write(path, errno ? errno : EACCES);
    write(stream);
    stream.close();
    if (!stream) fail_to_write(path, errno ? errno : ENOSPC);
    std::error_code failure;
    std::filesystem::rename(temporary, path, failure);
    if (failure) fail_to_write(path, failure.value());
}

bool is_inside(const std::string &name) {
    if (name.empty() || name.front() == '/' || name.back() == '/') return false;
    if (name.find_first_of(std::string("\\:\0", 3)) != std::string::npos) return false;
    std::istringstream parts(name);
    for (std::string part; std::getline(parts, part, '/');) {
        if (part.empty() || part == "." || part == "..") return false;
    }
    return true;
}

}  // namespace sdic_internal
