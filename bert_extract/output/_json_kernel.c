/* float32 vectors -> the bytes that json.dumps writes for round(float(x), 6).
 *
 * A plain shared library: no Python.h, so that ctypes releases the interpreter's
 * lock for the call. One call writes one record. json_lines.py is its only caller and
 * holds the same thing in Python; tests/output/test_json_lines.py holds them equal.
 *
 * Why integers are exact. A float32 has 24 bits of mantissa and 10^6 = 2^6 * 5^6,
 * so x * 1e6 needs 38 bits: it is exact in float64. n = rint(|x| * 1e6), ties to
 * even, is therefore what round(x, 6) decides. Below 1e9, n has at most 15 digits;
 * decimals of 15 digits survive the way to float64 and back, so repr() finds the
 * digits of n again. From 1e9 on the caller takes the slow way.
 *
 * Three forms write the same bytes: plain C, AVX2, and AVX-512 with its instructions
 * for bytes (VBMI2). A call takes the last one that the CPU has.
 *
 * Capacity. A value takes at most 19 bytes with its ", ": a sign, 9 digits, the
 * point, 6 digits, 2. (The exponent form, "-9.9e-05, ", takes 10.) Stores are wider
 * than what they add, by at most 63 bytes, and only bytes that later stores
 * overwrite: 64 bytes beyond the bound are enough for all of them.
 */
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "digits are stored as little-endian words; the Python path does the job here"
#endif

/* Old compilers do not know these instructions; other machines do not have them. */
#if defined(__x86_64__) && \
    ((defined(__clang__) && __clang_major__ >= 9) || \
     (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 9))
#define HAVE_VECTOR_CODE 1
#include <immintrin.h>
#endif

#ifdef __GNUC__
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define UNLIKELY(condition) (condition)
#endif

/* "000 001 ... 999 ": three digits in four bytes. */
#define UNITS(p) p "0 " p "1 " p "2 " p "3 " p "4 " p "5 " p "6 " p "7 " p "8 " p "9 "
#define TENS(p) UNITS(p "0") UNITS(p "1") UNITS(p "2") UNITS(p "3") UNITS(p "4") \
                UNITS(p "5") UNITS(p "6") UNITS(p "7") UNITS(p "8") UNITS(p "9")
static const char THREE_DIGITS[] = TENS("0") TENS("1") TENS("2") TENS("3") TENS("4")
                                   TENS("5") TENS("6") TENS("7") TENS("8") TENS("9");

static char *write_piece(char *out, const char *blob, const int64_t *ends, int64_t i)
{
    int64_t begin = i ? ends[i - 1] : 0;
    size_t size = (size_t)(ends[i] - begin);
    memcpy(out, blob + begin, size);
    return out + size;
}

/* 0 < n < 100, that is below 1e-4: 7 -> 7e-06, 70 -> 7e-05, 75 -> 7.5e-05. */
static char *write_exponent_form(char *out, unsigned n)
{
    if (n < 10) {
        *out++ = (char)('0' + n);
        memcpy(out, "e-06", 4);
        return out + 4;
    }
    *out++ = (char)('0' + n / 10);
    if (n % 10) {
        *out++ = '.';
        *out++ = (char)('0' + n % 10);
    }
    memcpy(out, "e-05", 4);
    return out + 4;
}

static char *write_integer(char *out, uint32_t integer)
{
    char digits[10];
    int num_digits = 0;
    do {
        digits[num_digits++] = (char)('0' + integer % 10);
        integer /= 10;
    } while (integer);
    while (num_digits)
        *out++ = digits[--num_digits];
    return out;
}

