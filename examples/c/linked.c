/* Classify with a model that is linked into the program.
 *
 *     ./linked input.bin
 *
 * NAME is the model's name, given to the compiler as -DNAME=...; a program for one model would
 * include its header and write model_create, model_run, and so on.
 */
#include "common.h"
#include "model.h"

#define MODEL(function) JOIN(NAME, function) /* MODEL(run) is model_run */

static int classify(MODEL(instance) *net, const char *path) {
    const tvmopt_tensor *input = MODEL(input)(0), *output = MODEL(output)(0);
    if (MODEL(input_count)() != 1 || MODEL(output_count)() != 1 ||
        strcmp(output->dtype, "float32") != 0) {
        fprintf(stderr, "this example wants one input, and one output of float32 scores\n");
        return 2;
    }
    tvmopt_buffer in = {allocate(input->bytes), input->bytes};
    tvmopt_buffer out = {allocate(output->bytes), output->bytes};
    read_input(path, in.data, in.bytes);
    const int32_t status = MODEL(run)(net, &in, 1, &out, 1);
    if (status == 0)
        print_top_class(out.data, out.bytes / sizeof(float));
    else
        fprintf(stderr, "%s\n", MODEL(last_error)(net));
    free(in.data);
    free(out.data);
    return status == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s input.bin\n", argv[0]);
        return 2;
    }
    MODEL(instance) *net = MODEL(create)(1);
    if (!net) {
        fprintf(stderr, "%s\n", MODEL(last_error)(NULL));
        return 1;
    }
    const int status = classify(net, argv[1]);
    MODEL(destroy)(net);
    return status;
}
