/* The public interface: instances, runs, and what a caller may ask about the model. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20) /* on x86-64 and, with 4 KiB pages, on Arm */

extern const unsigned char tvmopt_weights[] __attribute__((visibility("hidden")));
extern const unsigned char tvmopt_weights_end[] __attribute__((visibility("hidden")));
extern const char tvmopt_manifest[] __attribute__((visibility("hidden")));

static _Thread_local char create_error[ERROR_BYTES];

__attribute__((format(printf, 2, 3))) static int fail(instance_t *instance, const char *format,
                                                      ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(instance->error, ERROR_BYTES, format, arguments);
    va_end(arguments);
    return -1;
}

/* The one kernel that is not TVM's: an output that is an input, a constant or another output. Not
 * every model has one. */
__attribute__((unused)) static int copy_kernel(void *self, const ffi_any *args, int32_t count,
                                               ffi_any *result) {
    const dl_tensor *from = args[0].value.pointer, *to = args[1].value.pointer;
    size_t bytes = to->dtype.bits / 8;
    for (int32_t i = 0; i < to->ndim; i++) bytes *= (size_t)to->shape[i];
    memcpy(to->data, from->data, bytes);
    (void)self, (void)count, (void)result;
    return 0;
}

#include "kernels.h" /* generated: plan_kernels */

/* ---- create and destroy ---- */

static void *fixed_data(const instance_t *instance, const plan_argument *argument) {
    switch (argument->space) {
    case SPACE_ARENA: return instance->arena + argument->offset;
    case SPACE_CONSTANT: return (void *)(uintptr_t)(tvmopt_weights + argument->offset);
    default: return NULL; /* the caller's, set by every run */
    }
}

/* Everything that a run does not change is set here, so that a step is a plain call. */
static void prepare_arguments(instance_t *instance) {
    memcpy(instance->shapes, plan_shapes, sizeof instance->shapes);
    for (int32_t i = 0; i < PLAN_ARGUMENTS; i++) {
        const plan_argument *argument = &plan_arguments[i];
        instance->tensors[i] = (dl_tensor){
            .data = fixed_data(instance, argument),
            .device = {1, 0}, /* kDLCPU */
            .ndim = argument->ndim,
            .dtype = {argument->type_code, argument->type_bits, 1},
            .shape = instance->shapes + argument->shape,
        };
        instance->values[i].type_index = FFI_DL_TENSOR;
        instance->values[i].value.pointer = &instance->tensors[i];
    }
}

/* Thousands of page faults would make the first run slow, so a large block asks for large pages. */
static void *allocate_block(size_t bytes) {
    bytes = align_up(bytes + 1);
    if (bytes < 2 * HUGE_PAGE_BYTES) return aligned_alloc(ALIGNMENT, bytes);
    void *block = NULL;
    if (posix_memalign(&block, HUGE_PAGE_BYTES, bytes) != 0) return NULL;
    (void)madvise(block, bytes, MADV_HUGEPAGE); /* a wish: 4 KiB pages do as well */
    return block;
}

/* Map the weights that the system has in memory at one go, instead of a page fault for each page.
 * They stay shared with other processes, and no copy is made. */
static void map_weights(void) {
#ifdef MADV_POPULATE_READ
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (uintptr_t)tvmopt_weights / page * page;
    const uintptr_t end = (uintptr_t)tvmopt_weights_end;
    (void)madvise((void *)begin, end - begin, MADV_POPULATE_READ); /* before Linux 5.14: no effect */
#endif
}

static bool allocate(instance_t *instance, int32_t threads) {
    instance->arena = allocate_block(PLAN_ARENA_BYTES);
    instance->workers = calloc((size_t)threads, sizeof *instance->workers);
    if (!instance->arena || !instance->workers) return false;
    for (int32_t i = 0; i < threads; i++) {
        worker_t *worker = &instance->workers[i];
        worker->instance = instance;
        worker->index = i;
        if (!scratch_reserve(&worker->scratch, PLAN_SCRATCH_BYTES)) return false;
    }
    return true;
}

static void release(instance_t *instance) {
    for (int32_t i = 0; instance->workers && i < instance->pool.threads; i++)
        scratch_release(&instance->workers[i].scratch);
    free(instance->workers);
    free(instance->arena);
    free(instance->staging);
    free(instance);
}

static instance_t *refuse(instance_t *instance, const char *why, const char *what) {
    snprintf(create_error, ERROR_BYTES, why, what);
    if (instance) release(instance);
    return NULL;
}

