/* A line of JSON as _json_kernel.c writes it -> float32 vectors.
 *
 * A plain shared library without Python.h, as _json_kernel.c is. One call reads one
 * line. json_parser.py is its only caller; it gives a line that has any other form to
 * Python's json, so that nothing here needs to know more of JSON than what we write.
 * tests/output/test_json_parser.py holds the two equal.
 *
 * Why the values are the same bit for bit. Python reads a decimal as the float64 that
 * is nearest to it, and NumPy makes of that the nearest float32. The values that are
 * read here have at most 15 digits: as an integer n they fit in a float64, and so does
 * 10^6. IEEE's quotient of two float64 is the one nearest to the true quotient, which
 * is the decimal; the conversion to float32 is the same as NumPy's.
 *
 * At most the byte after the line is read, which Python's bytes have: a value takes
 * three bytes or more and six more come after it, "]}]}]}", so where fewer than nine
 * are left there is none; eight are taken at once, behind a sign, and the next one.
 */
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "digits are read as little-endian words; the Python path does the job here"
#endif

#ifdef __GNUC__
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COUNT_LOW_ZEROS(word) ((unsigned)__builtin_ctzll(word))
#else
#define UNLIKELY(condition) (condition)
static unsigned COUNT_LOW_ZEROS(uint64_t word)
{
    unsigned count = 0;
    while (!(word & 1)) {
        word >>= 1;
        count++;
    }
    return count;
}
#endif

/* What the lines of a file have in common; json_parser.py fills it in. */
struct shape {
    const char *layer_blob;    /* what stands before each layer's values, and after */
    const int64_t *layer_ends; /* the last's: num_layers + 1 pieces */
    const int64_t *positions;  /* where each layer belongs in `values`; -1 nowhere */
    int64_t num_layers;
    int64_t size; /* of one vector, at least 1 */
};

/* What a call finds, beside the vectors. */
struct found {
    int64_t linex_index;
    int64_t tokens_end; /* bytes written to `tokens` */
    int64_t texts_end;  /* bytes written to `texts`; -1 if there are none */
    int64_t has_offsets;
};

/* Where to read, and where the line ends. All functions that return a place return
 * NULL for what is not of our form. */
static const char *expect(const char *at, const char *end, const char *text, size_t size)
{
    if ((size_t)(end - at) < size || memcmp(at, text, size))
        return 0;
    return at + size;
}

#define EXPECT(at, end, text) expect(at, end, text, sizeof text - 1)

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A whole number of at most 18 digits, without a sign. */
static const char *read_integer(const char *at, const char *end, int64_t *number)
{
    const char *begin = at;
    int64_t value = 0;
    while (at < end && is_digit(*at) && at - begin < 18)
        value = 10 * value + (*at++ - '0');
    if (at == begin || (*begin == '0' && at - begin > 1))
        return 0;
    *number = value;
    return at;
}

/* Copy a string with its quotes, and a comma after it. Escapes stay as they are. */
static const char *read_string(const char *at, const char *end, char **out)
{
    const char *begin = at;
    if (at == end || *at++ != '"')
        return 0;
    while (at < end && *at != '"') {
        if ((unsigned char)*at < 0x20 || (unsigned char)*at > 0x7e)
            return 0;
        at += *at == '\\' ? 2 : 1;
    }
    if (at >= end)
        return 0;
    at++;
    memcpy(*out, begin, (size_t)(at - begin));
    *out += at - begin;
    *(*out)++ = ',';
    return at;
}

/* [12, 34] or null, which becomes -1, -1. */
static const char *read_offset(const char *at, const char *end, int64_t *offset)
{
    offset[0] = offset[1] = -1;
    if (at < end && *at == 'n')
        return EXPECT(at, end, "null");
    if (!(at = EXPECT(at, end, "[")) || !(at = read_integer(at, end, offset)))
        return 0;
    if (!(at = EXPECT(at, end, ", ")) || !(at = read_integer(at, end, offset + 1)))
        return 0;
    return EXPECT(at, end, "]");
}

/* The magnitudes that are rare: "12.5", "123456789.123456", "7e-06", "7.5e-05". */
static const char *read_rare_value(const char *at, const char *end, double *value)
{
    int64_t n;
    const char *begin = at;
    if (!(at = read_integer(at, end, &n)) || at - begin > 9)
        return 0;
    int64_t num_decimals = 0;
    if (at < end && *at == '.') {
        for (at++; at < end && is_digit(*at) && num_decimals < 6; num_decimals++)
            n = 10 * n + (*at++ - '0');
        if (!num_decimals)
            return 0;
    }
    if (end - at >= 4 && !memcmp(at, "e-0", 3)) {
        /* one digit, and with e-05 one decimal: so many millionths */
        int64_t num_zeros = '6' - at[3] - num_decimals;
        if (n > 99 || num_decimals > 1 || num_zeros < 0 || num_zeros > 1)
            return 0;
        *value = (double)(num_zeros ? 10 * n : n) / 1e6;
        return at + 4;
    }
    if (!num_decimals) /* an integer, or an exponent that we don't write */
        return 0;
    for (; num_decimals < 6; num_decimals++)
        n *= 10;
    *value = (double)n / 1e6;
    return at;
}

