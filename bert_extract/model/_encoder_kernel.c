/* TensorFlow operations of our own, for the CPU: what lies between the products.
 *
 * BertExtractGelu: in one pass where TensorFlow's operations take six, for kernels that
 * do not compute it inside the product before it.
 *
 * BertExtractAttention: lines of any lengths, row after row, without padding. One pass
 * over query, key and value, head by head; in TensorFlow's operations it takes four
 * transposes, which cost as much as the products, and lines padded to one length.
 * A line's context depends on that line's rows alone.
 *
 * A plain shared library that is built without TensorFlow: encoder_kernel.py, its only
 * caller, hands over the functions of TensorFlow's C API (tensorflow/c/c_api.h,
 * kernels.h and ops.h) that it needs. tests/model/test_encoder_kernel.py holds it
 * against the same in float64.
 */
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && \
    ((defined(__clang__) && __clang_major__ >= 9) || \
     (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 9))
#include <immintrin.h>
#else
#error "only AVX2 and AVX-512 have a form here; TensorFlow's operations do the job"
#endif

/* -- TensorFlow's C API, as far as it is needed */

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;

enum { TF_FLOAT = 1, TF_INT32 = 3, TF_BFLOAT16 = 14 };
enum { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8 };

/* In the order in which encoder_kernel.py has their names. */
struct api {
    TF_Status *(*TF_NewStatus)(void);
    void (*TF_DeleteStatus)(TF_Status *);
    void (*TF_SetStatus)(TF_Status *, int, const char *);
    int (*TF_GetCode)(const TF_Status *);
    TF_OpDefinitionBuilder *(*TF_NewOpDefinitionBuilder)(const char *);
    void (*TF_OpDefinitionBuilderAddAttr)(TF_OpDefinitionBuilder *, const char *);
    void (*TF_OpDefinitionBuilderAddInput)(TF_OpDefinitionBuilder *, const char *);
    void (*TF_OpDefinitionBuilderAddOutput)(TF_OpDefinitionBuilder *, const char *);
    void (*TF_OpDefinitionBuilderSetShapeInferenceFunction)(
        TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *));
    void (*TF_RegisterOpDefinition)(TF_OpDefinitionBuilder *, TF_Status *);
    TF_KernelBuilder *(*TF_NewKernelBuilder)(
        const char *, const char *, void *(*)(TF_OpKernelConstruction *),
        void (*)(void *, TF_OpKernelContext *), void (*)(void *));
    void (*TF_RegisterKernelBuilder)(const char *, TF_KernelBuilder *, TF_Status *);
    void (*TF_OpKernelConstruction_GetAttrInt32)(
        TF_OpKernelConstruction *, const char *, int32_t *, TF_Status *);
    void (*TF_OpKernelConstruction_Failure)(TF_OpKernelConstruction *, TF_Status *);
    void (*TF_OpKernelContext_Failure)(TF_OpKernelContext *, TF_Status *);
    void (*TF_GetInput)(TF_OpKernelContext *, int, TF_Tensor **, TF_Status *);
    TF_Tensor *(*TF_AllocateOutput)(
        TF_OpKernelContext *, int, int, const int64_t *, int, size_t, TF_Status *);
    TF_Tensor *(*TF_ForwardInputOrAllocateOutput)(
        TF_OpKernelContext *, const int *, int, int, const int64_t *, int, int *,
        TF_Status *);
    int (*TF_TensorType)(const TF_Tensor *);
    int (*TF_NumDims)(const TF_Tensor *);
    int64_t (*TF_Dim)(const TF_Tensor *, int);
    void *(*TF_TensorData)(const TF_Tensor *);
    void (*TF_DeleteTensor)(TF_Tensor *);
    TF_ShapeHandle *(*TF_NewShapeHandle)(void);
    void (*TF_DeleteShapeHandle)(TF_ShapeHandle *);
    void (*TF_ShapeInferenceContextGetInput)(
        TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *);
    void (*TF_ShapeInferenceContextSetOutput)(
        TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *);
};

static struct api tf;

/* -- attention of one head */

enum { MOST_ROWS = 6, LANES = 16, WIDEST_PANEL = 32 };

/* exp of less is denormal. */
#define SMALLEST_LOGARITHM (-87.3365f)

