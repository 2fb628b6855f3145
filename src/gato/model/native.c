/* New tokens through all blocks against rings of keys and values: see native.py.

   T tokens of R rows, D width, H heads of width d, G the feed-forward size before its gate, W ring entries, L blocks

   Of one token every weight is read once to be multiplied once, so the time is that of reading memory; of twenty it is that of
   the multiplications. Both are reached by one product: weights lie in panels of COLUMNS outputs, inputs in groups of at most
   ROWS tokens, and a panel meets a group in registers. An output is added up over the inputs in their order, whatever other
   tokens there are, so a token's result does not depend on its company. Between two products there is nothing but a barrier. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));

#ifdef __AVX512F__
enum { WIDE = 2, ROWS = 14 };
#else
enum { WIDE = 1, ROWS = 6 };
#endif
enum { COLUMNS = 16 * WIDE };

typedef struct {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias; /* (D,) */
    const void *inward, *out, *hidden, *down; /* in panels: (3D, D) of queries, keys and values, (D, D), (G, D), (D, G/2) */
    const float *content_bias, *distance_bias; /* (H, d); null where positions are not relative */
} Block;

int gato_half(void) {
#ifdef __F16C__
    return 1;
#else
    return 0;
#endif
}

int gato_columns(void) { return COLUMNS; }

static inline lanes four_bytes(const void *at) { return *(const lanes *)at; }

static inline lanes two_bytes(const void *at) {
    lanes out = {0};
#if defined(__AVX512F__)
    __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
    memcpy(&out, &wide, sizeof out);
#elif defined(__F16C__)
    __m256 low = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
    __m256 high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 1));
    memcpy(&out, &low, 32);
    memcpy((char *)&out + 32, &high, 32);
#endif
    return out;
}

/* -- products ------------------------------------------------------------------------------------------------------------ */

/* One panel (K, COLUMNS) times n tokens, inputs (K, stride): tile (n, COLUMNS). */
typedef void Kernel(const void *panel, const float *inputs, int K, int stride, float *tile);

#define KERNEL(name, n, type, load)                                                                       \
    static void name##n(const void *panel, const float *inputs, int K, int stride, float *tile) {         \
        lanes sum[n][WIDE];                                                                               \
        memset(sum, 0, sizeof sum);                                                                       \
        const type *w = panel;                                                                            \
        for (int k = 0; k < K; k++, w += COLUMNS, inputs += stride) {                                     \
            lanes weights[WIDE];                                                                          \
            for (int c = 0; c < WIDE; c++) weights[c] = load(w + 16 * c);                                 \
            _Pragma("GCC unroll 14") for (int r = 0; r < n; r++) {                                        \
                for (int c = 0; c < WIDE; c++) sum[r][c] += weights[c] * inputs[r];                       \
            }                                                                                             \
        }                                                                                                 \
        memcpy(tile, sum, sizeof sum);                                                                    \
    }
#define KERNELS(name, type, load)                                                                                  \
    KERNEL(name, 1, type, load) KERNEL(name, 2, type, load) KERNEL(name, 3, type, load) KERNEL(name, 4, type, load) \
    KERNEL(name, 5, type, load) KERNEL(name, 6, type, load)
KERNELS(full, float, four_bytes)
KERNELS(half, uint16_t, two_bytes)
#ifdef __AVX512F__
#define MORE(name, type, load)                                                                                      \
    KERNEL(name, 7, type, load) KERNEL(name, 8, type, load) KERNEL(name, 9, type, load) KERNEL(name, 10, type, load) \
    KERNEL(name, 11, type, load) KERNEL(name, 12, type, load) KERNEL(name, 13, type, load) KERNEL(name, 14, type, load)
MORE(full, float, four_bytes)
MORE(half, uint16_t, two_bytes)
#define ALL(name) {name##1, name##2, name##3, name##4, name##5, name##6, name##7, name##8, name##9, name##10, name##11, name##12, name##13, name##14}
#else
#define ALL(name) {name##1, name##2, name##3, name##4, name##5, name##6}
#endif
static Kernel *const kernels[2][ROWS] = {ALL(full), ALL(half)};

/* AT_ONCE panels times one token: tile (AT_ONCE, COLUMNS). One panel's sums would wait for each other. */
enum { AT_ONCE = 4 };
#define LONE(name, type, load)                                                                                          static void name(const void *panels, const float *inputs, int K, float *tile) {                                         lanes sum[AT_ONCE][WIDE];                                                                                           memset(sum, 0, sizeof sum);                                                                                         const type *w = panels;                                                                                             for (int k = 0; k < K; k++, w += COLUMNS)                                                                               for (int p = 0; p < AT_ONCE; p++)                                                                                       for (int c = 0; c < WIDE; c++) sum[p][c] += load(w + (size_t)p * K * COLUMNS + 16 * c) * inputs[k];         memcpy(tile, sum, sizeof sum);                                                                                  }
LONE(lone_full, float, four_bytes)
LONE(lone_half, uint16_t, two_bytes)