instance_t *ABI(create)(int32_t threads) {
    if (threads < 1 || threads > MAX_THREADS)
        return refuse(NULL, "threads must be in [1, 1024]%s", "");
    if (!PLAN_PARALLEL) threads = 1; /* others would have nothing to do */
    const char *missing = missing_feature();
    if (missing) return refuse(NULL, "the model needs a CPU with %s, this one lacks it", missing);
    instance_t *instance = calloc(1, sizeof *instance);
    if (!instance) return refuse(NULL, "%s", "out of memory");
    instance->pool.threads = threads;
    if (!allocate(instance, threads)) return refuse(instance, "%s", "out of memory");
    atomic_flag_clear(&instance->running);
    atomic_flag_clear(&instance->kernel_failed);
    instance->owner = getpid();
    prepare_arguments(instance);
    map_weights();
    if (!pool_start(&instance->pool, instance->workers, threads)) {
        pool_stop(&instance->pool);
        return refuse(instance, "%s", "the system would not start that many threads");
    }
    return instance;
}

void ABI(destroy)(instance_t *instance) {
    if (!instance) return;
    if (instance->owner == getpid()) pool_stop(&instance->pool); /* a fork has no such threads */
    release(instance);
}

/* ---- run ---- */

static int check_port(instance_t *instance, const char *role, const tvmopt_tensor *port,
                      const tvmopt_buffer *buffer) {
    if (buffer->bytes != port->bytes)
        return fail(instance, "%s '%s' must have %zu bytes, got %zu", role, port->name, port->bytes,
                    buffer->bytes);
    if (!buffer->data && port->bytes) return fail(instance, "%s '%s' is NULL", role, port->name);
    return 0;
}

static int check_ports(instance_t *instance, const char *role, const tvmopt_tensor *ports,
                       int32_t want, const tvmopt_buffer *buffers, int32_t count) {
    if (count != want || (want && !buffers))
        return fail(instance, "the model has %d %ss, got %d", (int)want, role,
                    buffers ? (int)count : 0);
    for (int32_t i = 0; i < count; i++)
        if (check_port(instance, role, &ports[i], &buffers[i]) != 0) return -1;
    return 0;
}

static bool overlap(const tvmopt_buffer *a, const tvmopt_buffer *b) {
    const uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    return a->bytes && b->bytes && x < y + b->bytes && y < x + a->bytes;
}

static int check_overlap(instance_t *instance, const tvmopt_buffer *inputs,
                         const tvmopt_buffer *outputs) {
    for (int32_t o = 0; o < PLAN_OUTPUTS; o++) {
        for (int32_t i = 0; i < PLAN_INPUTS; i++)
            if (overlap(&outputs[o], &inputs[i]))
                return fail(instance, "output '%s' overlaps input '%s'", plan_outputs[o].name,
                            plan_inputs[i].name);
        for (int32_t p = 0; p < o; p++)
            if (overlap(&outputs[o], &outputs[p]))
                return fail(instance, "output '%s' overlaps output '%s'", plan_outputs[o].name,
                            plan_outputs[p].name);
    }
    return 0;
}

static bool is_aligned(const void *data) {
    return (uintptr_t)data % ALIGNMENT == 0;
}

/* Where kernels find each port: the caller's buffer, or our aligned copy of it. */
static int place_ports(instance_t *instance, const tvmopt_buffer *inputs,
                       const tvmopt_buffer *outputs, void **places) {
    size_t offset = 0;
    for (int32_t i = 0; i < PLAN_INPUTS + PLAN_OUTPUTS; i++) {
        const tvmopt_buffer *buffer = i < PLAN_INPUTS ? &inputs[i] : &outputs[i - PLAN_INPUTS];
        places[i] = buffer->data;
        if (!is_aligned(buffer->data)) {
            if (!instance->staging) instance->staging = allocate_block(PLAN_STAGING_BYTES);
            if (!instance->staging) return fail(instance, "out of memory for unaligned buffers");
            places[i] = instance->staging + offset;
            if (i < PLAN_INPUTS) memcpy(places[i], buffer->data, buffer->bytes);
        }
        offset += align_up(buffer->bytes);
    }
    return 0;
}

static void bind_ports(instance_t *instance, void **places) {
    for (int32_t i = 0; i < PLAN_BOUND; i++) {
        const uint32_t index = plan_bound[i];
        const plan_argument *argument = &plan_arguments[index];
        const int32_t port = argument->port + (argument->space == SPACE_OUTPUT ? PLAN_INPUTS : 0);
        instance->tensors[index].data = (unsigned char *)places[port] + argument->offset;
    }
}

