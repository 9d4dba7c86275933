/* Attention of one head, and gelu, for one width of vectors: see _encoder_kernel.c, which
 * includes this file once for AVX2 and once for AVX-512.
 *
 * Both forms do the same operations on each number in the same order, so their bits are
 * the same. What is written as V_FMA is rounded once; the compiler may join nothing else
 * (-ffp-contract=off).
 */

/* Columns of a panel: two vectors, so that six rows of sums keep the adders busy. */
#define PANEL (2 * WIDTH)

/* exp(x) for x <= 0, to 1.1 units in the last place; 0 where it would be denormal.
 *
 * exp(x) = 2^n exp(r) with |r| <= ln(2) / 2; exp(r) is a polynomial, fitted to 4e-9. */
TARGET static inline VECTOR FORM(exp)(VECTOR x)
{
    INTEGERS n = V_ROUND(V_MUL(x, V_SPLAT(1.44269504f)));
    VECTOR rounded = V_TO_FLOAT(n);
    VECTOR r = V_FMA(rounded, V_SPLAT(-0.693145752f), x); /* ln(2), exact times n, */
    r = V_FMA(rounded, V_SPLAT(-1.42860682e-6f), r);      /* and the rest of it */
    VECTOR sum = V_SPLAT(0x1.686acap-10f);
    sum = V_FMA(sum, r, V_SPLAT(0x1.124188p-7f));
    sum = V_FMA(sum, r, V_SPLAT(0x1.555b94p-5f));
    sum = V_FMA(sum, r, V_SPLAT(0x1.555486p-3f));
    sum = V_FMA(sum, r, V_SPLAT(0x1.fffff8p-2f));
    sum = V_FMA(sum, V_MUL(r, r), r);
    sum = V_ADD(sum, V_SPLAT(1.0f));
    /* Times 2^n, not added to the exponent: what is not a number stays so. */
    return V_ZERO_BELOW(x, SMALLEST_LOGARITHM, V_MUL(sum, V_POWER_OF_TWO(n)));
}

/* [num_rows, depth] times a panel [depth, PANEL] -> [num_rows, PANEL]. */
TARGET static inline __attribute__((always_inline)) void FORM(multiply_rows)(
    int num_rows, const float *left, int64_t left_stride, const float *panel,
    int64_t depth, float *out, int64_t out_stride)
{
    VECTOR sums[MOST_ROWS][2];
    for (int row = 0; row < num_rows; row++)
        sums[row][0] = sums[row][1] = V_SPLAT(0.0f);
    for (int64_t k = 0; k < depth; k++) {
        VECTOR first = V_LOAD(panel + k * PANEL);
        VECTOR second = V_LOAD(panel + k * PANEL + WIDTH);
        for (int row = 0; row < num_rows; row++) {
            VECTOR value = V_SPLAT(left[row * left_stride + k]);
            sums[row][0] = V_FMA(value, first, sums[row][0]);
            sums[row][1] = V_FMA(value, second, sums[row][1]);
        }
    }
    for (int row = 0; row < num_rows; row++) {
        V_STORE(out + row * out_stride, sums[row][0]);
        V_STORE(out + row * out_stride + WIDTH, sums[row][1]);
    }
}