/* Tokens in groups of `each`, the last one of what is left; element k of token t stands at `spot`. */
static inline int each_of(int T) {
    int groups = T ? (T + ROWS - 1) / ROWS : 1;
    return (T + groups - 1) / groups;
}
static inline size_t spot(int t, int k, int K, int each) { return (size_t)(t / each) * each * K + (size_t)k * each + t % each; }

/* Of T grouped inputs (K) with panels of N outputs: out (T, N), added to `base` (T, N) if it is there. Called by all threads. */
static void product(const void *panels, int half, const float *inputs, int T, int K, int N, const float *base, float *out) {
    int each = each_of(T);
    size_t size = (size_t)K * COLUMNS * (half ? 2 : 4);
    int done = T == 1 ? N / COLUMNS / AT_ONCE * AT_ONCE : 0; /* panels */
#pragma omp for schedule(static) nowait
    for (int p = 0; p < done; p += AT_ONCE) {
        float tile[AT_ONCE * COLUMNS];
        (half ? lone_half : lone_full)((const char *)panels + p * size, inputs, K, tile);
        for (int c = 0; c < AT_ONCE * COLUMNS; c++) out[p * COLUMNS + c] = base ? base[p * COLUMNS + c] + tile[c] : tile[c];
    }
#pragma omp for schedule(static)
    for (int p = done; p < (N + COLUMNS - 1) / COLUMNS; p++) {
        int wide = N - p * COLUMNS < COLUMNS ? N - p * COLUMNS : COLUMNS;
        for (int t = 0; t < T; t += each) {
            float tile[ROWS * COLUMNS];
            int n = T - t < each ? T - t : each;
            kernels[half][n - 1]((const char *)panels + p * size, inputs + (size_t)t * K, K, each, tile);
            for (int r = 0; r < n; r++) {
                size_t at = (size_t)(t + r) * N + p * COLUMNS;
                for (int c = 0; c < wide; c++) out[at + c] = base ? base[at + c] + tile[r * COLUMNS + c] : tile[r * COLUMNS + c];
            }
        }
    }
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLED(x, ...) __builtin_shuffle(x, (ints){__VA_ARGS__})
#endif
static inline float total(lanes x) {
    x += SHUFFLED(x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += SHUFFLED(x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += SHUFFLED(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
}

static inline float dot(const float *a, const float *b, int n) {
    lanes sums[4] = {{0}};
    int j = 0;
    for (; j + 64 <= n; j += 64)
        for (int c = 0; c < 4; c++) sums[c] += four_bytes(a + j + 16 * c) * four_bytes(b + j + 16 * c);
    for (; j + 16 <= n; j += 16) sums[0] += four_bytes(a + j) * four_bytes(b + j);
    float sum = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; j < n; j++) sum += a[j] * b[j];
    return sum;
}

/* rows (count, D) of the table of ids, times x (many, D): out (many, count). */
void gato_logits(const float *rows, int count, int D, const float *x, int many, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int o = 0; o < count; o++)
        for (int m = 0; m < many; m++) out[(size_t)m * count + o] = dot(rows + (size_t)o * D, x + (size_t)m * D, D);
}

/* -- what is between them ------------------------------------------------------------------------------------------------ */

static inline lanes clamp(lanes x, float low, float high) {
    ints under = x < low, over = x > high;
    lanes lows = low - (lanes){0}, highs = high - (lanes){0};
    ints out = ((ints)x & ~under & ~over) | ((ints)lows & under) | ((ints)highs & over);
    return (lanes)out;
}

/* e to the x, to the last digits of a float; 0 below -87. */
static inline lanes exponential(lanes x) {
    ints there = ~(x <= -87.0f); /* what is no number stays so */
    x = clamp(x, -87.0f, 87.0f);
    lanes whole = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f; /* to the nearest integer */
    lanes rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    lanes sum = 1.9875691500e-4f * rest + 1.3981999507e-3f; /* minimax on half a ln 2, as in Cephes */
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    ints power = (__builtin_convertvector(whole, ints) + 127) << 23;
    return (lanes)((ints)(sum * (lanes)power) & there);
}

static inline lanes gelu(lanes g) { /* by tanh, as the network's */
    lanes twice = 1.5957691216057308f * (g + 0.044715f * g * g * g);
    return g * (1.0f - 1.0f / (exponential(twice) + 1.0f));
}

/* Normed, into the groups of a product. */
static void norm(const float *x, const float *weight, const float *bias, float eps, int n, float *out, int t, int each) {
    lanes sums = {0}, squares = {0};
    float mean = 0, var = 0;
    int whole = n / 16 * 16;
    for (int i = 0; i < whole; i += 16) sums += four_bytes(x + i);
    for (int i = whole; i < n; i++) mean += x[i];
    mean = (mean + total(sums)) / n;
    for (int i = 0; i < whole; i += 16) squares += (four_bytes(x + i) - mean) * (four_bytes(x + i) - mean);
    for (int i = whole; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    var += total(squares);
    float scale = 1.0f / sqrtf(var / n + eps);
    float *to = out + spot(t, 0, n, each);
    for (int i = 0; i < n; i++) to[(size_t)i * each] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/* Halves rotated against each other; sines of the first half come negative. */
static void turn(float *x, const float *cosines, const float *sines, int d) {
    for (int i = 0; i < d / 2; i++) {
        float a = x[i], b = x[i + d / 2];
        x[i] = a * cosines[i] + b * sines[i];
        x[i + d / 2] = b * cosines[i + d / 2] + a * sines[i + d / 2];
    }
}

/* -- attention ----------------------------------------------------------------------------------------------------------- */

/* What the tokens of a row see: entries sight (count,), and for each token 0 or -infinity, hidden (n, stride), beyond `count` too. */
typedef struct {
    const int *sight;
    const float *hidden;
    int count, stride;
} Seen;

/* scores (count,), a multiple of 16, become weights; their sum. */
static float softmax(float *scores, int count) {
    lanes highest = four_bytes(scores), sum = {0};
    for (int s = 16; s < count; s += 16) {
        lanes other = four_bytes(scores + s);
        ints more = other > highest;
        highest = (lanes)(((ints)other & more) | ((ints)highest & ~more));
    }
    float most = highest[0];
    for (int i = 1; i < 16; i++) most = highest[i] > most ? highest[i] : most;
    for (int s = 0; s < count; s += 16) {
        lanes e = exponential(four_bytes(scores + s) - most);
        *(lanes *)(scores + s) = e;
        sum += e;
    }
    return total(sum);
}

/* One head of n tokens. q: token i's query at q + i * apart, already scaled; keys, values (W, d). With relative positions, `far`
   (reach, d) are what distances are worth to the scaled queries `to_far` (n, d), and back (n, stride) the distances. out (n, d).
   room: weights (ROWS, stride), then panels of keys and values (2, d + COLUMNS, stride), then a group of inputs. */
static void attend(const float *q, int apart, int n, const float *keys, const float *values, Seen seen, int first, int d,
                   const float *to_far, const float *far, const int *back, float *room, float *out) {
    int stride = seen.stride, S = seen.count, panels = (S + COLUMNS - 1) / COLUMNS, deep = (d + COLUMNS - 1) / COLUMNS;
    float *weights = room, *keyed = weights + (size_t)ROWS * stride, *valued = keyed + (size_t)panels * COLUMNS * d;
    float *inputs = valued + (size_t)deep * COLUMNS * S;
    if (n > 1) {
        memset(keyed + (size_t)(panels - 1) * COLUMNS * d, 0, sizeof(float) * COLUMNS * d);
        for (int s = 0; s < S; s++) {
            const float *k = keys + (size_t)seen.sight[s] * d, *v = values + (size_t)seen.sight[s] * d;
            float *to = keyed + (size_t)(s / COLUMNS) * COLUMNS * d + s % COLUMNS;
            for (int i = 0; i < d; i++) to[(size_t)i * COLUMNS] = k[i];
            for (int p = 0; p < deep; p++) {
                float *copy = valued + ((size_t)p * S + s) * COLUMNS;
                if ((p + 1) * COLUMNS <= d)
                    for (int c = 0; c < WIDE; c++) *(lanes *)(copy + 16 * c) = four_bytes(v + p * COLUMNS + 16 * c);
                else
                    for (int c = 0; c < COLUMNS; c++) copy[c] = p * COLUMNS + c < d ? v[p * COLUMNS + c] : 0;
            }
        }
    }
    for (int t = 0; t < n; t += ROWS) {
        int group = n - t < ROWS ? n - t : ROWS;
        float tile[ROWS * COLUMNS], sums[ROWS];
        if (n > 1)
            for (int i = 0; i < d; i++)
                for (int r = 0; r < group; r++) inputs[i * group + r] = q[(size_t)(t + r) * apart + i];
        for (int p = 0; p < panels && n > 1; p++) {
            kernels[0][group - 1](keyed + (size_t)p * COLUMNS * d, inputs, d, group, tile);
            for (int r = 0; r < group; r++) memcpy(weights + (size_t)r * stride + p * COLUMNS, tile + r * COLUMNS, COLUMNS * sizeof(float));
        }
        for (int s = 0; s < S && n == 1; s++) weights[s] = dot(keys + (size_t)seen.sight[s] * d, q, d);
        for (int r = 0; r < group; r++) {
            float *mine = weights + (size_t)r * stride;
            size_t at = (size_t)(first + t + r) * stride;
            for (int s = 0; s < S && far; s++) mine[s] += dot(far + (size_t)back[at + s] * d, to_far + (size_t)(t + r) * d, d);
            for (int s = S; s < panels * COLUMNS; s++) mine[s] = 0;
            for (int s = 0; s < panels * COLUMNS; s += 16) *(lanes *)(mine + s) += four_bytes(seen.hidden + at + s);
            sums[r] = softmax(mine, panels * COLUMNS);
        }
        if (n == 1) {
            memset(out, 0, d * sizeof(float));
            for (int s = 0; s < S; s++) {
                const float *v = values + (size_t)seen.sight[s] * d;
                for (int i = 0; i < d; i++) out[i] += weights[s] * v[i];
            }
            for (int i = 0; i < d; i++) out[i] /= sums[0];
            return;
        }
        for (int s = 0; s < S; s++)
            for (int r = 0; r < group; r++) inputs[s * group + r] = weights[(size_t)r * stride + s];
        for (int p = 0; p < deep; p++) {
            int wide = d - p * COLUMNS < COLUMNS ? d - p * COLUMNS : COLUMNS;
            kernels[0][group - 1](valued + (size_t)p * COLUMNS * S, inputs, S, group, tile);
            for (int r = 0; r < group; r++)
                for (int c = 0; c < wide; c++) out[(size_t)(t + r) * d + p * COLUMNS + c] = tile[r * COLUMNS + c] / sums[r];
        }
    }
}

/* -- the pass ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    int64_t blocks, width, heads, hidden, half, tokens, rows, most, ring, reach, wanted, threads;
    int64_t layer_apart, slot_apart; /* floats between the keys of two blocks, and of two slots */
    float eps;
} Sizes;

static size_t wide_of(const Sizes *z) { return ((size_t)z->ring + COLUMNS - 1) / COLUMNS * COLUMNS; }

static size_t room_of(const Sizes *z) { /* of one thread */
    size_t d = z->width / z->heads, wide = wide_of(z);
    size_t deep = (d + COLUMNS - 1) / COLUMNS * COLUMNS;
    return ROWS * wide + wide * d + deep * wide + ROWS * (wide > d ? wide : d) + 2 * (size_t)z->most * d;
}

/* Floats of scratch. */
int64_t gato_scratch(const Sizes *z) {
    size_t T = z->tokens, D = z->width, G = z->hidden, wide = wide_of(z);
    return (int64_t)(T * (7 * D + G + G / 2 + 2 * wide) + z->rows * wide + z->threads * room_of(z) + ROWS * (D + G) + 64);
}

/* x (T, D) comes from embedding, the tokens of a row one after another, starts (R + 1,); out (wanted, D), of the tokens `want`
   (wanted,), in order. slots (R,); entry, position and time (T,) of the tokens, whose keys and values are written. keys, values
   (L, slots, H, W, d); positions, times (slots, W) of the entries, band and span (slots,): a token sees entries less than `band`
   tokens and `span` timesteps back, -1 is an empty one. cosines, sines (T, d) or null. relative (L): each block's (H, reach, d), or
   null. */
void gato_pass(const Sizes *z, const Block *blocks, const float *x, const int64_t *starts, const int64_t *slots, const int64_t *entry,
               const int64_t *position, const int64_t *time, float *keys, float *values, const int64_t *positions,
               const int64_t *times, const int64_t *bands, const int64_t *spans, const float *cosines, const float *sines,
               const float *const *relative, const int64_t *want, float *scratch, float *out) {
    const int T = z->tokens, R = z->rows, D = z->width, H = z->heads, G = z->hidden, W = z->ring, L = z->blocks, d = D / H;
    const int half = z->half, wide = wide_of(z), pad = ROWS;
    float *now = scratch, *qkv = now + (size_t)T * D, *inputs = qkv + 3 * (size_t)T * D, *middle = inputs + (size_t)(T + pad) * D;
    float *gated = middle + (size_t)T * D, *branch = gated + (size_t)T * G, *attended = branch + (size_t)(T + pad) * (G / 2);
    float *hidden = attended + (size_t)T * D;
    int *back = (int *)(hidden + (size_t)T * wide), *sight = back + (size_t)T * wide;
    float *rooms = (float *)(sight + (size_t)R * wide);
    const float scale = 1.0f / sqrtf((float)d);
    int counts[R], low[R], high[R], at = 0; /* low, high: the tokens of a row that are wanted of the last block */
    memcpy(now, x, sizeof(float) * T * D);
    for (int r = 0, m = 0; r < R; r++) {
        low[r] = m < z->wanted && want[m] < starts[r + 1] ? want[m] : starts[r];
        high[r] = low[r];
        for (; m < z->wanted && want[m] < starts[r + 1]; m++) high[r] = want[m] + 1;
    }
#pragma omp parallel num_threads((int)z->threads)
    {
        float *room = NULL;
#pragma omp critical
        {
            room = rooms + at * room_of(z);
            at++;
        }
        float *mine = room + room_of(z) - 2 * (size_t)z->most * d; /* scaled queries of a head, and those towards distances */
#pragma omp for schedule(static)
        for (int r = 0; r < R; r++) {
            const int64_t *of = positions + slots[r] * W, *when = times + slots[r] * W, band = bands[slots[r]], span = spans[slots[r]];
            int n = 0;
            for (int j = 0; j < W && starts[r] < starts[r + 1]; j++) { /* no token sees further back than the row's first */
                int64_t far = position[starts[r]] - of[j];
                if (of[j] < 0 || far >= band || when[j] <= time[starts[r]] - span) continue;
                sight[(size_t)r * wide + n] = j;
                for (int t = starts[r]; t < starts[r + 1]; t++) {
                    int64_t distance = position[t] - of[j];
                    int there = distance >= 0 && distance < band && when[j] > time[t] - span;
                    hidden[(size_t)t * wide + n] = there ? 0.0f : -INFINITY;
                    back[(size_t)t * wide + n] = distance < 0 ? 0 : distance < z->reach ? (int)distance : (int)z->reach - 1;
                }
                n++;
            }
            counts[r] = n;
            for (int t = starts[r]; t < starts[r + 1]; t++)
                for (int s = n; s % COLUMNS; s++) hidden[(size_t)t * wide + s] = -INFINITY;
        }
        for (int l = 0; l < L; l++) {
            const Block *b = blocks + l;
            const int last = l == L - 1, M = last ? z->wanted : T; /* of the last block all keys and values, else what is wanted */
            int each = each_of(T);
#pragma omp for schedule(static)
            for (int t = 0; t < T; t++) norm(now + (size_t)t * D, b->norm1_weight, b->norm1_bias, z->eps, D, inputs, t, each);
            product(b->inward, half, inputs, T, D, 3 * D, NULL, qkv);
#pragma omp for schedule(static)
            for (int th = 0; th < T * H; th++) {
                int t = th / H, h = th % H, r = 0;
                while (t >= starts[r + 1]) r++;
                float *q = qkv + (size_t)t * 3 * D + h * d, *k = q + D, *v = k + D;
                size_t to = l * z->layer_apart + slots[r] * z->slot_apart + ((size_t)h * W + entry[t]) * d;
                if (cosines) {
                    turn(q, cosines + (size_t)t * d, sines + (size_t)t * d, d);
                    turn(k, cosines + (size_t)t * d, sines + (size_t)t * d, d);
                }
                memcpy(keys + to, k, d * sizeof(float));
                memcpy(values + to, v, d * sizeof(float));
            }
#pragma omp for schedule(dynamic)
            for (int rh = 0; rh < R * H; rh++) {
                int r = rh / H, h = rh % H, from = last ? low[r] : (int)starts[r], n = (last ? high[r] : (int)starts[r + 1]) - from;
                if (n == 0) continue;
                size_t own = l * z->layer_apart + slots[r] * z->slot_apart + (size_t)h * W * d;
                const float *far = relative ? relative[l] + (size_t)h * z->reach * d : NULL;
                for (int i = 0; i < n; i++)
                    for (int j = 0; j < d; j++) {
                        float q = qkv[(size_t)(from + i) * 3 * D + h * d + j];
                        mine[i * d + j] = scale * (far ? q + b->content_bias[h * d + j] : q);
                        if (far) mine[(z->most + i) * d + j] = scale * (q + b->distance_bias[h * d + j]);
                    }
                Seen seen = {sight + (size_t)r * wide, hidden, counts[r], wide};
                float *got = attended + ((size_t)starts[r] * H + (size_t)h * n) * d; /* (R; H, n, d) */
                attend(mine, d, n, keys + own, values + own, seen, from, d, mine + z->most * d, far, back, room, got);
            }
            each = each_of(M);
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++) {
                int t = last ? want[m] : m, r = 0;
                while (t >= starts[r + 1]) r++;
                int from = last ? low[r] : (int)starts[r], n = (last ? high[r] : (int)starts[r + 1]) - from;
                for (int h = 0; h < H; h++)
                    for (int i = 0; i < d; i++)
                        inputs[spot(m, h * d + i, D, each)] = attended[((size_t)starts[r] * H + (size_t)h * n + t - from) * d + i];
                if (last) memcpy(qkv + (size_t)m * D, now + (size_t)t * D, D * sizeof(float));
            }
            product(b->out, half, inputs, M, D, D, last ? qkv : now, middle);
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++) norm(middle + (size_t)m * D, b->norm2_weight, b->norm2_bias, z->eps, D, inputs, m, each);
            product(b->hidden, half, inputs, M, D, G, NULL, gated);
#pragma omp for schedule(static)
            for (int m = 0; m < M; m++)
                for (int o = 0; o < G / 2; o += 16) {
                    int n = G / 2 - o < 16 ? G / 2 - o : 16;
                    float g[16] = {0}, v[16] = {0};
                    memcpy(g, gated + (size_t)m * G + o, n * sizeof(float));
                    memcpy(v, gated + (size_t)m * G + G / 2 + o, n * sizeof(float));
                    lanes product = gelu(four_bytes(g)) * four_bytes(v);
                    for (int i = 0; i < n; i++) branch[spot(m, o + i, G / 2, each)] = product[i];
                }
            product(b->down, half, branch, M, G / 2, D, middle, last ? out : now);
        }
    }
}

/* -- attention of a training batch, there and back ------------------------------------------------------------------------- */

typedef uint16_t narrow __attribute__((vector_size(32), aligned(2), may_alias));

/* Tokens from `start` on attend to each other; queries are those from `first` on, the output's rows from `out` on. */
typedef struct {
    int64_t start, length, first, out;
} Segment;

typedef struct {
    int64_t segments, heads, size, longest, in16, threads, room;
    float scale;
} Batch;

static inline lanes from16(const void *at) { return (lanes)(__builtin_convertvector(*(const narrow *)at, ints) << 16); }

static inline void to16(void *at, lanes x) { /* bfloat16, to the nearest, ties to even */
    ints bits = (ints)x;
    bits += 0x7FFF + ((bits >> 16) & 1);
    *(narrow *)at = __builtin_convertvector((bits >> 16) & 0xFFFF, narrow);
}

static inline void read_row(const void *from, int in16, size_t at, int d, float *to) {
    for (int i = 0; i < d; i += 16)
        *(lanes *)(to + i) = in16 ? from16((const uint16_t *)from + at + i) : four_bytes((const float *)from + at + i);
}

static inline void write_row(void *to, int in16, size_t at, int d, const float *from) {
    for (int i = 0; i < d; i += 16) {
        if (in16)
            to16((uint16_t *)to + at + i, four_bytes(from + i));
        else
            *(lanes *)((float *)to + at + i) = four_bytes(from + i);
    }
}

static void turn_back(float *x, const float *cosines, const float *sines, int d) {
    for (int i = 0; i < d / 2; i++) {
        float a = x[i], b = x[i + d / 2];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + d / 2] = b * cosines[i + d / 2] - a * sines[i + d / 2];
    }
}

