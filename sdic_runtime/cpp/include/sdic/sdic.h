/* libsdic: a picture is inverted once and edited many times. The C interface.
 *
 *     sdic_pipeline *pipeline = NULL;
 *     sdic_result *inversion = NULL, *edited = NULL;
 *     sdic_image photo = {0};
 *     photo.pixels = bytes, photo.width = 800, photo.height = 600, photo.channels = 3;
 *
 *     sdic_edit_part smile;
 *     sdic_edit_part_default(&smile);
 *     smile.direction = "smile";
 *     const float strengths[] = {-2, 0, 2};
 *     sdic_edit_params params;
 *     sdic_edit_params_default(&params);
 *     params.parts = &smile, params.part_count = 1;
 *     params.strengths = strengths, params.strength_count = 3;
 *
 *     if (sdic_open("engines/ffhq1024", NULL, &pipeline) != SDIC_OK ||
 *         sdic_invert(pipeline, &photo, 1, 0, &inversion) != SDIC_OK ||
 *         sdic_edit(pipeline, inversion, &params, &edited) != SDIC_OK)
 *         fprintf(stderr, "error: %s\n", sdic_last_error());
 *     else
 *         for (size_t i = 0; i < sdic_result_count(edited); ++i)
 *             sdic_result_picture(edited, i, output[i], sizeof output[i]);
 *     sdic_result_free(edited);
 *     sdic_result_free(inversion);
 *     sdic_close(pipeline);
 *
 * Errors. Every function that can fail returns a status; SDIC_OK is 0. sdic_last_error() is one sentence: what is wrong, with the
 * value, and what to do. A failed call leaves *out untouched. No C++ exception leaves the library.
 *
 * Threads. A pipeline may be used by several threads at once, and so may a result: it never changes. Close
 * or free a handle only when no call uses it any more. sdic_last_error() is kept per thread. The progress callback runs on the
 * thread that called; the log callback may run on any thread, also on several at once.
 *
 * Memory. A result does not depend on the pipeline that made it, and may outlive it. Free every handle with its own
 * function; freeing NULL does nothing. Strings and views belong to the handle they came from.
 *
 * Structures. Those with a struct_size are filled by their _default function, which writes all of the structure that this library knows. A
 * library whose structures are larger has another SONAME (this one is libsdic.so.1), so that a program gets the one that it was compiled
 * for; one that loads the library by its path compares sdic_version() first. A program that fills a structure by hand, without _default,
 * may leave out fields at its end: struct_size says how many bytes there are, and the library reads and writes no more.
 *
 * Environment. The first sdic_open sets ORT_DISABLE_TELEMETRY=1 for ONNX Runtime, where the variable is not set. Setting a variable while
 * another thread reads one is not safe on every system: a program whose threads read the environment sets it itself, or opens its first
 * bundle, before it starts them.
 *
 * Methods. The bundle says what its method is: which tensors an inversion keeps, which forms of editing ("moves") and programs there are.
 * Letters in shapes: N pictures, R the generator's size, S the working size, L style rows, C style width; a method may have more. Text is
 * UTF-8.
 */
#ifndef SDIC_SDIC_H
#define SDIC_SDIC_H

#include <stddef.h>
#include <stdint.h>

/* SDIC_STATIC: libsdic is linked statically (its CMake package says so). SDIC_BUILDING: libsdic itself is being built. */
#if defined(_WIN32) && defined(SDIC_BUILDING) && !defined(SDIC_STATIC)
#define SDIC_API __declspec(dllexport)
#elif defined(_WIN32) && !defined(SDIC_STATIC)
#define SDIC_API __declspec(dllimport)
#elif defined(__GNUC__)
#define SDIC_API __attribute__((visibility("default")))
#else
#define SDIC_API
#endif

#define SDIC_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded bundle. */
typedef struct sdic_pipeline sdic_pipeline;
/* N pictures and their tensors: an inversion, which has everything that an edit needs, or edited pictures. */
typedef struct sdic_result sdic_result;