static int run_step(instance_t *instance, const plan_step *step) {
    ffi_any result = {0};
    const ffi_any *arguments = instance->values + step->first_argument;
    const kernel_fn kernel = plan_kernels[step->kernel];
    if (kernel(NULL, arguments, (int32_t)step->arguments, &result) == 0) return 0;
    return fail(instance, "layer '%s' failed: %s", plan_names + step->layer,
                instance->kernel_error[0] ? instance->kernel_error : "out of memory for workspace");
}

static int run_block(instance_t *instance, const plan_block *block) {
    for (uint32_t i = block->first_step; i < block->first_step + block->steps; i++) {
        const plan_step *step = &plan_steps[i];
        const char *layer = plan_names + step->layer;
        if (instance->on_step) instance->on_step(instance->user, (int32_t)i, layer, 0);
        const int64_t start = instance->seconds ? monotonic_ns() : 0;
        if (run_step(instance, step) != 0) return -1;
        if (instance->seconds) instance->seconds[i] = (double)(monotonic_ns() - start) * 1e-9;
        if (instance->on_step) instance->on_step(instance->user, (int32_t)i, layer, 1);
    }
    return 0;
}

static int run(instance_t *instance, const tvmopt_buffer *inputs, int32_t n_inputs,
               const tvmopt_buffer *outputs, int32_t n_outputs) {
    void *places[PLAN_INPUTS + PLAN_OUTPUTS + 1];
    if (check_ports(instance, "input", plan_inputs, PLAN_INPUTS, inputs, n_inputs) != 0 ||
        check_ports(instance, "output", plan_outputs, PLAN_OUTPUTS, outputs, n_outputs) != 0 ||
        check_overlap(instance, inputs, outputs) != 0 ||
        place_ports(instance, inputs, outputs, places) != 0)
        return -1;
    bind_ports(instance, places);
    for (int32_t i = 0; i < instance->pool.threads; i++)
        scratch_reset(&instance->workers[i].scratch);
    if (run_block(instance, &plan_blocks[0]) != 0) return -1;
    for (int32_t i = 0; i < PLAN_OUTPUTS; i++)
        if (places[PLAN_INPUTS + i] != outputs[i].data)
            memcpy(outputs[i].data, places[PLAN_INPUTS + i], outputs[i].bytes);
    return 0;
}

int32_t ABI(run)(instance_t *instance, const tvmopt_buffer *inputs, int32_t n_inputs,
                 const tvmopt_buffer *outputs, int32_t n_outputs) {
    if (!instance) return -1;
    if (atomic_flag_test_and_set(&instance->running)) return -2;
    int status;
    if (instance->pool.threads > 1 && instance->owner != getpid()) {
        status = fail(instance, "an instance does not outlive fork(); create one in this process");
    } else {
        worker_t *const outer = current; /* a step callback may run another instance */
        current = &instance->workers[0];
        instance->error[0] = instance->kernel_error[0] = '\0';
        atomic_flag_clear(&instance->kernel_failed);
        status = run(instance, inputs, n_inputs, outputs, n_outputs);
        current = outer;
    }
    atomic_flag_clear(&instance->running);
    return status;
}

/* ---- questions ---- */

int32_t ABI(input_count)(void) {
    return PLAN_INPUTS;
}

int32_t ABI(output_count)(void) {
    return PLAN_OUTPUTS;
}

int32_t ABI(step_count)(void) {
    return PLAN_STEPS;
}

const tvmopt_tensor *ABI(input)(int32_t index) {
    return index >= 0 && index < PLAN_INPUTS ? &plan_inputs[index] : NULL;
}

const tvmopt_tensor *ABI(output)(int32_t index) {
    return index >= 0 && index < PLAN_OUTPUTS ? &plan_outputs[index] : NULL;
}

size_t ABI(arena_bytes)(void) {
    return PLAN_ARENA_BYTES;
}

void ABI(on_step)(instance_t *instance, tvmopt_step_fn step, void *user) {
    instance->on_step = step;
    instance->user = user;
}

void ABI(profile)(instance_t *instance, double *seconds) {
    instance->seconds = seconds;
}

const char *ABI(last_error)(const instance_t *instance) {
    return instance ? instance->error : create_error;
}

const char *ABI(manifest)(void) {
    return tvmopt_manifest;
}