/* Each value with ", " after it. NULL if one is not finite or not below 1e9. */
static char *write_values_scalar(char *out, const float *values, int64_t num_values)
{
    for (int64_t i = 0; i < num_values; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        *out = '-';
        out += bits >> 31;
        bits &= 0x7fffffff;
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        if (UNLIKELY(!(magnitude < 1e9f))) /* NaN too */
            return 0;
        /* Adding 2^52 rounds to an integer, ties to even, in the low bits. */
        double shifted = (double)magnitude * 1e6 + 4503599627370496.0;
        uint64_t n;
        memcpy(&n, &shifted, 8);
        n &= 0xfffffffffffff;
        if (UNLIKELY(n - 1 < 99)) {
            out = write_exponent_form(out, (unsigned)n);
        } else {
            uint32_t integer = (uint32_t)(n / 1000000);
            uint32_t fraction = (uint32_t)(n % 1000000);
            if (UNLIKELY(integer > 9))
                out = write_integer(out, integer);
            else
                *out++ = (char)('0' + integer);
            *out = '.';
            memcpy(out + 1, THREE_DIGITS + 4 * (fraction / 1000), 4);
            memcpy(out + 4, THREE_DIGITS + 4 * (fraction % 1000), 4);
            out += 7;
            while (UNLIKELY(out[-1] == '0' && out[-2] != '.'))
                out--;
        }
        *out++ = ',';
        *out++ = ' ';
    }
    return out;
}

#ifdef HAVE_VECTOR_CODE
static int have_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
}

/* Which bytes make up a value's text, by its sign and the number of zeros left out at
 * its end. The bytes to take from are the digits from the last, at 0, to the first, at
 * 6, then the sign and these marks. Each row ends with the length of the text. */
enum { SIGN = 7, POINT, COMMA, SPACE };
static const uint8_t TEXTS[2][8][16] __attribute__((aligned(64))) = {
    {
        {6, POINT, 5, 4, 3, 2, 1, 0, COMMA, SPACE, [15] = 10},
        {6, POINT, 5, 4, 3, 2, 1, COMMA, SPACE, [15] = 9},
        {6, POINT, 5, 4, 3, 2, COMMA, SPACE, [15] = 8},
        {6, POINT, 5, 4, 3, COMMA, SPACE, [15] = 7},
        {6, POINT, 5, 4, COMMA, SPACE, [15] = 6},
        {6, POINT, 5, COMMA, SPACE, [15] = 5},
    },
    {
        {SIGN, 6, POINT, 5, 4, 3, 2, 1, 0, COMMA, SPACE, [15] = 11},
        {SIGN, 6, POINT, 5, 4, 3, 2, 1, COMMA, SPACE, [15] = 10},
        {SIGN, 6, POINT, 5, 4, 3, 2, COMMA, SPACE, [15] = 9},
        {SIGN, 6, POINT, 5, 4, 3, COMMA, SPACE, [15] = 8},
        {SIGN, 6, POINT, 5, 4, COMMA, SPACE, [15] = 7},
        {SIGN, 6, POINT, 5, COMMA, SPACE, [15] = 6},
    },
};

/* Write one value. The lowest bit of `kept` is the last digit to write, bit 7 is the
 * sign. (TEXTS[sign][zeros] is the same place, but GCC makes slower code of it.) */
__attribute__((target("avx2,bmi"), always_inline)) static inline char *
write_one(char *out, __m128i bytes, uint32_t kept)
{
    uint32_t zeros = (uint32_t)__builtin_ctz(kept);
    const uint8_t *text = (const uint8_t *)TEXTS + ((kept & 128) | zeros << 4);
    bytes = _mm_shuffle_epi8(bytes, _mm_load_si128((const void *)text));
    _mm_storeu_si128((void *)out, bytes);
    return out + text[15];
}

