/* The C interface from C: an image's labels, and a status with its reason for every mistake. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "segvit/segvit.h"

#define HEIGHT 24
#define WIDTH 40

static int failures = 0;

static void check(int holds, const char* what, int line) {
    if (holds) return;
    fprintf(stderr, "line %d: %s does not hold; last error: %s\n", line, what, segvit_last_error());
    ++failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)

/* The class with the largest sum, as make_artifacts.py has it. */
static int expected_label(const uint8_t* pixel) {
    int best = 0, best_sum = -1000000;
    for (int k = 0; k < 8; ++k) {
        int sum = k;
        for (int c = 0; c < 3; ++c) sum += pixel[c] * ((5 * c + 3 * k * k + 7) % 17 - 8);
        if (sum > best_sum) {
            best = k;
            best_sum = sum;
        }
    }
    return best;
}

static void check_labels(const uint8_t* pixels, const uint8_t* labels) {
    int wrong = 0;
    for (int i = 0; i < HEIGHT * WIDTH; ++i) wrong += labels[i] != expected_label(pixels + 3 * i);
    CHECK(wrong == 0);
}

static void refuse_artifacts(const char* artifacts) {
    segvit_segmenter* none = (segvit_segmenter*)artifacts;
    CHECK(segvit_load(artifacts, NULL, &none) == SEGVIT_NOT_FOUND);
    CHECK(none == NULL);
    CHECK(strstr(segvit_last_error(), "is no artifact folder") != NULL);
    CHECK(segvit_load(NULL, NULL, &none) == SEGVIT_INVALID_ARGUMENT);
    CHECK(segvit_load(artifacts, NULL, NULL) == SEGVIT_INVALID_ARGUMENT);
    const segvit_options unknown = {.target = "cuda", .instances = 1};
    CHECK(segvit_load(artifacts, &unknown, &none) == SEGVIT_INVALID_ARGUMENT);
    CHECK(strstr(segvit_last_error(), "target 'cuda' is unknown") != NULL);
    char path[4096];
    snprintf(path, sizeof path, "%s/range", artifacts);
    segvit_options pinned = {.instances = 1, .digest = "abc"};
    CHECK(segvit_load(path, &pinned, &none) == SEGVIT_INVALID_ARGUMENT);
    pinned.digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    CHECK(segvit_load(path, &pinned, &none) == SEGVIT_DAMAGED);
    CHECK(strstr(segvit_last_error(), "is not the artifact that was asked for") != NULL);
}

static void describe(const segvit_segmenter* segmenter) {
    segvit_info info;
    CHECK(segvit_get_info(segmenter, &info) == SEGVIT_OK);
    CHECK(strcmp(info.target, "openvino") == 0);
    CHECK(info.height == HEIGHT && info.width == WIDTH && info.label_bytes == 1);
    CHECK(info.smallest_batch == 1 && info.typical_batch == 2 && info.largest_batch == 4);
    CHECK(info.num_classes == 8);
    const char* name = NULL;
    uint8_t colour[3] = {0, 0, 0};
    CHECK(segvit_get_class(segmenter, 2, &name, colour) == SEGVIT_OK);
    CHECK(strcmp(name, "class 2") == 0);
    CHECK(colour[0] == 2 && colour[1] == 4 && colour[2] == 253);
    CHECK(segvit_get_class(segmenter, 2, NULL, NULL) == SEGVIT_OK);
    CHECK(segvit_get_class(segmenter, 8, &name, colour) == SEGVIT_INVALID_ARGUMENT);
    CHECK(segvit_get_class(segmenter, -1, &name, colour) == SEGVIT_INVALID_ARGUMENT);
}

static void segment(segvit_segmenter* segmenter) {
    static uint8_t pixels[6][HEIGHT * WIDTH * 3], maps[6][HEIGHT * WIDTH];
    segvit_image images[6];
    segvit_labels labels[6];
    for (int i = 0; i < 6; ++i) {
        for (int j = 0; j < HEIGHT * WIDTH * 3; ++j) pixels[i][j] = (uint8_t)(j * (7 + i) + j / 50);
        images[i] = (segvit_image){pixels[i], HEIGHT, WIDTH, 0};
        labels[i] = (segvit_labels){maps[i], HEIGHT, WIDTH, 1, 0};
    }
    CHECK(segvit_warm_up(segmenter) == SEGVIT_OK);
    CHECK(segvit_segment(segmenter, images, labels) == SEGVIT_OK);
    check_labels(pixels[0], maps[0]);
    CHECK(segvit_segment_batch(segmenter, images, labels, 6) == SEGVIT_OK);
    for (int i = 0; i < 6; ++i) check_labels(pixels[i], maps[i]);

    CHECK(segvit_segment(NULL, images, labels) == SEGVIT_INVALID_ARGUMENT);
    CHECK(segvit_segment(segmenter, NULL, labels) == SEGVIT_INVALID_ARGUMENT);
    CHECK(segvit_segment(segmenter, images, NULL) == SEGVIT_INVALID_ARGUMENT);
    CHECK(segvit_segment_batch(segmenter, images, labels, 0) == SEGVIT_INVALID_ARGUMENT);
    images[1].stride = 3;
    CHECK(segvit_segment_batch(segmenter, images, labels, 2) == SEGVIT_INVALID_ARGUMENT);
    CHECK(strstr(segvit_last_error(), "images[1]: expected a stride of at least 120") != NULL);
    CHECK(segvit_segment(segmenter, images, labels) == SEGVIT_OK);

    CHECK(segvit_close(segmenter) == SEGVIT_OK);
    CHECK(segvit_close(segmenter) == SEGVIT_OK);
    CHECK(segvit_segment(segmenter, images, labels) == SEGVIT_CLOSED);
    CHECK(strstr(segvit_last_error(), "is closed") != NULL);
}

int main(int argc, char** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: c_api_test <folder of make_artifacts.py>\n");
        return 2;
    }
    refuse_artifacts(argv[1]);
    char path[4096];
    snprintf(path, sizeof path, "%s/range", argv[1]);
    const segvit_options options = {.target = NULL, .device = 0, .threads = 1, .instances = 2};
    segvit_segmenter* segmenter = NULL;
    CHECK(segvit_load(path, &options, &segmenter) == SEGVIT_OK);
    if (segmenter == NULL) return 1;
    describe(segmenter);
    segment(segmenter);
    segvit_free(segmenter);
    segvit_free(NULL);
    return failures == 0 ? 0 : 1;
}