/* rows (L, d) as panels of COLUMNS rows each, (d, COLUMNS), zeros at the end: to be multiplied with d inputs. */
static void across(const float *rows, int L, int d, float *panels) {
    int all = (L + COLUMNS - 1) / COLUMNS;
    memset(panels + (size_t)(all - 1) * COLUMNS * d, 0, sizeof(float) * COLUMNS * d);
    for (int s = 0; s < L; s++) {
        float *to = panels + (size_t)(s / COLUMNS) * COLUMNS * d + s % COLUMNS;
        for (int i = 0; i < d; i++) to[i * COLUMNS] = rows[(size_t)s * d + i];
    }
}

/* rows (L, d) as panels of COLUMNS columns each, (L, COLUMNS): to be multiplied with L inputs. */
static void along(const float *rows, int L, int d, float *panels) {
    for (int p = 0; p * COLUMNS < d; p++)
        for (int s = 0; s < L; s++)
            for (int c = 0; c < COLUMNS; c += 16) {
                int at = p * COLUMNS + c;
                *(lanes *)(panels + ((size_t)p * L + s) * COLUMNS + c) = at < d ? four_bytes(rows + (size_t)s * d + at) : (lanes){0};
            }
}

/* inputs (d or L, group) with panels: out (group, stride), `wide` columns of it, whole panels. */
static void multiply(const float *panels, size_t apart, const float *inputs, int K, int group, int wide, float *out, int stride) {
    float tile[ROWS * COLUMNS];
    for (int p = 0; p * COLUMNS < wide; p++) {
        kernels[0][group - 1](panels + p * apart, inputs, K, group, tile);
        int columns = wide - p * COLUMNS < COLUMNS ? wide - p * COLUMNS : COLUMNS;
        for (int r = 0; r < group; r++) memcpy(out + (size_t)r * stride + p * COLUMNS, tile + r * COLUMNS, columns * sizeof(float));
    }
}