/* Write four values, each in four times 16 bits: -1.234560 as 60, 45, 23, 11. */
__attribute__((target("avx2,bmi"), always_inline)) static inline char *
write_four_pairs(char *out, __m256i pairs)
{
    /* 0, 6, 5, 4, 3, 2, 1, 1, in 8 bits each: the tens move up by 256 - 10. */
    __m256i tens = _mm256_mulhi_epu16(pairs, _mm256_set1_epi16(6554));
    __m256i digits = _mm256_add_epi16(
        pairs, _mm256_mullo_epi16(tens, _mm256_set1_epi16(256 - 10)));
    /* A bit for each byte that is not 0, and for the first decimal always. */
    uint32_t kept = (uint32_t)_mm256_movemask_epi8(
        _mm256_add_epi8(digits, _mm256_set1_epi64x(0x7f7f807f7f7f7f7f)));
    /* '0' to '9', and '-' where the sign is 1 */
    __m256i text = _mm256_add_epi8(digits, _mm256_set1_epi64x(0x2c30303030303030));
    __m256i marks = _mm256_set1_epi64x(0x202c2e); /* "., " */
    __m256i even = _mm256_unpacklo_epi64(text, marks);
    __m256i odd = _mm256_unpackhi_epi64(text, marks);
    out = write_one(out, _mm256_castsi256_si128(even), kept);
    out = write_one(out, _mm256_castsi256_si128(odd), kept >> 8);
    out = write_one(out, _mm256_extracti128_si256(even, 1), kept >> 16);
    return write_one(out, _mm256_extracti128_si256(odd, 1), kept >> 24);
}

/* Multiply by 10^6 and round, ties to even; 2^31 for NaN and what does not fit. */
__attribute__((target("avx2,bmi"), always_inline)) static inline __m128i
to_millionths(__m128 magnitude)
{
    return _mm256_cvtpd_epi32(
        _mm256_mul_pd(_mm256_cvtps_pd(magnitude), _mm256_set1_pd(1e6)));
}

/* Eight values at a time, each in 32 bits. Eight that are not all of the usual kind,
 * 1e-4 <= |x| < 10, take the scalar way. */
__attribute__((target("avx2,bmi"))) static char *
write_values_avx2(char *out, const float *values, int64_t num_values)
{
    int64_t i = 0;
    for (; i + 8 <= num_values; i += 8) {
        __m256 x = _mm256_loadu_ps(values + i);
        __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
        __m256i n = _mm256_inserti128_si256(
            _mm256_castsi128_si256(to_millionths(_mm256_castps256_ps128(magnitude))),
            to_millionths(_mm256_extractf128_ps(magnitude, 1)), 1);
        /* n - 100 < 10^7 - 100, as unsigned numbers */
        __m256i above = _mm256_sub_epi32(n, _mm256_set1_epi32(100));
        __m256i usual = _mm256_cmpeq_epi32(
            above, _mm256_min_epu32(above, _mm256_set1_epi32(10000000 - 100 - 1)));
        if (UNLIKELY(_mm256_movemask_epi8(usual) != -1)) {
            out = write_values_scalar(out, values + i, 8);
            if (!out)
                return 0;
            continue;
        }
        /* The sign becomes an eighth digit: -1.234560 -> 11234560. */
        __m256i negative = _mm256_srai_epi32(_mm256_castps_si256(x), 31);
        n = _mm256_add_epi32(
            n, _mm256_and_si256(negative, _mm256_set1_epi32(10000000)));
        /* The order 0, 1, 4, 5, 2, 3, 6, 7, from which unpacking makes the right one */
        n = _mm256_permute4x64_epi64(n, 0xd8);
        /* 4560 and 1123, in 16 bits each. Multiply and shift is division by 10^4, by
         * 100 and by 10, exact for every n in question (tests run through all of
         * them). The odd numbers' quotients stay in the upper halves. */
        __m256i factor = _mm256_set1_epi32((int)3518437209);
        __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(n, factor), 45);
        __m256i odd = _mm256_srli_epi64(
            _mm256_mul_epu32(_mm256_srli_epi64(n, 32), factor), 45 - 32);
        __m256i high = _mm256_blend_epi32(even, odd, 0xaa);
        __m256i low =
            _mm256_sub_epi32(n, _mm256_madd_epi16(high, _mm256_set1_epi32(10000)));
        __m256i halves = _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
        /* 60, 45, 23, 11, in 8 bits each: the hundreds move up by 256 - 100. */
        high = _mm256_srli_epi16(
            _mm256_mulhi_epu16(halves, _mm256_set1_epi16(10486)), 4);
        __m256i pairs = _mm256_add_epi16(
            halves, _mm256_mullo_epi16(high, _mm256_set1_epi16(256 - 100)));
        __m256i zero = _mm256_setzero_si256();
        out = write_four_pairs(out, _mm256_unpacklo_epi8(pairs, zero));
        out = write_four_pairs(out, _mm256_unpackhi_epi8(pairs, zero));
    }
    return write_values_scalar(out, values + i, num_values - i);
}