struct head {
    const float *query, *key, *value; /* [length, size], each row a stride further */
    float *context;                   /* [length, size] */
    int64_t length, size, stride, context_stride;
    float scale;
};

struct scratch {
    float *keys, *values; /* panels */
    float *scores, *sums; /* of MOST_ROWS rows */
    float *heads;         /* bfloat16 as float32: query, key, value and context */
};

#define TARGET __attribute__((target("avx2,fma")))
#define FORM(name) name##_avx2
#define WIDTH 8
#define VECTOR __m256
#define INTEGERS __m256i
#define V_LOAD _mm256_loadu_ps
#define V_STORE _mm256_storeu_ps
#define V_SPLAT _mm256_set1_ps
#define V_ADD _mm256_add_ps
#define V_SUB _mm256_sub_ps
#define V_MUL _mm256_mul_ps
#define V_DIV _mm256_div_ps
#define V_FMA _mm256_fmadd_ps
#define V_MAX _mm256_max_ps
#define V_ROUND _mm256_cvtps_epi32
#define V_TO_FLOAT _mm256_cvtepi32_ps
#define V_POWER_OF_TWO(n) \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))
#define V_ZERO_BELOW(x, bound, value) \
    _mm256_and_ps(_mm256_cmp_ps(x, V_SPLAT(bound), _CMP_NLT_UQ), value)
#define V_NEGATIVE(x) _mm256_or_ps(x, V_SPLAT(-0.0f))
#define V_IF_NEGATIVE(x, value, other) _mm256_blendv_ps(other, value, x)
#include "_encoder_forms.h"
#undef TARGET
#undef FORM
#undef WIDTH
#undef VECTOR
#undef INTEGERS
#undef V_LOAD
#undef V_STORE
#undef V_SPLAT
#undef V_ADD
#undef V_SUB
#undef V_MUL
#undef V_DIV
#undef V_FMA
#undef V_MAX
#undef V_ROUND
#undef V_TO_FLOAT
#undef V_POWER_OF_TWO
#undef V_ZERO_BELOW
#undef V_NEGATIVE
#undef V_IF_NEGATIVE

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define FORM(name) name##_avx512
#define WIDTH 16
#define VECTOR __m512
#define INTEGERS __m512i
#define V_LOAD _mm512_loadu_ps
#define V_STORE _mm512_storeu_ps
#define V_SPLAT _mm512_set1_ps
#define V_ADD _mm512_add_ps
#define V_SUB _mm512_sub_ps
#define V_MUL _mm512_mul_ps
#define V_DIV _mm512_div_ps
#define V_FMA _mm512_fmadd_ps
#define V_MAX _mm512_max_ps
#define V_ROUND _mm512_cvtps_epi32
#define V_TO_FLOAT _mm512_cvtepi32_ps
#define V_POWER_OF_TWO(n) \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23))
#define V_ZERO_BELOW(x, bound, value) \
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, V_SPLAT(bound), _CMP_NLT_UQ), value)
#define V_NEGATIVE(x) _mm512_or_ps(x, V_SPLAT(-0.0f))
#define V_IF_NEGATIVE(x, value, other) \
    _mm512_mask_mov_ps(other, _mm512_movepi32_mask(_mm512_castps_si512(x)), value)
#include "_encoder_forms.h"

/* What the form in use has. */
static void (*attend)(const struct head *, struct scratch *);
static void (*each_gelu_tanh)(const float *, int64_t, float *);
static void (*each_gelu_erf)(const float *, int64_t, float *);

/* Takes the best form that the CPU has, or the named one; 0 if the CPU has it not. */
int bert_extract_choose_form(const char *name)
{
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512dq");
    if (has_avx512 && (!*name || !strcmp(name, "avx512"))) {
        attend = attend_avx512;
        each_gelu_tanh = each_gelu_tanh_avx512;
        each_gelu_erf = each_gelu_erf_avx512;
    } else if (has_avx2 && (!*name || !strcmp(name, "avx2"))) {
        attend = attend_avx2;
        each_gelu_tanh = each_gelu_tanh_avx2;
        each_gelu_erf = each_gelu_erf_avx2;
    } else {
        return 0;
    }
    return 1;
}