/* to (S, d) += the sum over `group` rows of weights (group, stride) each times rows (group, d). */
static void spread(const float *weights, int stride, const float *rows, int group, int S, int d, float *to) {
    for (int i = 0; i < d; i += 16) {
        int s = 0;
        for (; s + 4 <= S; s += 4) {
            lanes sum[4];
            for (int k = 0; k < 4; k++) sum[k] = four_bytes(to + (size_t)(s + k) * d + i);
            for (int r = 0; r < group; r++) {
                lanes row = four_bytes(rows + r * d + i);
                for (int k = 0; k < 4; k++) sum[k] += row * weights[(size_t)r * stride + s + k];
            }
            for (int k = 0; k < 4; k++) *(lanes *)(to + (size_t)(s + k) * d + i) = sum[k];
        }
        for (; s < S; s++)
            for (int r = 0; r < group; r++) *(lanes *)(to + (size_t)s * d + i) += four_bytes(rows + r * d + i) * weights[(size_t)r * stride + s];
    }
}

static int padded(int64_t n) { return (int)((n + COLUMNS - 1) / COLUMNS * COLUMNS); }

/* Floats that a thread needs. */
int64_t gato_attention_room(const Batch *z) {
    int64_t L = padded(z->longest), d = z->size, deep = padded(d), most = L > d ? L : d;
    return 7 * L * d + 2 * L * deep + 2 * ROWS * L + ROWS * most + 3 * ROWS * d + 64;
}

