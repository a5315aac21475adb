/* Classify with a model that is chosen when the program runs.
 *
 *     ./dlopened path/to/model.so name input.bin
 *
 * The functions are those of the model's header, but the header is not needed: their types are the
 * same for every model, and so are the two structures below.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <dlfcn.h>

typedef struct {
    const char *name, *dtype;
    int32_t ndim;
    const int64_t *shape;
    size_t bytes;
} tensor;

typedef struct {
    void *data;
    size_t bytes;
} buffer;

typedef struct {
    void *(*create)(int32_t threads);
    void (*destroy)(void *net);
    const tensor *(*input)(int32_t index);
    const tensor *(*output)(int32_t index);
    int32_t (*input_count)(void);
    int32_t (*output_count)(void);
    int32_t (*run)(void *net, const buffer *in, int32_t n_in, const buffer *out, int32_t n_out);
    const char *(*last_error)(const void *net);
} functions;

/* Store the address of the model's function; a data pointer becomes a function pointer through
 * memory, as POSIX advises for dlsym. */
static void find(void *library, const char *name, const char *function, void *slot) {
    char symbol[256];
    snprintf(symbol, sizeof symbol, "%s_%s", name, function);
    void *address = dlsym(library, symbol);
    if (!address) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    memcpy(slot, &address, sizeof address);
}

static functions find_all(void *library, const char *name) {
    functions model;
    find(library, name, "create", &model.create);
    find(library, name, "destroy", &model.destroy);
    find(library, name, "input", &model.input);
    find(library, name, "output", &model.output);
    find(library, name, "input_count", &model.input_count);
    find(library, name, "output_count", &model.output_count);
    find(library, name, "run", &model.run);
    find(library, name, "last_error", &model.last_error);
    return model;
}

static int classify(const functions *model, void *net, const char *path) {
    const tensor *input = model->input(0), *output = model->output(0);
    if (model->input_count() != 1 || model->output_count() != 1 ||
        strcmp(output->dtype, "float32") != 0) {
        fprintf(stderr, "this example wants one input, and one output of float32 scores\n");
        return 2;
    }
    buffer in = {allocate(input->bytes), input->bytes};
    buffer out = {allocate(output->bytes), output->bytes};
    read_input(path, in.data, in.bytes);
    const int32_t status = model->run(net, &in, 1, &out, 1);
    if (status == 0)
        print_top_class(out.data, out.bytes / sizeof(float));
    else
        fprintf(stderr, "%s\n", model->last_error(net));
    free(in.data);
    free(out.data);
    return status == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s path/to/model.so name input.bin\n", argv[0]);
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    const functions model = find_all(library, argv[2]);
    void *net = model.create(1);
    if (!net) {
        fprintf(stderr, "%s\n", model.last_error(NULL));
        return 1;
    }
    const int status = classify(&model, net, argv[3]);
    model.destroy(net);
    dlclose(library);
    return status;
}
