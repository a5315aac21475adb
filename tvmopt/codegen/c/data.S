/* Weights and manifest, taken in as they are. */
    .section .rodata.tvmopt, "a", %progbits
    .balign 64
    .global tvmopt_weights
    .hidden tvmopt_weights
    .type tvmopt_weights, %object
tvmopt_weights:
    .incbin "weights.bin"
    .size tvmopt_weights, . - tvmopt_weights
    .global tvmopt_weights_end
    .hidden tvmopt_weights_end
tvmopt_weights_end:

    /* A section of its own, so that the manifest can be read without loading any code. */
    .section .tvmopt.manifest, "a", %progbits
    .global tvmopt_manifest
    .hidden tvmopt_manifest
    .type tvmopt_manifest, %object
tvmopt_manifest:
    .incbin "manifest.json"
    .byte 0
    .size tvmopt_manifest, . - tvmopt_manifest

    .section .note.GNU-stack, "", %progbits
