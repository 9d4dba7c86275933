/* Bytes -> the CRC-32 that zlib.crc32 computes, several times as fast.
 *
 * A plain shared library without Python.h, as _json_kernel.c is. checksum.py is its
 * only caller and takes zlib's where this was not built or the machine cannot;
 * tests/output/test_checksum.py holds them equal.
 *
 * A polynomial over GF(2) may be replaced by another with the same remainder. What
 * stands d bits before the end of the bytes is multiplied by x^d mod P with one
 * instruction and added to what stands there, until 16 bytes are left whose remainder
 * is that of all. The factors are those of P = 0x104C11DB7 in its reflected form.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* Old compilers do not know these instructions; other machines do not have them. */
#if (defined(__clang__) && __clang_major__ >= 9) || \
    (!defined(__clang__) && __GNUC__ >= 9)
#define HAVE_WIDE_CODE 1
#endif

/* The plain way, bit by bit: for the few bytes that are left in the end. */
static uint32_t divide(uint32_t state, const unsigned char *bytes, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        state ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            state = (state >> 1) ^ (0xEDB88320u & (0u - (state & 1)));
    }
    return state;
}

__attribute__((target("pclmul,sse2")))
static inline __m128i fold(__m128i sum, __m128i factors, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(sum, factors, 0x00);
    __m128i high = _mm_clmulepi64_si128(sum, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

__attribute__((target("pclmul,sse2")))
static inline __m128i load(const unsigned char *bytes)
{
    return _mm_loadu_si128((const __m128i *)bytes);
}

/* At least 64 bytes. */
__attribute__((target("pclmul,sse2")))
static uint32_t divide_fast(uint32_t state, const unsigned char *bytes, int64_t size)
{
    const __m128i over_64_bytes = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i over_16_bytes = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const unsigned char *end = bytes + size;
    __m128i sums[4];
    for (int i = 0; i < 4; i++)
        sums[i] = load(bytes + 16 * i);
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128((int)state));
    for (bytes += 64; end - bytes >= 64; bytes += 64)
        for (int i = 0; i < 4; i++)
            sums[i] = fold(sums[i], over_64_bytes, load(bytes + 16 * i));
    __m128i sum = sums[0];
    for (int i = 1; i < 4; i++)
        sum = fold(sum, over_16_bytes, sums[i]);
    for (; end - bytes >= 16; bytes += 16)
        sum = fold(sum, over_16_bytes, load(bytes));
    unsigned char left[16];
    _mm_storeu_si128((__m128i *)left, sum);
    return divide(divide(0, left, 16), bytes, end - bytes);
}

#ifdef HAVE_WIDE_CODE
/* At least 256 bytes: the same with four times as many at once. */
__attribute__((target("avx512f,vpclmulqdq")))
static uint32_t divide_wide(uint32_t state, const unsigned char *bytes, int64_t size)
{
    const __m512i over_256_bytes =
        _mm512_broadcast_i32x4(_mm_set_epi64x(0x1322d1430, 0x11542778a));
    const unsigned char *end = bytes + size;
    __m512i sums[4];
    for (int i = 0; i < 4; i++)
        sums[i] = _mm512_loadu_si512(bytes + 64 * i);
    __m512i first = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state));
    sums[0] = _mm512_xor_si512(sums[0], first);
    for (bytes += 256; end - bytes >= 256; bytes += 256)
        for (int i = 0; i < 4; i++) {
            __m512i low = _mm512_clmulepi64_epi128(sums[i], over_256_bytes, 0x00);
            __m512i high = _mm512_clmulepi64_epi128(sums[i], over_256_bytes, 0x11);
            __m512i next = _mm512_loadu_si512(bytes + 64 * i);
            sums[i] = _mm512_xor_si512(_mm512_xor_si512(low, high), next);
        }
    unsigned char left[256];
    for (int i = 0; i < 4; i++)
        _mm512_storeu_si512(left + 64 * i, sums[i]);
    state = divide_fast(0, left, sizeof left);
    size = end - bytes;
    return (size < 64 ? divide : divide_fast)(state, bytes, size);
}
#endif

/* 0: no way is known here. 1: what every machine of the last ten years has. 2: wide. */
int bert_extract_crc32_level(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("pclmul"))
        return 0;
#ifdef HAVE_WIDE_CODE
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq"))
        return 2;
#endif
    return 1;
}

uint32_t bert_extract_crc32(uint32_t crc, const unsigned char *bytes, int64_t size,
                            int level)
{
#ifdef HAVE_WIDE_CODE
    if (level == 2 && size >= 256)
        return ~divide_wide(~crc, bytes, size);
#endif
    (void)level;
    return ~(size < 64 ? divide : divide_fast)(~crc, bytes, size);
}

#else

int bert_extract_crc32_level(void)
{
    return 0;
}

#endif
