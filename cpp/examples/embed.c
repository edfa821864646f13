/* As embed.cpp, in C: embed_c ARTIFACT < image.rgb > labels */
#include <stdio.h>
#include <stdlib.h>

#include "segvit/segvit.h"

static int segment_stdin(const segvit_segmenter* segmenter) {
    segvit_info info;
    if (segvit_get_info(segmenter, &info) != SEGVIT_OK) {
        return 1;
    }
    const size_t count = (size_t)info.height * (size_t)info.width;
    const size_t label_bytes = count * (size_t)info.label_bytes;
    uint8_t* pixels = malloc(3 * count);
    void* labels = malloc(label_bytes);
    const segvit_image image = {pixels, info.height, info.width, 0};
    const segvit_labels target = {labels, info.height, info.width, info.label_bytes, 0};
    /* Too few pixels, no memory and a failed write have no status of the library's. */
    int failed = pixels == NULL || labels == NULL || fread(pixels, 3, count, stdin) != count ||
                 segvit_segment(segmenter, &image, &target) != SEGVIT_OK ||
                 fwrite(labels, 1, label_bytes, stdout) != label_bytes;
    free(pixels);
    free(labels);
    return failed;
}

int main(int argc, char** argv) {
    segvit_segmenter* segmenter = NULL;
    int failed = segvit_load(argc > 1 ? argv[1] : "artifact", NULL, &segmenter) != SEGVIT_OK ||
                 segment_stdin(segmenter);
    if (failed) {
        const char* problem = segvit_last_error();
        fprintf(stderr, "error: %s\n", *problem ? problem : "too few pixels, or no memory");
    }
    segvit_free(segmenter);
    return failed;
}
