/* One picture of two screens: of each byte the larger, then Pillow's box filter, along the lines and then across them, to the bit. */

#include <stdint.h>
#include <string.h>

enum { WIDEST = 1024, BITS = 22 }; /* bytes of a row; Pillow's fixed point has 22 bits after the point */

/* Screens (rows, 6 * width), three bytes a pixel and two pixels to one of the picture (height, 3 * width). Row y of the
   picture is the mean of the rows first[y] to first[y + 1] - 1. */
void gato_picture(const uint8_t *screen, const uint8_t *before, const int32_t *first, int height, int width, uint8_t *picture) {
    int bytes = 6 * width;
    uint8_t larger[WIDEST + 3] = {0};
    uint32_t sum[WIDEST];
    for (int y = 0; y < height; y++) {
        memset(sum, 0, sizeof *sum * (size_t)bytes);
        for (int row = first[y]; row < first[y + 1]; row++) {
            const uint8_t *a = screen + (int64_t)row * bytes, *b = before + (int64_t)row * bytes;
            for (int i = 0; i < bytes; i++)
                larger[i] = a[i] > b[i] ? a[i] : b[i];
            for (int i = 0; i < bytes; i++) /* every pixel with its right neighbour; every other one is asked for */
                sum[i] += (uint32_t)(larger[i] + larger[i + 3] + 1) >> 1;
        }
        uint32_t share = (uint32_t)((1 << BITS) / (double)(first[y + 1] - first[y]) + 0.5);
        for (int i = 0; i < bytes; i++)
            sum[i] = (sum[i] * share + (1u << (BITS - 1))) >> BITS;
        uint8_t *out = picture + (int64_t)y * 3 * width;
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                out[3 * x + c] = (uint8_t)sum[6 * x + c];
    }
}