typedef enum sdic_status {
    SDIC_OK = 0,
    SDIC_ERROR_ARGUMENT = 1,  /* a NULL, a size, a strength, an unknown name: the caller can fix it */
    SDIC_ERROR_BUNDLE = 2,    /* no bundle, a damaged one, or one of a newer schema */
    SDIC_ERROR_PICTURE = 3,   /* a picture that cannot be used */
    SDIC_ERROR_FILE = 4,      /* a file that cannot be read or written, or is not what it should be */
    SDIC_ERROR_PROVIDER = 5,  /* ONNX Runtime, or the execution provider asked for, is not there */
    SDIC_ERROR_RUN = 6,       /* ONNX Runtime failed on a stage */
    SDIC_ERROR_MEMORY = 7,    /* not enough memory, on the host or on the device */
    SDIC_ERROR_CANCELLED = 8, /* the progress callback asked to stop */
    SDIC_ERROR_INTERNAL = 9   /* a fault of this library; please report it */
} sdic_status;

typedef enum sdic_log_level { SDIC_LOG_INFO = 1, SDIC_LOG_WARNING = 2, SDIC_LOG_ERROR = 3 } sdic_log_level;

/* One line of log, without a line end. Must not throw. */
typedef void (*sdic_log_callback)(sdic_log_level level, const char *message, void *user_data);

/* Called before each stage: `done` of `total` stage runs are done. Return 0 to go on, anything else to stop with
 * SDIC_ERROR_CANCELLED. Must not throw. */
typedef int (*sdic_progress_callback)(const char *stage, size_t done, size_t total, void *user_data);

/* The version of the library that is loaded; compare with SDIC_VERSION. */
SDIC_API const char *sdic_version(void);

/* Why the last call on this thread failed, in one sentence; "" after a call that went well. Valid until this thread's next call. */
SDIC_API const char *sdic_last_error(void);

/* ---- Bundles ---------------------------------------------------------------------------------------------------------------- */

typedef struct sdic_open_params {
    size_t struct_size;              /* set by sdic_open_params_default */
    const char *precision;           /* "fp32", "fp16", ...; NULL: the bundle's default */
    const char *provider;            /* "cpu" (default), "cuda", "tensorrt" or "tensorrt-rtx"; one that is not there is an error, never replaced */
    int32_t device;                  /* number of the GPU; 0 */
    int32_t threads;                 /* CPU threads per operation; 0: all cores */
    int32_t tf32;                    /* 1: let CUDA round float32 to TensorFloat-32, as it always does in half precision */
    int32_t verify;                  /* 1: compare every file with its SHA-256 (default); 0: sizes only */
    const char *onnxruntime_library; /* path of ONNX Runtime's shared library; NULL: the environment variable SDIC_ONNXRUNTIME_LIBRARY,
                                        then the one named when libsdic was built, then the system's */
    sdic_log_callback log;           /* NULL: silent */
    sdic_progress_callback progress; /* NULL: none; serves loading, inverting and editing */
    void *user_data;                 /* handed to both callbacks */
} sdic_open_params;

SDIC_API void sdic_open_params_default(sdic_open_params *params);

/* Open the bundle in the folder `bundle`: schema, sizes and hashes are checked and all stages loaded. `params` may be NULL. */
SDIC_API sdic_status sdic_open(const char *bundle, const sdic_open_params *params, sdic_pipeline **out);
SDIC_API void sdic_close(sdic_pipeline *pipeline);

typedef struct sdic_info {
    size_t struct_size;      /* set by sdic_info_default */
    const char *name;        /* of the bundle */
    const char *method;      /* what made it: "sdic", ... */
    const char *domain;      /* "faces", "cars", "portraits", ... */
    const char *licence;     /* what the bundle says about its weights */
    const char *identity;    /* which model this is: an inversion belongs to the model of the same identity */
    const char *description; /* what runs and where: "ONNX Runtime 1.31.1, CPUExecutionProvider, fp32", and which graphs are CPU-optimized */
    int32_t resolution;      /* R */
    int32_t working;         /* S */
    int32_t picture_width;   /* of the pictures that come out; their height is that of the visible rows */
    int32_t picture_height;
} sdic_info;

SDIC_API void sdic_info_default(sdic_info *info);
SDIC_API sdic_status sdic_pipeline_info(const sdic_pipeline *pipeline, sdic_info *info);