/* The same for all panels of a matrix, one behind the other. */
TARGET static void FORM(multiply)(
    int num_rows, const float *left, int64_t left_stride, const float *panels,
    int64_t depth, int64_t num_panels, float *out, int64_t out_stride)
{
    for (int64_t number = 0; number < num_panels; number++) {
        const float *panel = panels + number * depth * PANEL;
        float *here = out + number * PANEL;
#define ROWS(n) \
    case n: \
        FORM(multiply_rows)(n, left, left_stride, panel, depth, here, out_stride); \
        break;
        switch (num_rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
#undef ROWS
    }
}

/* [num_rows, size] -> panels of its transpose, [size, num_rows] filled up with zeros. */
TARGET static void FORM(pack_transposed)(
    const float *rows, int64_t stride, int64_t num_rows, int64_t size, float *panels)
{
    for (int64_t first = 0; first < num_rows; first += PANEL) {
        float *panel = panels + first * size;
        int64_t num_own = num_rows - first < PANEL ? num_rows - first : PANEL;
        if (num_own < PANEL)
            memset(panel, 0, (size_t)(size * PANEL) * sizeof *panel);
        int64_t row = 0;
        for (; row + 4 <= num_own && size % 4 == 0; row += 4) {
            const float *from = rows + (first + row) * stride;
            for (int64_t k = 0; k < size; k += 4) {
                __m128 a = _mm_loadu_ps(from + k);
                __m128 b = _mm_loadu_ps(from + stride + k);
                __m128 c = _mm_loadu_ps(from + 2 * stride + k);
                __m128 d = _mm_loadu_ps(from + 3 * stride + k);
                _MM_TRANSPOSE4_PS(a, b, c, d);
                float *to = panel + k * PANEL + row;
                _mm_storeu_ps(to, a);
                _mm_storeu_ps(to + PANEL, b);
                _mm_storeu_ps(to + 2 * PANEL, c);
                _mm_storeu_ps(to + 3 * PANEL, d);
            }
        }
        for (; row < num_own; row++)
            for (int64_t k = 0; k < size; k++)
                panel[k * PANEL + row] = rows[(first + row) * stride + k];
    }
}

/* [num_rows, size] -> panels of it, filled up with zeros. */
TARGET static void FORM(pack)(
    const float *rows, int64_t stride, int64_t num_rows, int64_t size, float *panels)
{
    for (int64_t first = 0; first < size; first += PANEL) {
        float *panel = panels + first * num_rows;
        int64_t num_own = size - first < PANEL ? size - first : PANEL;
        for (int64_t row = 0; row < num_rows; row++) {
            const float *from = rows + row * stride + first;
            float *to = panel + row * PANEL;
            if (num_own == PANEL) {
                V_STORE(to, V_LOAD(from));
                V_STORE(to + WIDTH, V_LOAD(from + WIDTH));
            } else {
                memset(to, 0, PANEL * sizeof *to);
                memcpy(to, from, (size_t)num_own * sizeof *to);
            }
        }
    }
}

/* Scores of one row -> exp(score * scale - the largest), and their sum.
 *
 * The sum has LANES parts in any form, which are added last. */
TARGET static float FORM(exponentials)(
    float *scores, int64_t num_scores, int64_t padded, float scale)
{
    for (int64_t i = num_scores; i < padded; i++)
        scores[i] = -FLT_MAX;
    VECTOR factor = V_SPLAT(scale), largest = V_SPLAT(-FLT_MAX);
    for (int64_t i = 0; i < padded; i += WIDTH) {
        VECTOR scaled = V_MUL(V_LOAD(scores + i), factor);
        V_STORE(scores + i, scaled);
        largest = V_MAX(scaled, largest);
    }
    float lanes[LANES];
    V_STORE(lanes, largest);
    for (int lane = 1; lane < WIDTH; lane++)
        lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    largest = V_SPLAT(lanes[0]);
    VECTOR sums[LANES / WIDTH];
    for (int part = 0; part < LANES / WIDTH; part++)
        sums[part] = V_SPLAT(0.0f);
    for (int64_t i = 0; i < padded; i += PANEL)
        for (int part = 0; part < 2; part++) {
            float *here = scores + i + part * WIDTH;
            VECTOR value = FORM(exp)(V_SUB(V_LOAD(here), largest));
            V_STORE(here, value);
            VECTOR *sum = &sums[part % (LANES / WIDTH)];
            *sum = V_ADD(*sum, value);
        }
    for (int part = 0; part < LANES / WIDTH; part++)
        V_STORE(lanes + part * WIDTH, sums[part]);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* softmax(query key^T scale) value of one head of one line. */
TARGET static void FORM(attend)(const struct head *head, struct scratch *scratch)
{
    int64_t length = head->length, size = head->size;
    int64_t padded = (length + PANEL - 1) / PANEL * PANEL;
    int64_t wide = (size + PANEL - 1) / PANEL * PANEL;
    FORM(pack_transposed)(head->key, head->stride, length, size, scratch->keys);
    FORM(pack)(head->value, head->stride, length, size, scratch->values);
    for (int64_t first = 0; first < length; first += MOST_ROWS) {
        int num_rows = length - first < MOST_ROWS ? (int)(length - first) : MOST_ROWS;
        float sums[MOST_ROWS];
        FORM(multiply)(num_rows, head->query + first * head->stride, head->stride,
                       scratch->keys, size, padded / PANEL, scratch->scores, padded);
        for (int row = 0; row < num_rows; row++)
            sums[row] = FORM(exponentials)(
                scratch->scores + row * padded, length, padded, head->scale);
        FORM(multiply)(num_rows, scratch->scores, padded, scratch->values, length,
                       wide / PANEL, scratch->sums, wide);
        for (int row = 0; row < num_rows; row++) {
            float *sum = scratch->sums + row * wide;
            for (int64_t i = 0; i < wide; i += WIDTH)
                V_STORE(sum + i, V_DIV(V_LOAD(sum + i), V_SPLAT(sums[row])));
            memcpy(head->context + (first + row) * head->context_stride, sum,
                   (size_t)size * sizeof *sum);
        }
    }
}

/* x sigmoid(2 z), which is x (1 + tanh(z)) / 2: z = sqrt(2 / pi) (x + 0.044715 x^3). */
TARGET static inline VECTOR FORM(gelu_tanh)(VECTOR x)
{
    VECTOR factor = V_FMA(V_MUL(x, x), V_SPLAT(0.0713548163f), V_SPLAT(1.59576912f));
    VECTOR twice = V_MUL(x, factor);
    /* Of -|2 z|, so that it is at most 1. */
    VECTOR e = FORM(exp)(V_NEGATIVE(twice));
    VECTOR weight = V_IF_NEGATIVE(twice, e, V_SPLAT(1.0f));
    return V_DIV(V_MUL(x, weight), V_ADD(V_SPLAT(1.0f), e));
}

/* x Phi(x), Phi being the normal distribution function.
 *
 * Phi(-t) = exp(-t^2 / 2) times a polynomial of 1 / (1 + 0.3 t), for t >= 0: fitted here,
 * of degree 7, with which gelu is within 3e-10 up to t = 12; behind that it is x or 0. */
TARGET static inline VECTOR FORM(gelu_erf)(VECTOR x)
{
    VECTOR t = V_SUB(V_SPLAT(0.0f), V_NEGATIVE(x));
    VECTOR s = V_DIV(V_SPLAT(1.0f), V_FMA(t, V_SPLAT(0.3f), V_SPLAT(1.0f)));
    VECTOR sum = V_SPLAT(0x1.a48ebep-5f);
    sum = V_FMA(sum, s, V_SPLAT(-0x1.4966c8p-2f));
    sum = V_FMA(sum, s, V_SPLAT(0x1.67f7eap-1f));
    sum = V_FMA(sum, s, V_SPLAT(-0x1.161eep-1f));
    sum = V_FMA(sum, s, V_SPLAT(0x1.e9e1acp-2f));
    sum = V_FMA(sum, s, V_SPLAT(-0x1.794bb4p-7f));
    sum = V_FMA(sum, s, V_SPLAT(0x1.2ab8d8p-3f));
    sum = V_FMA(sum, s, V_SPLAT(-0x1.286ee4p-9f));
    VECTOR e = FORM(exp)(V_MUL(V_MUL(t, t), V_SPLAT(-0.5f)));
    VECTOR tail = V_MUL(e, sum);
    return V_MUL(x, V_IF_NEGATIVE(x, tail, V_SUB(V_SPLAT(1.0f), tail)));
}

/* The function of each of the numbers, which may be written where they stand. */
#define EACH(function) \
    TARGET static void FORM(each_##function)(const float *from, int64_t num, float *to) \
    { \
        int64_t i = 0; \
        for (; i + WIDTH <= num; i += WIDTH) \
            V_STORE(to + i, FORM(function)(V_LOAD(from + i))); \
        if (i < num) { \
            float last[WIDTH] = {0}; \
            memcpy(last, from + i, (size_t)(num - i) * sizeof *last); \
            V_STORE(last, FORM(function)(V_LOAD(last))); \
            memcpy(to + i, last, (size_t)(num - i) * sizeof *last); \
        } \
    }
EACH(gelu_tanh)
EACH(gelu_erf)
#undef EACH
#undef PANEL