#define AVX512_FEATURES "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2"

static int have_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt");
}

/* Four values as they would be without anything left out, 16 bytes each:
 * '-', the eight bytes of the number, ", ". 64 to 66 take from the second source. */
static const uint8_t SLOTS[64] __attribute__((aligned(64))) = {
    64, 0,  1,  2,  3,  4,  5,  6,  7,  65, 66, 0, 0, 0, 0, 0,
    64, 8,  9,  10, 11, 12, 13, 14, 15, 65, 66, 0, 0, 0, 0, 0,
    64, 16, 17, 18, 19, 20, 21, 22, 23, 65, 66, 0, 0, 0, 0, 0,
    64, 24, 25, 26, 27, 28, 29, 30, 31, 65, 66, 0, 0, 0, 0, 0,
};

/* Write four values: `kept` has a bit for each digit to write, `negative` for each
 * sign. Squeezes the slots together without the bytes that are not wanted. */
__attribute__((target(AVX512_FEATURES ",bmi2,popcnt"), always_inline)) static inline char *
write_four(char *out, __m512i text, uint32_t kept, uint32_t negative)
{
    __m512i sign_and_comma = _mm512_set1_epi32(0x00202c2d); /* "-, " */
    __m512i slots =
        _mm512_permutex2var_epi8(text, _mm512_load_si512(SLOTS), sign_and_comma);
    uint64_t mask = _pdep_u64(kept, 0x01fe01fe01fe01fe) |
                    _pdep_u64(negative, 0x0001000100010001) | 0x0600060006000600;
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(mask, slots));
    return out + __builtin_popcountll(mask);
}

/* Eight values at a time, each in 64 bits: n = 1234560 becomes "1.234560". Eight
 * that are not all of the usual kind, 1e-4 <= |x| < 10, take the scalar way. */
__attribute__((target(AVX512_FEATURES ",bmi2,popcnt"))) static char *
write_values_avx512(char *out, const float *values, int64_t num_values)
{
    int64_t i = 0;
    for (; i + 8 <= num_values; i += 8) {
        __m256 x = _mm256_loadu_ps(values + i);
        uint32_t negative = (uint32_t)_mm256_movemask_ps(x);
        __m512d magnitude =
            _mm512_cvtps_pd(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x));
        __m512i n = _mm512_cvt_roundpd_epu64(
            _mm512_mul_pd(magnitude, _mm512_set1_pd(1e6)),
            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __mmask8 usual = _mm512_cmplt_epu64_mask(
            _mm512_sub_epi64(n, _mm512_set1_epi64(100)),
            _mm512_set1_epi64(10000000 - 100));
        if (UNLIKELY(usual != 0xff)) {
            out = write_values_scalar(out, values + i, 8);
            if (!out)
                return 0;
            continue;
        }
        /* Eight digits, the second 0: where the point will be. 1234560 -> 10234560.
         * Multiply and shift is division by 10^6, by 10^4, by 100 and by 10, exact
         * for every n in question (tests run through all of them). */
        __m512i integer =
            _mm512_srli_epi64(_mm512_mul_epu32(n, _mm512_set1_epi64(1125899907)), 50);
        n = _mm512_add_epi64(n, _mm512_mul_epu32(integer, _mm512_set1_epi64(9000000)));
        /* 1023 and 4560, in 32 bits each */
        __m512i high =
            _mm512_srli_epi64(_mm512_mul_epu32(n, _mm512_set1_epi64(3518437209)), 45);
        __m512i low =
            _mm512_sub_epi64(n, _mm512_mul_epu32(high, _mm512_set1_epi64(10000)));
        __m512i halves = _mm512_or_si512(high, _mm512_slli_epi64(low, 32));
        /* 10, 23, 45, 60, in 16 bits each */
        high = _mm512_srli_epi16(
            _mm512_mulhi_epu16(halves, _mm512_set1_epi32(10486)), 4);
        low = _mm512_sub_epi16(halves,
                               _mm512_mullo_epi16(high, _mm512_set1_epi32(100)));
        __m512i pairs = _mm512_or_si512(high, _mm512_slli_epi32(low, 16));
        /* 1, 0, 2, 3, 4, 5, 6, 0, in 8 bits each */
        high = _mm512_mulhi_epu16(pairs, _mm512_set1_epi16(6554));
        low = _mm512_sub_epi16(pairs, _mm512_mullo_epi16(high, _mm512_set1_epi16(10)));
        __m512i digits = _mm512_or_si512(high, _mm512_slli_epi16(low, 8));

        /* A byte is kept if it or one after it is not 0, and "0.0" always. */
        __m512i kept = _mm512_or_si512(digits, _mm512_set1_epi64(0x010000));
        kept = _mm512_or_si512(kept, _mm512_srli_epi64(kept, 8));
        kept = _mm512_or_si512(kept, _mm512_srli_epi64(kept, 16));
        kept = _mm512_or_si512(kept, _mm512_srli_epi64(kept, 32));
        uint64_t kept_mask = _mm512_test_epi8_mask(kept, kept);

        __m512i text = _mm512_add_epi8(digits, _mm512_set1_epi64(0x3030303030302e30));
        out = write_four(out, text, (uint32_t)kept_mask, negative & 15);
        out = write_four(out, _mm512_shuffle_i64x2(text, text, 0xee),
                         (uint32_t)(kept_mask >> 32), negative >> 4);
    }
    return write_values_scalar(out, values + i, num_values - i);
}
#endif