/* The size that a letter stands for in shapes: "R", "S", "L", "C", and the method's own. */
SDIC_API sdic_status sdic_pipeline_size(const sdic_pipeline *pipeline, const char *letter, int32_t *value);

/* The shape that a tensor of the method has for one picture, and how many of its numbers count. */
SDIC_API sdic_status sdic_pipeline_shape(const sdic_pipeline *pipeline, const char *tensor, int64_t shape[8], int32_t *rank);

/* What can be listed of a bundle. */
typedef enum sdic_names {
    SDIC_NAMES_DIRECTIONS = 0, /* sorted */
    SDIC_NAMES_MOVES = 1,      /* forms of editing, for sdic_edit_params.move */
    SDIC_NAMES_PROGRAMS = 2,   /* what the stages are run for: "invert", those of the moves; "baseline", "prepare" where the method has them */
    SDIC_NAMES_TENSORS = 3,    /* those that an inversion keeps */
    SDIC_NAMES_SIZES = 4,      /* the letters of sdic_pipeline_size */
    SDIC_NAMES_EXTRAS = 5      /* further inputs that edits take, see sdic_extra */
} sdic_names;

/* Name `index` of a list; NULL beyond the last one. */
SDIC_API const char *sdic_pipeline_name(const sdic_pipeline *pipeline, sdic_names list, size_t index);

typedef enum sdic_edit_kind {
    SDIC_EDIT_DIRECTION = 0,     /* code + weight * direction */
    SDIC_EDIT_GANSPACE_SET = 1,  /* move the code to the coordinate sigma along a PCA component, as the released code does */
    SDIC_EDIT_GANSPACE_ADD = 2   /* move the code by sigma along a PCA component */
} sdic_edit_kind;

typedef struct sdic_direction_info {
    size_t struct_size;      /* set by sdic_direction_info_default */
    sdic_edit_kind kind;     /* the edit it is for: SDIC_EDIT_DIRECTION, or SDIC_EDIT_GANSPACE_SET for a PCA basis */
    int32_t component_count; /* of a PCA basis; 0 for a direction */
    int32_t has_range;       /* 1: the two below say which strengths are useful, for a slider */
    float minimum, maximum;
} sdic_direction_info;

SDIC_API void sdic_direction_info_default(sdic_direction_info *info);
/* What is known of a direction of the bundle; its file is read on first use. */
SDIC_API sdic_status sdic_pipeline_direction(sdic_pipeline *pipeline, const char *name, sdic_direction_info *info);

/* ---- Inverting -------------------------------------------------------------------------------------------------------------- */

/* An upright picture of any size: rows from top to bottom, pixels as bytes. It is taken whole: one of another shape than the model's is
 * squashed, and no face is looked for. Crop it, and align faces, before. */
typedef struct sdic_image {
    const uint8_t *pixels;
    int32_t width, height;
    int32_t channels; /* 3: RGB; 1: gray; 4: RGBA, composited on white */
    size_t stride;    /* bytes from one row to the next; 0: width * channels */
    const char *name; /* where it came from, kept with the inversion; may be NULL */
} sdic_image;

/* Invert `count` pictures, `batch` at a time (0: as many as weigh what one of 1024 x 1024 does). They are resized as Python does, pixel by
 * pixel the same. */
SDIC_API sdic_status sdic_invert(sdic_pipeline *pipeline, const sdic_image *images, size_t count, size_t batch, sdic_result **out);

/* The same for pictures that are prepared already: [count, 3, S, S] in [-1, 1]. */
SDIC_API sdic_status sdic_invert_tensor(sdic_pipeline *pipeline, const float *images, size_t count, size_t batch, sdic_result **out);

/* Read and write the safetensors files that Python's Inversion.save and Inversion.load use. Written whole or not at all. */
SDIC_API sdic_status sdic_inversion_save(const sdic_result *inversion, const char *path);
SDIC_API sdic_status sdic_inversion_load(const char *path, sdic_result **out);

/* ---- Editing ---------------------------------------------------------------------------------------------------------------- */

/* One edit. Its direction is a name in the bundle, or an array [rows, width] of the caller with rows 1 (every style row moves alike)
 * or L, and width C. A GANSpace edit names a PCA basis of the bundle. */