/* -- attention of a batch */

static void to_float32(
    const uint16_t *from, int64_t stride, int64_t length, int64_t size, float *to)
{
    for (int64_t row = 0; row < length; row++)
        for (int64_t i = 0; i < size; i++) {
            uint32_t bits = (uint32_t)from[row * stride + i] << 16;
            memcpy(to + row * size + i, &bits, sizeof bits);
        }
}

/* Rounds to the nearest, ties to even; what is not a number stays so. */
static void to_bfloat16(
    const float *from, int64_t length, int64_t size, uint16_t *to, int64_t stride)
{
    for (int64_t row = 0; row < length; row++)
        for (int64_t i = 0; i < size; i++) {
            uint32_t bits;
            memcpy(&bits, from + row * size + i, sizeof bits);
            uint32_t is_nan = (bits & 0x7fffffff) > 0x7f800000;
            uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            to[row * stride + i] = (uint16_t)(is_nan ? 0x7fc0 : rounded);
        }
}

/* One head of one line, whose first number stands `at` in each of the matrices. */
static void attend_head(
    const void *const *inputs, void *output, int is_bfloat16, int64_t at,
    struct head head, struct scratch *scratch)
{
    if (!is_bfloat16) {
        head.query = (const float *)inputs[0] + at;
        head.key = (const float *)inputs[1] + at;
        head.value = (const float *)inputs[2] + at;
        head.context = (float *)output + at;
        head.context_stride = head.stride;
        attend(&head, scratch);
        return;
    }
    int64_t all = head.length * head.size, stride = head.stride;
    float *heads = scratch->heads;
    for (int number = 0; number < 3; number++)
        to_float32((const uint16_t *)inputs[number] + at, stride, head.length, head.size,
                   heads + number * all);
    head.query = heads;
    head.key = heads + all;
    head.value = heads + 2 * all;
    head.context = heads + 3 * all;
    head.stride = head.context_stride = head.size;
    attend(&head, scratch);
    to_bfloat16(head.context, head.length, head.size, (uint16_t *)output + at, stride);
}

/* 1 / sqrt(size), rounded once. */
static float scale_of(int64_t size)
{
    __m128d root = _mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd((double)size));
    return (float)(1.0 / _mm_cvtsd_f64(root));
}

/* Query, key, value [R, H], the lengths of the lines -> context [R, H]; rows that are
 * no line's are zeros. Gives 0 where there is no memory. */
static int attend_batch(
    const void *const *inputs, void *output, int is_bfloat16, int64_t num_rows,
    int64_t hidden_size, int64_t num_heads, const int32_t *lengths, int64_t num_lines)
{
    int64_t size = hidden_size / num_heads, longest = 0, row = 0;
    size_t item_size = is_bfloat16 ? sizeof(uint16_t) : sizeof(float);
    for (int64_t line = 0; line < num_lines; line++)
        longest = lengths[line] > longest ? lengths[line] : longest;
    int64_t padded = (longest + WIDEST_PANEL - 1) / WIDEST_PANEL * WIDEST_PANEL;
    int64_t wide = (size + WIDEST_PANEL - 1) / WIDEST_PANEL * WIDEST_PANEL;
    int64_t num_floats = padded * size + longest * wide + MOST_ROWS * (padded + wide) +
                         (is_bfloat16 ? 4 * longest * size : 0);
    float *memory = malloc((size_t)num_floats * sizeof(float));
    if (!memory)
        return 0;
    struct scratch scratch;
    scratch.keys = memory;
    scratch.values = scratch.keys + padded * size;
    scratch.scores = scratch.values + longest * wide;
    scratch.sums = scratch.scores + MOST_ROWS * padded;
    scratch.heads = scratch.sums + MOST_ROWS * wide;
    for (int64_t line = 0; line < num_lines; line++) {
        struct head head = {0};
        head.length = lengths[line];
        head.size = size;
        head.stride = hidden_size;
        head.scale = scale_of(size);
        for (int64_t number = 0; number < num_heads; number++)
            attend_head(inputs, output, is_bfloat16, row * hidden_size + number * size,
                        head, &scratch);
        row += head.length;
    }
    memset((char *)output + (size_t)(row * hidden_size) * item_size, 0,
           (size_t)((num_rows - row) * hidden_size) * item_size);
    free(memory);
    return 1;
}