/* The form that a call takes: the best, up to `form`, that was built and that the CPU
 * has. 0 is plain C, 1 AVX2, 2 AVX-512. */
int bert_extract_json_form(int form)
{
#ifdef HAVE_VECTOR_CODE
    if (form >= 2 && have_avx512())
        return 2;
    if (form >= 1 && have_avx2())
        return 1;
#else
    (void)form;
#endif
    return 0;
}

/* Write one record.
 *
 * layers: num_layers pointers to float32 [num_tokens, hidden_size].
 * token_blob, token_ends: num_tokens + 1 pieces, one before each token's layers and
 *     one after the last; a piece ends where the next begins.
 * layer_blob, layer_ends: num_layers + 1 pieces, one before each layer's values and
 *     one after the last.
 * form: the best one to take; less than 2 is for tests and benchmarks.
 * out: the pieces' bytes, 19 for a value and 64 more must fit.
 *
 * Returns the number of bytes written; -1 if a value is not finite or is 1e9 or more.
 */
int64_t bert_extract_write_record(const float *const *layers, int64_t num_tokens,
                                  int64_t num_layers, int64_t hidden_size,
                                  const char *token_blob, const int64_t *token_ends,
                                  const char *layer_blob, const int64_t *layer_ends,
                                  int form, char *out)
{
    char *(*write_values)(char *, const float *, int64_t) = write_values_scalar;
    char *begin = out;
    form = bert_extract_json_form(form);
#ifdef HAVE_VECTOR_CODE
    if (form == 2)
        write_values = write_values_avx512;
    else if (form == 1)
        write_values = write_values_avx2;
#endif
    for (int64_t token = 0; token < num_tokens; token++) {
        out = write_piece(out, token_blob, token_ends, token);
        for (int64_t layer = 0; layer < num_layers; layer++) {
            out = write_piece(out, layer_blob, layer_ends, layer);
            out = write_values(out, layers[layer] + token * hidden_size, hidden_size);
            if (!out)
                return -1;
            if (hidden_size)
                out -= 2; /* no comma after the last value */
        }
        out = write_piece(out, layer_blob, layer_ends, num_layers);
    }
    out = write_piece(out, token_blob, token_ends, num_tokens);
    return out - begin;
}
