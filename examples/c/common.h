/* What both examples need besides the model: a file, aligned memory, the largest of some floats. */
#ifndef EXAMPLE_COMMON_H
#define EXAMPLE_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* Return memory aligned to 64 bytes, which the model then uses in place. */
static void *allocate(size_t bytes) {
    void *data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return data;
}

/* Read exactly ``bytes`` bytes of raw data, row-major, as the model's header describes them. */
static void read_input(const char *path, void *data, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    const size_t got = fread(data, 1, bytes, file);
    const int more = fgetc(file) != EOF;
    fclose(file);
    if (got != bytes || more) {
        fprintf(stderr, "%s: must hold %zu bytes, has %s\n", path, bytes, more ? "more" : "fewer");
        exit(2);
    }
}

static void print_top_class(const float *scores, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (scores[i] > scores[best]) best = i;
    printf("class %zu, score %.6f\n", best, (double)scores[best]);
}

#endif
