/* One picture of two screens: of each byte the larger, then Pillow's box filter, along the lines and then across them, to the bit.

   A screen has its colours, three bytes a pixel, or their numbers in a palette of 256 times four bytes, the fourth 255 where the
   colour is known. Two pixels of a line go to one of the picture, and row y of the picture is the mean of the lines first[y] to
   first[y + 1] - 1, at most 256 of them. */

#include <stdint.h>
#include <string.h>

enum { WIDEST = 1024, BITS = 22 }; /* bytes of a line; Pillow's fixed point has 22 bits after the point */

typedef struct {
    uint8_t larger[WIDEST + 4]; /* of the line of both screens, and zeros behind it */
    uint8_t pairs[WIDEST];      /* its pixels, each with its right neighbour; every other one is asked for */
    uint16_t sum[WIDEST];       /* of the lines so far */
} Row;

static void pair(Row *row, const uint8_t *a, const uint8_t *b, int bytes, int depth) {
    for (int i = 0; i < bytes; i++)
        row->larger[i] = a[i] > b[i] ? a[i] : b[i];
    for (int i = 0; i < bytes; i++)
        row->pairs[i] = (uint8_t)((row->larger[i] + row->larger[i + depth] + 1) >> 1);
}

static void add(Row *row, int bytes) {
    for (int i = 0; i < bytes; i++)
        row->sum[i] += row->pairs[i];
}

static void finish(Row *row, int lines, int width, int depth, uint8_t *out) {
    uint32_t share = (uint32_t)((1 << BITS) / (double)lines + 0.5);
    uint16_t asked[WIDEST / 2 + 4];
    for (int x = 0; x < width; x++) /* one too many, which the next pixel covers */
        memcpy(asked + 3 * x, row->sum + 2 * depth * x, 4 * sizeof *asked);
    for (int i = 0; i < 3 * width; i++)
        out[i] = (uint8_t)((asked[i] * share + (1u << (BITS - 1))) >> BITS);
    memset(row->sum, 0, sizeof row->sum);
}

void gato_picture(const uint8_t *screen, const uint8_t *before, const int32_t *first, int height, int width, uint8_t *picture) {
    Row row = {0};
    for (int y = 0; y < height; y++) {
        for (int64_t line = first[y]; line < first[y + 1]; line++) {
            pair(&row, screen + 6 * width * line, before + 6 * width * line, 6 * width, 3);
            add(&row, 6 * width);
        }
        finish(&row, first[y + 1] - first[y], width, 3, picture + (int64_t)3 * width * y);
    }
}

void gato_picture_by_palette(const uint8_t *screen, const uint8_t *before, const uint32_t *palette, const int32_t *first,
                             int height, int width, uint8_t *picture) {
    Row row = {0};
    uint32_t a[WIDEST / 4], b[WIDEST / 4];
    size_t size = 2 * (size_t)width; /* bytes of a line, which are pixels */
    for (int y = 0; y < height; y++) {
        for (int64_t line = first[y]; line < first[y + 1]; line++) {
            const uint8_t *now = screen + size * line, *then = before + size * line;
            if (!line || memcmp(now, now - size, size) || memcmp(then, then - size, size)) { /* most are like the one above */
                int alike = !memcmp(now, then, size);
                for (size_t x = 0; x < size; x++)
                    a[x] = palette[now[x]];
                for (size_t x = 0; x < size && !alike; x++)
                    b[x] = palette[then[x]];
                pair(&row, (uint8_t *)a, (uint8_t *)(alike ? a : b), 8 * width, 4);
            }
            add(&row, 8 * width);
        }
        finish(&row, first[y + 1] - first[y], width, 4, picture + (int64_t)3 * width * y);
    }
}

/* Whether every colour of a screen is known; all of `like`, a screen that is compared first, are. */
int gato_known(const uint8_t *screen, const uint8_t *like, const uint32_t *palette, int lines, int bytes) {
    for (int64_t line = 0; line < lines; line++) {
        const uint8_t *now = screen + bytes * line;
        uint32_t all = UINT32_MAX;
        if (memcmp(now, like + bytes * line, (size_t)bytes))
            for (int x = 0; x < bytes; x++)
                all &= palette[now[x]];
        if (!((uint8_t *)&all)[3])
            return 0;
    }
    return 1;
}
