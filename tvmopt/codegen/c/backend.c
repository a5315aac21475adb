/* What TVM's kernels ask of their runtime. Objects made by LLVM reach three of the functions
 * through weak data slots, which the strong ones here replace; the rest is called by name. */
#include <stdio.h>
#include <string.h>

static void *backend_alloc(int device_type, int device, uint64_t bytes, int code, int bits) {
    (void)device_type, (void)device, (void)code, (void)bits;
    return current && bytes <= SIZE_MAX ? scratch_alloc(&current->scratch, (size_t)bytes) : NULL;
}

static int backend_free(int device_type, int device, void *data) {
    (void)device_type, (void)device;
    if (!current || !data) return -1;
    scratch_free(&current->scratch, data);
    return 0;
}

static int backend_parallel(task_fn task, void *closure, int tasks) {
    (void)tasks; /* kernels ask for 0, as many as there are */
    return current ? pool_launch(current, task, closure) : -1;
}

#define SLOT __attribute__((visibility("hidden")))
SLOT void *(*const __TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = backend_alloc;
SLOT int (*const __TVMBackendFreeWorkspace)(int, int, void *) = backend_free;
SLOT int (*const __TVMBackendParallelLaunch)(task_fn, void *, int) = backend_parallel;

/* Keep the first text only: it is the cause, and other threads may fail because of it. */
static bool claim_kernel_error(void) {
    return current && !atomic_flag_test_and_set(&current->instance->kernel_failed);
}

SLOT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    if (!claim_kernel_error()) return;
    char *text = current->instance->kernel_error;
    snprintf(text, KERNEL_ERROR_BYTES, "%s: ", kind);
    for (int32_t i = 0; i < count; i++) {
        const size_t used = strlen(text);
        if (parts[i]) snprintf(text + used, KERNEL_ERROR_BYTES - used, "%s", parts[i]);
    }
}

SLOT void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
    TVMFFIErrorSetRaisedFromCStrParts(kind, &message, 1);
}
