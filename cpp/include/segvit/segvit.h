/* SegViT artifacts from C, and from whatever calls C: RGB images in, class labels out.
 *
 * As segmenter.hpp, which has the particulars. Every function may be called from any thread, but
 * a segmenter is freed by one, and used by none after. */
#ifndef SEGVIT_SEGVIT_H
#define SEGVIT_SEGVIT_H

/* NOLINTBEGIN(modernize-*): C */
#include <stddef.h>
#include <stdint.h>

#ifndef SEGVIT_API
#ifdef _WIN32
#define SEGVIT_API
#else
#define SEGVIT_API __attribute__((visibility("default")))
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns; after anything but SEGVIT_OK, segvit_last_error says what mends it. */
typedef enum segvit_status {
    SEGVIT_OK = 0,
    SEGVIT_INVALID_ARGUMENT = 1, /* an image, batch or option that the engine does not take */
    SEGVIT_NOT_FOUND = 2,        /* no artifact, or a file of it is missing */
    SEGVIT_DAMAGED = 3,          /* the manifest or a file is not as it was built */
    SEGVIT_INCOMPATIBLE = 4,     /* built for another GPU, version or target than is here */
    SEGVIT_RUNTIME = 5,          /* the engine failed while running */
    SEGVIT_OUT_OF_MEMORY = 6,    /* host or device memory did not suffice */
    SEGVIT_CLOSED = 7            /* the segmenter was closed */
} segvit_status;

typedef struct segvit_segmenter segvit_segmenter;

typedef struct segvit_options {
    const char* target; /* "auto", "trt", "trt-rtx" or "openvino"; NULL is "auto" */
    int device;         /* the GPU's number */
    int threads;        /* CPU threads of OpenVINO; 0 leaves them to it */
    int instances;      /* calls that may run at the same time, at least 1 */
    const char*
        digest; /* the sha256 of manifest.json: another artifact is refused; NULL: none is */
} segvit_options;

/* The caller's pixels: RGB, 8 bits a channel; `stride` bytes from row to row, 0 without a gap. */
typedef struct segvit_image {
    const uint8_t* data;
    int height, width;
    ptrdiff_t stride;
} segvit_image;

/* The caller's memory for labels of `label_bytes`, 1 (uint8) or 4 (int32). */
typedef struct segvit_labels {
    void* data;
    int height, width;
    int label_bytes;
    ptrdiff_t stride;
} segvit_labels;

/* What an engine takes and gives. */
typedef struct segvit_info {
    const char* target; /* "trt", "trt-rtx" or "openvino" */
    int height, width, label_bytes;
    int smallest_batch, typical_batch, largest_batch;
    int num_classes;
} segvit_info;

/* Why the last call of this thread that failed did; valid until its next call. Never NULL. */
SEGVIT_API const char* segvit_last_error(void);

/* Loads an artifact folder; NULL options are {"auto", 0, 0, 1, NULL}. `*segmenter` is NULL on
 * failure. */
SEGVIT_API segvit_status segvit_load(const char* artifact, const segvit_options* options,
                                     segvit_segmenter** segmenter);

/* Writes the labels of one image of the engine's size. */
SEGVIT_API segvit_status segvit_segment(const segvit_segmenter* segmenter,
                                        const segvit_image* image, const segvit_labels* labels);

/* Writes the labels of one or more images, in as many runs as the engine's batch takes. */
SEGVIT_API segvit_status segvit_segment_batch(const segvit_segmenter* segmenter,
                                              const segvit_image* images,
                                              const segvit_labels* labels, size_t count);

SEGVIT_API segvit_status segvit_warm_up(const segvit_segmenter* segmenter);

/* Known after segvit_close, too; texts live as long as the segmenter. */
SEGVIT_API segvit_status segvit_get_info(const segvit_segmenter* segmenter, segvit_info* info);

/* The name of a class and its colour, red, green, blue; either may be NULL. */
SEGVIT_API segvit_status segvit_get_class(const segvit_segmenter* segmenter, int index,
                                          const char** name, uint8_t colour[3]);

/* Frees the engine once calls in flight have ended; later calls return SEGVIT_CLOSED. */
SEGVIT_API segvit_status segvit_close(segvit_segmenter* segmenter);

/* Closes and frees the segmenter; NULL does nothing. */
SEGVIT_API void segvit_free(segvit_segmenter* segmenter);

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-*) */

#endif