/* -- the operations */

/* What a kernel keeps: its attribute, which is an int. */
static void *make_kernel(TF_OpKernelConstruction *construction, const char *attribute)
{
    TF_Status *status = tf.TF_NewStatus();
    int32_t *value = malloc(sizeof *value);
    if (value)
        tf.TF_OpKernelConstruction_GetAttrInt32(construction, attribute, value, status);
    else
        tf.TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "no memory for an operation");
    if (tf.TF_GetCode(status) != TF_OK)
        tf.TF_OpKernelConstruction_Failure(construction, status);
    tf.TF_DeleteStatus(status);
    return value;
}

static void *make_attention(TF_OpKernelConstruction *construction)
{
    return make_kernel(construction, "num_heads");
}

static void *make_gelu(TF_OpKernelConstruction *construction)
{
    return make_kernel(construction, "is_erf");
}

/* What is wrong with the inputs; NULL if nothing is. */
static const char *find_fault(TF_Tensor *const *inputs, int64_t num_heads)
{
    for (int number = 0; number < 3; number++)
        if (tf.TF_NumDims(inputs[number]) != 2 ||
            tf.TF_Dim(inputs[number], 0) != tf.TF_Dim(inputs[0], 0) ||
            tf.TF_Dim(inputs[number], 1) != tf.TF_Dim(inputs[0], 1))
            return "query, key and value must be matrices of one shape";
    if (num_heads < 1 || tf.TF_Dim(inputs[0], 1) % num_heads)
        return "the width of query must be a multiple of num_heads";
    if (tf.TF_NumDims(inputs[3]) != 1)
        return "lengths must be a vector";
    const int32_t *lengths = tf.TF_TensorData(inputs[3]);
    int64_t num_rows = tf.TF_Dim(inputs[0], 0), sum = 0;
    for (int64_t line = 0; line < tf.TF_Dim(inputs[3], 0); line++) {
        if (lengths[line] < 1)
            return "lengths must be positive";
        sum += lengths[line];
    }
    return sum > num_rows ? "the sum of lengths exceeds the rows of query" : NULL;
}

static void compute_attention(void *kernel, TF_OpKernelContext *context)
{
    TF_Status *status = tf.TF_NewStatus();
    TF_Tensor *inputs[4] = {NULL}, *output = NULL;
    int64_t num_heads = *(int32_t *)kernel;
    for (int number = 0; number < 4 && tf.TF_GetCode(status) == TF_OK; number++)
        tf.TF_GetInput(context, number, &inputs[number], status);
    if (tf.TF_GetCode(status) == TF_OK) {
        const char *fault = find_fault(inputs, num_heads);
        if (fault)
            tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, fault);
    }
    if (tf.TF_GetCode(status) == TF_OK) {
        int type = tf.TF_TensorType(inputs[0]);
        int64_t shape[2] = {tf.TF_Dim(inputs[0], 0), tf.TF_Dim(inputs[0], 1)};
        size_t item_size = type == TF_BFLOAT16 ? sizeof(uint16_t) : sizeof(float);
        output = tf.TF_AllocateOutput(
            context, 0, type, shape, 2, (size_t)(shape[0] * shape[1]) * item_size, status);
        if (tf.TF_GetCode(status) == TF_OK) {
            const void *matrices[3] = {tf.TF_TensorData(inputs[0]),
                                       tf.TF_TensorData(inputs[1]),
                                       tf.TF_TensorData(inputs[2])};
            if (!attend_batch(matrices, tf.TF_TensorData(output), type == TF_BFLOAT16,
                              shape[0], shape[1], num_heads, tf.TF_TensorData(inputs[3]),
                              tf.TF_Dim(inputs[3], 0)))
                tf.TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "no memory for attention");
        }
    }
    if (tf.TF_GetCode(status) != TF_OK)
        tf.TF_OpKernelContext_Failure(context, status);
    for (int number = 0; number < 4; number++)
        if (inputs[number])
            tf.TF_DeleteTensor(inputs[number]);
    if (output)
        tf.TF_DeleteTensor(output);
    tf.TF_DeleteStatus(status);
}