typedef struct sdic_edit_part {
    size_t struct_size;    /* set by sdic_edit_part_default */
    sdic_edit_kind kind;   /* SDIC_EDIT_DIRECTION */
    const char *direction; /* a name in the bundle, or NULL when `vector` is given */
    const float *vector;   /* NULL */
    int64_t rows, width;   /* of `vector` */
    float weight;          /* 1: how much of this part, when several are combined */
    int32_t component;     /* GANSpace: which component, counted from 0 */
    int32_t first_row;     /* GANSpace: style rows first_row .. end_row - 1 */
    int32_t end_row;
    float sigma;           /* GANSpace: in standard deviations */
} sdic_edit_part;

/* A further input of an edit, one of SDIC_NAMES_EXTRAS, zeros where it is not given: such as StyleFeatureEditor's "mask" [N, 1, S, S], 1
 * where nothing may change. */
typedef struct sdic_extra {
    size_t struct_size; /* set by sdic_extra_default */
    const char *name;
    const float *data;  /* contiguous; see sdic_pipeline_shape */
    size_t count;       /* of values: for one picture, then all N have the same, or for all N */
} sdic_extra;

/* Codes become code + strength * (sum of weight * part), each part read off the unedited code. M strengths for N pictures give N * M
 * pictures, all strengths of the first picture first. */
typedef struct sdic_edit_params {
    size_t struct_size;           /* set by sdic_edit_params_default */
    const sdic_edit_part *parts;  /* at least one */
    size_t part_count;
    const float *strengths;       /* NULL: one strength of 1 */
    size_t strength_count;
    const char *move;             /* the form of editing, one of SDIC_NAMES_MOVES: for SDIC "paper" (strength 0 is the inversion) or "released"
                                     (as the released code does); NULL: the bundle's first for edits of these kinds */
    size_t batch;                 /* pictures at a time; 0: as in sdic_invert */
    const sdic_extra *extras;     /* NULL: none */
    size_t extra_count;
} sdic_edit_params;

SDIC_API void sdic_edit_part_default(sdic_edit_part *part);
SDIC_API void sdic_extra_default(sdic_extra *extra);
SDIC_API void sdic_edit_params_default(sdic_edit_params *params);

/* `inversion` must be of this bundle's model, and have the tensors that the move's program takes. */
SDIC_API sdic_status sdic_edit(sdic_pipeline *pipeline, const sdic_result *inversion, const sdic_edit_params *params, sdic_result **out);

/* The pictures of the inverted codes alone, without what the method adds to them: the program "baseline", where the bundle has one. */
SDIC_API sdic_status sdic_baseline(sdic_pipeline *pipeline, const sdic_result *inversion, size_t batch, sdic_result **out);

/* ---- What came out ---------------------------------------------------------------------------------------------------------- */

/* A tensor that belongs to a handle: contiguous float32. */
typedef struct sdic_view {
    const float *data;
    int64_t shape[8]; /* the first `rank` count */
    int32_t rank;
} sdic_view;

/* The number N of pictures; 0 for NULL. */
SDIC_API size_t sdic_result_count(const sdic_result *result);
/* sdic_image.name of picture `index`, or of the picture it was edited from, "" where there was none; NULL beyond the last picture. */
SDIC_API const char *sdic_result_name(const sdic_result *result, size_t index);

/* The height and width in pixels of the pictures below. */
SDIC_API sdic_status sdic_result_size(const sdic_result *result, int32_t *width, int32_t *height);

/* Picture `index` as 8-bit RGB into `pixels`, which has room for `bytes` bytes: width * height * 3 are written. Only the visible rows. */
SDIC_API sdic_status sdic_result_picture(const sdic_result *result, size_t index, uint8_t *pixels, size_t bytes);

/* A tensor by its name. Every result has "picture" [N, 3, R, R] (unclamped, all rows; also called "pixels"); an inversion has all of
 * SDIC_NAMES_TENSORS; edited pictures have the codes [N, L, C] that were moved. */
SDIC_API sdic_status sdic_result_tensor(const sdic_result *result, const char *name, sdic_view *view);

SDIC_API void sdic_result_free(sdic_result *result);

#ifdef __cplusplus
}
#endif
#endif
