/* One token through all blocks against a slot's ring of keys and values: see native.py.

   D width, H heads of width d, G the feed-forward size before its gate, W ring entries, L blocks

   Every weight is read once to be multiplied once, so the time is that of reading memory, as long as nothing else gets in the
   way: rows are read one after another, each by one thread, and between two products there is nothing but a barrier. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias; /* (D,) */
    const void *query, *key, *value, *out;                               /* (D, D), rows are outputs */
    const void *hidden, *down;                                           /* (G, D), (D, G/2) */
    const float *content_bias, *distance_bias;                           /* (H, d); null where positions are not relative */
} Block;

int gato_half(void) {
#ifdef __F16C__
    return 1;
#else
    return 0;
#endif
}

static inline lanes four_bytes(const void *at, int j) { return *(const lanes *)((const float *)at + j); }

static inline lanes two_bytes(const void *at, int j) {
    const uint16_t *from = (const uint16_t *)at + j;
    lanes out = {0};
#if defined(__AVX512F__)
    __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
    memcpy(&out, &wide, sizeof out);
#elif defined(__F16C__)
    __m256 low = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    __m256 high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)));
    memcpy(&out, &low, 32);
    memcpy((char *)&out + 32, &high, 32);
#endif
    return out;
}

/* n a multiple of 16; four sums, since one would wait for itself. */
#define DOT(name, load)                                                                                       \
    static inline float name(const void *w, const float *x, int n) {                                          \
        lanes a = {0}, b = {0}, c = {0}, e = {0};                                                             \
        int j = 0;                                                                                            \
        for (; j + 64 <= n; j += 64) {                                                                        \
            a += load(w, j) * four_bytes(x, j);                                                               \
            b += load(w, j + 16) * four_bytes(x, j + 16);                                                     \
            c += load(w, j + 32) * four_bytes(x, j + 32);                                                     \
            e += load(w, j + 48) * four_bytes(x, j + 48);                                                     \
        }                                                                                                     \
        for (; j < n; j += 16) a += load(w, j) * four_bytes(x, j);                                            \
        a = (a + b) + (c + e);                                                                                \
        float sum = 0;                                                                                        \
        for (int i = 0; i < 16; i++) sum += a[i];                                                             \
        return sum;                                                                                           \
    }
DOT(dot32, four_bytes)
DOT(dot16, two_bytes)

/* Row `o` of a matrix of rows of n weights, times x. */
static inline float row(const void *matrix, int o, const float *x, int n, int half) {
    return half ? dot16((const uint16_t *)matrix + (size_t)o * n, x, n) : dot32((const float *)matrix + (size_t)o * n, x, n);
}

/* rows (count, D) of the table of ids, times x (D,). */
void gato_logits(const float *rows, int count, int D, const float *x, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int o = 0; o < count; o++) out[o] = row(rows, o, x, D, 0);
}

