// Runs field and curve operations on numbers from standard input: a line `operation field number...` in hexadecimal, limbs as
// they are in memory, is answered by a line of numbers. Built by test_gpu_arithmetic.py, with and without ZK_EMULATE_CARRY.
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "gpu/xyzz.cuh"
#include "wide.cuh"

using namespace zkaudit;

static std::vector<uint64_t> read_limbs(std::istream& in, int count) {
    std::string digits;
    in >> digits;
    digits.insert(0, 16 * static_cast<size_t>(count) - digits.size(), '0');
    std::vector<uint64_t> limbs;
    for (size_t at = digits.size(); at > 0; at -= 16) limbs.push_back(std::stoull(digits.substr(at - 16, 16), nullptr, 16));
    return limbs;
}

static void write_limbs(const uint64_t* limbs, int count) {
    for (int i = count - 1; i >= 0; --i) std::printf("%016llx", static_cast<unsigned long long>(limbs[i]));
    std::printf(" ");
}

template <class F>
static F read(std::istream& in) {
    const std::vector<uint64_t> limbs = read_limbs(in, F::limbs);
    F out;
    for (int i = 0; i < F::limbs; ++i) out.v[i] = limbs[static_cast<size_t>(i)];
    return out;
}

template <class F>
static void write(const F& x) {
    write_limbs(x.v, F::limbs);
}

template <class F, int digits, int bits>
static F small_sum(std::istream& in) {
    SmallSum<F, digits> sum = SmallSum<F, digits>::starting_at(read<F>(in));
    while (in.peek() == ' ' && in.ignore()) {
        const F a = read<F>(in);
        sum.template add<bits>(a, read_limbs(in, 1)[0]);
    }
    return sum.shrunk();
}

template <class F>
static ProductSum<F> product_sum(std::istream& in) {
    ProductSum<F> sum = ProductSum<F>::zero();
    while (in.peek() == ' ' && in.ignore()) {
        const F a = read<F>(in), b = read<F>(in);
        sum.add(a, b);
    }
    return sum;
}

template <class F>
static void answer(const std::string& operation, std::istream& in) {
    if (operation == "small_sum_1_32") return write(small_sum<F, 1, 32>(in));
    if (operation == "small_sum_1_52") return write(small_sum<F, 1, 52>(in));
    if (operation == "small_sum_2_64") return write(small_sum<F, 2, 64>(in));
    if (operation == "total") return write(product_sum<F>(in).total());
    if (operation == "across") return write(product_sum<F>(in).across());
    if (operation == "reduce") {
        std::vector<uint64_t> t = read_limbs(in, 2 * F::limbs);
        const uint64_t over = reduce_lower_half<F>(t.data());
        write_limbs(&over, 1);
        return write_limbs(t.data() + F::limbs, F::limbs);
    }
    const F a = read<F>(in);
    if (operation == "invert") return write(BinaryInverse<typename F::Params>::of(a));
    const F b = read<F>(in);
    if (operation == "add") return write(a + b);
    if (operation == "subtract") return write(a - b);
    if (operation == "multiply") return write(a * b);
    if (operation == "multiply_full") {
        uint64_t t[2 * F::limbs];
        multiply_full(a, b, t);
        return write_limbs(t, 2 * F::limbs);
    }
    const F c = read<F>(in), d = read<F>(in);
    if (operation == "pair") return write(product_pair(a, b, c, d));
    std::fprintf(stderr, "no operation %s\n", operation.c_str());
    std::exit(1);
}

/// An affine point, and as XYZZ with ZZ = scale^2.
static Affine<Base> read_affine(std::istream& in) {
    const Base x = read<Base>(in);
    return {x, read<Base>(in)};
}

static Xyzz<Base> read_xyzz(std::istream& in) {
    const Affine<Base> point = read_affine(in);
    const Base scale = read<Base>(in), square = scale.squared(), cube = square * scale;
    const Xyzz<Base> plain = Xyzz<Base>::from(point);
    return {plain.x * square, plain.y * cube, plain.zz * square, plain.zzz * cube};
}

static void answer_points(const std::string& operation, std::istream& in) {
    Xyzz<Base> a = read_xyzz(in);
    if (operation == "double") a = a.doubled();
    if (operation == "negate") a = a.negated();
    if (operation == "add_affine") a.add(read_affine(in));
    if (operation == "add") a.add(read_xyzz(in));
    const Affine<Base> out = a.to_affine();
    write(out.x);
    write(out.y);
    write(a.zz.squared() * a.zz - a.zzz.squared());
}

int main() {
    std::string line, operation, field;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        in >> operation >> field;
        if (field == "scalar") answer<Scalar>(operation, in);
        if (field == "base") answer<Base>(operation, in);
        if (field == "point") answer_points(operation, in);
        std::printf("\n");
    }
}