typedef struct {
    float *q, *k, *v, *dk, *dv, *keyed, *valued, *along_k, *along_v, *weights, *grads, *inputs, *rows, *queries, *out;
    int stride;
} Room;

static Room laid_out(const Batch *z, float *at) {
    int L = padded(z->longest), d = (int)z->size, deep = padded(d), most = L > d ? L : d;
    Room m;
    m.stride = L;
    float **parts[] = {&m.q, &m.k, &m.v, &m.dk, &m.dv, &m.keyed, &m.valued};
    for (int i = 0; i < 7; i++, at += (size_t)L * d) *parts[i] = at;
    m.along_k = at, m.along_v = at += (size_t)L * deep, m.weights = at += (size_t)L * deep, m.grads = at += (size_t)ROWS * L;
    m.inputs = at += (size_t)ROWS * L, m.rows = at += (size_t)ROWS * most, m.queries = at += (size_t)ROWS * d, m.out = at + (size_t)ROWS * d;
    return m;
}

/* One head of one segment, turned, in float32. */
static void read_head(const Batch *z, const Segment *g, int h, const void *qkv, const float *cosines, const float *sines, Room m) {
    int d = (int)z->size;
    for (int i = 0; i < g->length; i++) {
        size_t at = ((size_t)(g->start + i) * 3 * z->heads + h) * d, on = (size_t)z->heads * d;
        read_row(qkv, (int)z->in16, at, d, m.q + (size_t)i * d);
        read_row(qkv, (int)z->in16, at + on, d, m.k + (size_t)i * d);
        read_row(qkv, (int)z->in16, at + 2 * on, d, m.v + (size_t)i * d);
        if (cosines) {
            turn(m.q + (size_t)i * d, cosines + (size_t)i * d, sines + (size_t)i * d, d);
            turn(m.k + (size_t)i * d, cosines + (size_t)i * d, sines + (size_t)i * d, d);
        }
        for (int j = 0; j < d; j++) m.q[(size_t)i * d + j] *= z->scale;
    }
    across(m.k, (int)g->length, d, m.keyed);
}