static void norm(const float *x, const float *weight, const float *bias, float eps, int n, float *out) {
    float mean = 0, var = 0;
    for (int i = 0; i < n; i++) mean += x[i];
    mean /= n;
    for (int i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(var / n + eps);
    for (int i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

static inline float gelu(float g) { /* by tanh, as the network's */
    float u = 0.7978845608028654f * (g + 0.044715f * g * g * g);
    return 0.5f * g * (1.0f + tanhf(u));
}

/* Halves rotated against each other; sines of the first half come negative. */
static void turn(float *x, const float *cosines, const float *sines, int d) {
    for (int i = 0; i < d / 2; i++) {
        float a = x[i], b = x[i + d / 2];
        x[i] = a * cosines[i] + b * sines[i];
        x[i + d / 2] = b * cosines[i + d / 2] + a * sines[i + d / 2];
    }
}

static inline float inner(const float *a, const float *b, int d) {
    if (d % 16 == 0) return dot32(a, b, d);
    float sum = 0;
    for (int i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

/* One head: its query over the entries in sight. keys, values (W, d); weights (seen,) is scratch. With relative scores, `far`
   (reach, d) are what the distances are worth to the query `to_far`, and back (seen,) the distances. */
static void attend(const float *q, const float *keys, const float *values, const int *sight, int seen, int d, const float *to_far,
                   const float *far, const int *back, float *weights, float *out) {
    float most = -INFINITY, total = 0, scale = 1.0f / sqrtf((float)d);
    for (int s = 0; s < seen; s++) {
        weights[s] = inner(keys + (size_t)sight[s] * d, q, d) * scale;
        if (far) weights[s] += inner(far + (size_t)back[s] * d, to_far, d) * scale;
        if (weights[s] > most) most = weights[s];
    }
    memset(out, 0, d * sizeof(float));
    for (int s = 0; s < seen; s++) {
        const float *v = values + (size_t)sight[s] * d;
        float w = expf(weights[s] - most);
        total += w;
        for (int i = 0; i < d; i++) out[i] += w * v[i];
    }
    for (int i = 0; i < d; i++) out[i] /= total;
}

/* x (D,) in and out. keys, values (L, H, W, d), `apart` floats from block to block, of the slot; the token's own entry is
   written. Entries in sight: less than `band` tokens and `span` timesteps back, by their position and time (W,), position -1
   where there is none. cosines, sines (d,) or null. relative (L): each block's (H, reach, d), or null. scratch: 5 D + G/2 +
   2 W + threads (2 D + W) floats. */
void gato_token(const Block *blocks, int L, int D, int H, int G, int W, int half, float eps, float *x, float *keys, float *values,
                int64_t apart, int entry, const int64_t *position, const int64_t *time, int64_t band, int64_t span,
                const float *cosines, const float *sines, const float *const *relative, int reach, float *scratch, int threads) {
    int d = D / H, seen = 0;
    float *qkv = scratch, *attended = qkv + 3 * D, *middle = attended + D, *gated = middle + D;
    int *sight = (int *)(gated + G / 2);
    int *back = sight + W;
    float *own = (float *)(back + W);
    for (int j = 0; j < W; j++)
        if (position[j] >= 0 && position[entry] - position[j] < band && time[j] > time[entry] - span) {
            int64_t distance = position[entry] - position[j];
            back[seen] = distance < reach ? (int)distance : reach - 1;
            sight[seen++] = j;
        }
#pragma omp parallel num_threads(threads)
    {
        float *normed, *biased, *weights;
#pragma omp critical
        {
            normed = own;
            biased = own + D;
            weights = own + 2 * D;
            own += 2 * D + W;
        }
        for (int l = 0; l < L; l++) {
            const Block *b = blocks + l;
            const void *inward[3] = {b->query, b->key, b->value};
            norm(x, b->norm1_weight, b->norm1_bias, eps, D, normed);
#pragma omp for schedule(static)
            for (int o = 0; o < 3 * D; o++) qkv[o] = row(inward[o / D], o % D, normed, D, half);
#pragma omp for schedule(static)
            for (int h = 0; h < H; h++) {
                float *q = qkv + h * d, *k = q + D, *v = k + D;
                float *mine_k = keys + l * apart + (size_t)h * W * d, *mine_v = values + l * apart + (size_t)h * W * d;
                if (cosines) {
                    turn(q, cosines, sines, d);
                    turn(k, cosines, sines, d);
                }
                memcpy(mine_k + (size_t)entry * d, k, d * sizeof(float));
                memcpy(mine_v + (size_t)entry * d, v, d * sizeof(float));
                const float *far = NULL;
                if (relative) {
                    far = relative[l] + (size_t)h * reach * d;
                    for (int i = 0; i < d; i++) biased[i] = q[i] + b->distance_bias[h * d + i], q[i] += b->content_bias[h * d + i];
                }
                attend(q, mine_k, mine_v, sight, seen, d, biased, far, back, weights, attended + h * d);
            }
#pragma omp for schedule(static)
            for (int o = 0; o < D; o++) middle[o] = x[o] + row(b->out, o, attended, D, half);
            norm(middle, b->norm2_weight, b->norm2_bias, eps, D, normed);
#pragma omp for schedule(static)
            for (int o = 0; o < G / 2; o++)
                gated[o] = gelu(row(b->hidden, o, normed, D, half)) * row(b->hidden, G / 2 + o, normed, D, half);
#pragma omp for schedule(static)
            for (int o = 0; o < D; o++) x[o] = middle[o] + row(b->down, o, gated, G / 2, half);
        }
    }
}
