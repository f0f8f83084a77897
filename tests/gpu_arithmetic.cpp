// Field and point operations on rows of limbs, for test_gpu_arithmetic.py: a kernel where NVRTC compiles it, elsewhere a
// program that reads rows from standard input and writes rows.
#include "gpu/xyzz.cuh"
#include "wide.cuh"

using namespace zkaudit;

/// In the order of OPERATIONS in the test.
enum Operation {
    copy, add, subtract, multiply, square, multiply_full_, pair, reduce, total, across_, small_sum_1_32,
    small_sum_1_52, small_sum_2_64, invert, point_add_affine, point_add, point_add_itself, point_double,
    point_negate
};

template <class F>
ZK_HD F read(const uint64_t* in, int which = 0) {
    F out;
    for (int i = 0; i < F::limbs; ++i) out.v[i] = in[F::limbs * which + i];
    return out;
}

template <class F>
ZK_HD void write(const F& x, uint64_t* out, int which = 0) {
    for (int i = 0; i < F::limbs; ++i) out[F::limbs * which + i] = x.v[i];
}

/// Starts at the row's first element; pairs of an element and a word follow.
template <class F, int digits, int bits>
ZK_HD F small_sum(const uint64_t* in, int width) {
    SmallSum<F, digits> sum = SmallSum<F, digits>::starting_at(read<F>(in));
    for (int i = F::limbs; i < width; i += F::limbs + 1) sum.template add<bits>(read<F>(in + i), in[i + F::limbs]);
    return sum.shrunk();
}

template <class F>
ZK_HD ProductSum<F> product_sum(const uint64_t* in, int width) {
    ProductSum<F> sum = ProductSum<F>::zero();
    for (int i = 0; i < width; i += 2 * F::limbs) sum.add(read<F>(in + i), read<F>(in + i, 1));
    return sum;
}

template <class F>
ZK_HD void field_row(int operation, const uint64_t* in, int width, uint64_t* out) {
    const F a = read<F>(in);
    switch (operation) {
        case copy: return store_pieces(load_pieces(reinterpret_cast<const F*>(in)), reinterpret_cast<F*>(out));
        case add: return write(a + read<F>(in, 1), out);
        case subtract: return write(a - read<F>(in, 1), out);
        case multiply: return write(a * read<F>(in, 1), out);
        case square: return write(a.squared(), out);
        case multiply_full_: return multiply_full(a, read<F>(in, 1), out);
        case pair: return write(product_pair(a, read<F>(in, 1), read<F>(in, 2), read<F>(in, 3)), out);
        case reduce: {
            uint64_t t[2 * F::limbs];
            for (int i = 0; i < 2 * F::limbs; ++i) t[i] = in[i];
            out[0] = reduce_lower_half<F>(t);
            return write(read<F>(t, 1), out + 1);
        }
        case total: return write(product_sum<F>(in, width).total(), out);
        case across_: return write(product_sum<F>(in, width).across(), out);
        case small_sum_1_32: return write(small_sum<F, 1, 32>(in, width), out);
        case small_sum_1_52: return write(small_sum<F, 1, 52>(in, width), out);
        case small_sum_2_64: return write(small_sum<F, 2, 64>(in, width), out);
        case invert: return write(BinaryInverse<typename F::Params>::of(a), out);
    }
}

/// The affine point at `in` as XYZZ with ZZ = scale^2, the scale after it.
ZK_HD Xyzz<Base> read_scaled(const uint64_t* in) {
    const Base scale = read<Base>(in, 2), square = scale.squared();
    const Xyzz<Base> plain = Xyzz<Base>::from({read<Base>(in), read<Base>(in, 1)});
    return {plain.x * square, plain.y * (square * scale), plain.zz * square, plain.zzz * (square * scale)};
}

/// Affine coordinates of the result, and ZZ^3 - ZZZ^2.
ZK_HD void point_row(int operation, const uint64_t* in, uint64_t* out) {
    Xyzz<Base> a = read_scaled(in);
    switch (operation) {
        case point_add_affine: a.add(Affine<Base>{read<Base>(in, 3), read<Base>(in, 4)}); break;
        case point_add: a.add(read_scaled(in + 3 * Base::limbs)); break;
        case point_add_itself: a.add(a); break;
        case point_double: a = a.doubled(); break;
        case point_negate: a = a.negated(); break;
    }
    const Affine<Base> point = a.to_affine();
    write(point.x, out);
    write(point.y, out, 1);
    write(a.zz.squared() * a.zz - a.zzz.squared(), out, 2);
}

ZK_HD void run_row(int operation, int limbs, const uint64_t* in, int width, uint64_t* out) {
    if (operation >= point_add_affine) return point_row(operation, in, out);
    return limbs == Scalar::limbs ? field_row<Scalar>(operation, in, width, out) : field_row<Base>(operation, in, width, out);
}

#if defined(__CUDACC__)

extern "C" __global__ void run_rows(int operation, int limbs, int rows, int width, int out_width, const uint64_t* in,
                                    uint64_t* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows) run_row(operation, limbs, in + i * width, width, out + i * out_width);
}

#else

#include <cstdio>
#include <cstdlib>
#include <vector>

/// Arguments: operation, limbs of an element, limbs of a row and of its result.
int main(int, char** arguments) {
    const int operation = std::atoi(arguments[1]), limbs = std::atoi(arguments[2]);
    const size_t width = std::strtoul(arguments[3], nullptr, 10), out_width = std::strtoul(arguments[4], nullptr, 10);
    std::vector<uint64_t> in(width), out(out_width);
    while (std::fread(in.data(), sizeof(uint64_t), width, stdin) == width) {
        run_row(operation, limbs, in.data(), static_cast<int>(width), out.data());
        std::fwrite(out.data(), sizeof(uint64_t), out_width, stdout);
    }
}

#endif