/* Scaled queries t … t + group - 1 times all keys up to the last of them: m.weights, whole panels. */
static void scores(Room m, int t, int group, int d) {
    for (int i = 0; i < d; i++)
        for (int r = 0; r < group; r++) m.inputs[i * group + r] = m.q[(size_t)(t + r) * d + i];
    multiply(m.keyed, (size_t)COLUMNS * d, m.inputs, d, group, padded(t + group), m.weights, m.stride);
}

static void transpose(const float *from, int stride, int group, int S, float *to) {
    for (int s = 0; s < S; s++)
        for (int r = 0; r < group; r++) to[s * group + r] = from[(size_t)r * stride + s];
}

/* qkv (N, 3, H, d) → out (queries, H, d), and of each query and head the logarithm of the sum of its exponentials. */
void gato_attention(const Batch *z, const Segment *segments, const void *qkv, const float *cosines, const float *sines,
                    void *out, float *sums, float *scratch) {
    int H = (int)z->heads, d = (int)z->size;
#pragma omp parallel for schedule(dynamic, 4) num_threads(z->threads)
    for (int64_t gh = 0; gh < z->segments * H; gh++) {
        const Segment *g = segments + gh / H;
        int h = (int)(gh % H), L = (int)g->length;
        Room m = laid_out(z, scratch + THREAD * z->room);
        read_head(z, g, h, qkv, cosines, sines, m);
        along(m.v, L, d, m.along_v);
        for (int t = (int)g->first; t < L; t += ROWS) {
            int group = L - t < ROWS ? L - t : ROWS, S = t + group, wide = padded(S);
            float whole[ROWS];
            scores(m, t, group, d);
            for (int r = 0; r < group; r++) {
                float *mine = m.weights + (size_t)r * m.stride, most = mine[0];
                for (int s = t + r + 1; s < wide; s++) mine[s] = -INFINITY;
                for (int s = 1; s <= t + r; s++) most = mine[s] > most ? mine[s] : most;
                lanes sum = {0};
                for (int s = 0; s < wide; s += 16) sum += *(lanes *)(mine + s) = exponential(four_bytes(mine + s) - most);
                whole[r] = total(sum);
                sums[(size_t)(g->out + t - g->first + r) * H + h] = most + logf(whole[r]);
            }
            transpose(m.weights, m.stride, group, S, m.inputs);
            multiply(m.along_v, (size_t)L * COLUMNS, m.inputs, S, group, d, m.rows, d);
            for (int r = 0; r < group; r++) {
                for (int i = 0; i < d; i++) m.rows[r * d + i] /= whole[r];
                write_row(out, (int)z->in16, ((size_t)(g->out + t - g->first + r) * H + h) * d, d, m.rows + r * d);
            }
        }
    }
}

