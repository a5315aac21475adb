/* Run a linked model: all inputs from standard input, all outputs to standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static tvmopt_buffer allocate(const tvmopt_tensor *tensor) {
    tvmopt_buffer buffer = {malloc(tensor->bytes), tensor->bytes};
    if (!buffer.data) exit(3);
    return buffer;
}

int main(void) {
    enum { MOST = 16 };
    tvmopt_buffer in[MOST], out[MOST];
    const int32_t inputs = model_input_count(), outputs = model_output_count();
    model_instance *net = model_create(1);
    if (!net || inputs > MOST || outputs > MOST) return 1;
    for (int32_t i = 0; i < inputs; ++i) {
        in[i] = allocate(model_input(i));
        if (fread(in[i].data, 1, in[i].bytes, stdin) != in[i].bytes) return 2;
    }
    for (int32_t i = 0; i < outputs; ++i) out[i] = allocate(model_output(i));
    if (model_run(net, in, inputs, out, outputs) != 0) {
        fprintf(stderr, "%s\n", model_last_error(net));
        return 1;
    }
    for (int32_t i = 0; i < outputs; ++i) fwrite(out[i].data, 1, out[i].bytes, stdout);
    model_destroy(net);
    return 0;
}