/* Read `size` values with ", " between them. */
static const char *read_values(const char *at, const char *end, float *out, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        if (UNLIKELY(end - at < 9))
            return 0;
        int is_negative = *at == '-';
        const char *begin = at + is_negative;
        uint64_t word;
        memcpy(&word, begin, 8);
        /* "1.234500" -> 1, 0x1e, 2, 3, 4, 5, 0, 0. The highest bit of a byte in
         * `others` says that it is no digit; only the lowest such bit is sure. */
        word ^= 0x3030303030303030;
        uint64_t others = (word | (word + 0x7676767676767676)) & 0x8080808080808080;
        int is_usual = (others & 0x808080) == 0x8000 && (word & 0xff00) == 0x1e00;
        /* Bits up to the last of the decimals after the first: there are 0 to 5. */
        unsigned num_bits = COUNT_LOW_ZEROS(others >> 24 | 1ull << 47) & 56;
        at = begin + 3 + num_bits / 8;
        double magnitude;
        if (UNLIKELY(!is_usual || *at == 'e')) {
            at = read_rare_value(begin, end, &magnitude);
            if (!at)
                return 0;
        } else {
            word &= ~0ull >> (40 - num_bits);
            /* 0, 1, 2, 3, 4, 5, 0, 0: eight digits, which pairwise become numbers. */
            word = (word & 0xff) << 8 | (word & ~0xffffull);
            word = word * 10 + (word >> 8);
            uint64_t high = (word & 0x000000ff000000ff) * (100 + (1000000ull << 32));
            uint64_t low = (word >> 16 & 0x000000ff000000ff) * (1 + (10000ull << 32));
            magnitude = (double)(int64_t)((high + low) >> 32) / 1e6;
        }
        float value = (float)magnitude;
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits |= (uint32_t)is_negative << 31;
        memcpy(out + i, &bits, 4);
        if (i + 1 < size && !(at = EXPECT(at, end, ", ")))
            return 0;
    }
    return at;
}

/* Read all layers of an entry, up to and with the "]}" after the last. */
static const char *read_layers(const char *at, const char *end,
                               const struct shape *shape, float *values,
                               int64_t num_tokens, int64_t token)
{
    int64_t begin = 0;
    for (int64_t layer = 0; layer <= shape->num_layers; layer++) {
        int64_t piece_end = shape->layer_ends[layer];
        at = expect(at, end, shape->layer_blob + begin, (size_t)(piece_end - begin));
        begin = piece_end;
        if (!at || layer == shape->num_layers)
            break;
        int64_t position = shape->positions[layer];
        if (position < 0) {
            at = memchr(at, ']', (size_t)(end - at));
        } else {
            float *row = values + (position * num_tokens + token) * shape->size;
            at = read_values(at, end, row, shape->size);
        }
        if (!at)
            break;
    }
    return at;
}

/* Read one line.
 *
 * line, size: it ends with "]}" or a newline after that.
 * shape: what is expected of it.
 * num_tokens: entries that it has, at least 1.
 * values: float32 [positions, num_tokens, shape->size].
 * tokens, texts: each gets strings as they stand in the line, with a comma after
 *     each; as many bytes as the line has must fit.
 * offsets: int64 [num_tokens, 2].
 *
 * Returns 1; 0 if the line is of any other form, and then what was written is void.
 */
int bert_extract_read_record(const char *line, int64_t size, const struct shape *shape,
                             int64_t num_tokens, float *values, char *tokens,
                             char *texts, int64_t *offsets, struct found *found)
{
    const char *at = line, *end = line + size;
    char *tokens_end = tokens, *texts_end = texts;
    int has_texts = 0, has_offsets = 0;
    if (size && end[-1] == '\n')
        end--;
    if (!(at = EXPECT(at, end, "{\"linex_index\": ")) ||
        !(at = read_integer(at, end, &found->linex_index)) ||
        !(at = EXPECT(at, end, ", \"features\": [")))
        return 0;
    for (int64_t token = 0; token < num_tokens; token++) {
        const char *next;
        if (token && !(at = EXPECT(at, end, ", ")))
            return 0;
        if (!(at = EXPECT(at, end, "{\"token\": ")) ||
            !(at = read_string(at, end, &tokens_end)))
            return 0;
        next = EXPECT(at, end, ", \"text\": ");
        if (token && has_texts != (next != 0))
            return 0;
        has_texts = next != 0;
        if (next && !(at = read_string(next, end, &texts_end)))
            return 0;
        next = EXPECT(at, end, ", \"offset\": ");
        if (token && has_offsets != (next != 0))
            return 0;
        has_offsets = next != 0;
        if (next && !(at = read_offset(next, end, offsets + 2 * token)))
            return 0;
        if (!(at = EXPECT(at, end, ", \"layers\": [")) ||
            !(at = read_layers(at, end, shape, values, num_tokens, token)) ||
            !(at = EXPECT(at, end, "]}")))
            return 0;
    }
    if (!(at = EXPECT(at, end, "]}")) || at != end)
        return 0;
    found->tokens_end = tokens_end - tokens;
    found->texts_end = has_texts ? texts_end - texts : -1;
    found->has_offsets = has_offsets;
    return 1;
}