/* The gradient of the output (queries, H, d) → that of qkv. */
void gato_attention_back(const Batch *z, const Segment *segments, const void *qkv, const float *cosines, const float *sines,
                         const float *sums, const void *grad, void *back, float *scratch) {
    int H = (int)z->heads, d = (int)z->size;
#pragma omp parallel for schedule(dynamic, 4) num_threads(z->threads)
    for (int64_t gh = 0; gh < z->segments * H; gh++) {
        const Segment *g = segments + gh / H;
        int h = (int)(gh % H), L = (int)g->length, in16 = (int)z->in16;
        size_t own = ((size_t)g->start * 3 * H + h) * d, apart = (size_t)3 * H * d, on = (size_t)H * d;
        Room m = laid_out(z, scratch + THREAD * z->room);
        read_head(z, g, h, qkv, cosines, sines, m);
        across(m.v, L, d, m.valued);
        along(m.k, L, d, m.along_k);
        memset(m.dk, 0, sizeof(float) * L * d);
        memset(m.dv, 0, sizeof(float) * L * d);
        memset(m.out, 0, sizeof(float) * d);
        for (int t = 0; t < g->first; t++) write_row(back, in16, own + t * apart, d, m.out);
        for (int t = (int)g->first; t < L; t += ROWS) {
            int group = L - t < ROWS ? L - t : ROWS, S = t + group, wide = padded(S);
            scores(m, t, group, d);
            for (int r = 0; r < group; r++) {
                size_t row = (size_t)(g->out + t - g->first + r) * H + h;
                float *mine = m.weights + (size_t)r * m.stride, sum = sums[row];
                for (int s = t + r + 1; s < wide; s++) mine[s] = -INFINITY;
                for (int s = 0; s < wide; s += 16) *(lanes *)(mine + s) = exponential(four_bytes(mine + s) - sum);
                read_row(grad, in16, row * d, d, m.queries + r * d);
            }
            for (int i = 0; i < d; i++)
                for (int r = 0; r < group; r++) m.inputs[i * group + r] = m.queries[r * d + i];
            multiply(m.valued, (size_t)COLUMNS * d, m.inputs, d, group, wide, m.grads, m.stride);
            spread(m.weights, m.stride, m.queries, group, S, d, m.dv);
            for (int r = 0; r < group; r++) { /* through the softmax */
                float *p = m.weights + (size_t)r * m.stride, *ds = m.grads + (size_t)r * m.stride;
                lanes sum = {0};
                for (int s = 0; s < wide; s += 16) sum += four_bytes(p + s) * four_bytes(ds + s);
                float mean = total(sum);
                for (int s = 0; s < wide; s += 16) *(lanes *)(ds + s) = four_bytes(p + s) * (four_bytes(ds + s) - mean);
            }
            spread(m.grads, m.stride, m.q + (size_t)t * d, group, S, d, m.dk);
            transpose(m.grads, m.stride, group, S, m.inputs);
            multiply(m.along_k, (size_t)L * COLUMNS, m.inputs, S, group, d, m.rows, d);
            for (int r = 0; r < group; r++) {
                for (int i = 0; i < d; i++) m.rows[r * d + i] *= z->scale;
                if (cosines) turn_back(m.rows + r * d, cosines + (size_t)(t + r) * d, sines + (size_t)(t + r) * d, d);
                write_row(back, in16, own + (t + r) * apart, d, m.rows + r * d);
            }
        }
        for (int t = 0; t < L; t++) {
            if (cosines) turn_back(m.dk + (size_t)t * d, cosines + (size_t)t * d, sines + (size_t)t * d, d);
            write_row(back, in16, own + t * apart + on, d, m.dk + (size_t)t * d);
            write_row(back, in16, own + t * apart + 2 * on, d, m.dv + (size_t)t * d);
        }
    }
}