/* Writes to where the input stands, if nobody else reads that. */
static void compute_gelu(void *kernel, TF_OpKernelContext *context)
{
    TF_Status *status = tf.TF_NewStatus();
    TF_Tensor *input = NULL, *output = NULL;
    const float *from = NULL;
    int64_t shape[2] = {0, 0};
    tf.TF_GetInput(context, 0, &input, status);
    if (tf.TF_GetCode(status) == TF_OK && tf.TF_NumDims(input) != 2)
        tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, "x must be a matrix");
    if (tf.TF_GetCode(status) == TF_OK) {
        from = tf.TF_TensorData(input);
        shape[0] = tf.TF_Dim(input, 0);
        shape[1] = tf.TF_Dim(input, 1);
    }
    /* Now, since a handle of it counts as a reader; the context keeps what it has. */
    if (input)
        tf.TF_DeleteTensor(input);
    if (tf.TF_GetCode(status) == TF_OK) {
        const int candidate = 0;
        int forwarded;
        output = tf.TF_ForwardInputOrAllocateOutput(
            context, &candidate, 1, 0, shape, 2, &forwarded, status);
    }
    if (tf.TF_GetCode(status) == TF_OK)
        (*(int32_t *)kernel ? each_gelu_erf : each_gelu_tanh)(
            from, shape[0] * shape[1], tf.TF_TensorData(output));
    if (tf.TF_GetCode(status) != TF_OK)
        tf.TF_OpKernelContext_Failure(context, status);
    if (output)
        tf.TF_DeleteTensor(output);
    tf.TF_DeleteStatus(status);
}

/* The output has the shape of the first input. */
static void infer_shape(TF_ShapeInferenceContext *context, TF_Status *status)
{
    TF_ShapeHandle *shape = tf.TF_NewShapeHandle();
    tf.TF_ShapeInferenceContextGetInput(context, 0, shape, status);
    if (tf.TF_GetCode(status) == TF_OK)
        tf.TF_ShapeInferenceContextSetOutput(context, 0, shape, status);
    tf.TF_DeleteShapeHandle(shape);
}

/* Makes one operation known: its attributes, inputs and output, NULL behind the last. */
static void register_operation(
    const char *name, const char *const *attributes, const char *const *inputs,
    const char *output, void *(*make)(TF_OpKernelConstruction *),
    void (*compute)(void *, TF_OpKernelContext *), TF_Status *status)
{
    TF_OpDefinitionBuilder *definition = tf.TF_NewOpDefinitionBuilder(name);
    for (; *attributes; attributes++)
        tf.TF_OpDefinitionBuilderAddAttr(definition, *attributes);
    for (; *inputs; inputs++)
        tf.TF_OpDefinitionBuilderAddInput(definition, *inputs);
    tf.TF_OpDefinitionBuilderAddOutput(definition, output);
    tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, infer_shape);
    tf.TF_RegisterOpDefinition(definition, status);
    if (tf.TF_GetCode(status) == TF_OK)
        tf.TF_RegisterKernelBuilder(
            name, tf.TF_NewKernelBuilder(name, "CPU", make, compute, free), status);
}

/* Makes the operations known to TensorFlow, once a process; 0 if it refuses. */
int bert_extract_register(const struct api *functions)
{
    static const char *const attention_attributes[] = {
        "T: {float, bfloat16}", "num_heads: int", NULL};
    static const char *const attention_inputs[] = {
        "query: T", "key: T", "value: T", "lengths: int32", NULL};
    static const char *const gelu_attributes[] = {"is_erf: int", NULL};
    static const char *const gelu_inputs[] = {"x: float", NULL};
    tf = *functions;
    TF_Status *status = tf.TF_NewStatus();
    register_operation("BertExtractAttention", attention_attributes, attention_inputs,
                       "context: T", make_attention, compute_attention, status);
    if (tf.TF_GetCode(status) == TF_OK)
        register_operation("BertExtractGelu", gelu_attributes, gelu_inputs, "y: float",
                           make_gelu, compute_gelu, status);
    int is_registered = tf.TF_GetCode(status) == TF_OK;
    tf.TF_DeleteStatus(status);
    return is_registered;
}
