/* Workspace for kernels. Blocks come and go in stack order, so the stack grows once to the most
 * that was ever held, and a run after the first allocates nothing. */
#include <stdlib.h>
#include <string.h>

struct scratch_block {
    scratch_block *next; /* in the list of heap blocks */
    size_t bytes;        /* with this header */
    size_t below;        /* offset of the block beneath, in the stack */
    bool on_heap, freed;
};

static_assert(sizeof(scratch_block) <= ALIGNMENT, "a header takes one alignment unit");

static bool scratch_reserve(scratch_t *scratch, size_t bytes) {
    if (bytes <= scratch->capacity) return true;
    unsigned char *base = aligned_alloc(ALIGNMENT, align_up(bytes));
    if (!base) return false;
    free(scratch->base);
    scratch->base = base;
    scratch->capacity = align_up(bytes);
    return true;
}

static void *scratch_alloc(scratch_t *scratch, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    const size_t total = ALIGNMENT + align_up(bytes);
    scratch_block *block;
    if (total <= scratch->capacity - scratch->used) {
        block = (scratch_block *)(void *)(scratch->base + scratch->used);
        *block = (scratch_block){.bytes = total, .below = scratch->top};
        scratch->top = scratch->used;
        scratch->used += total;
    } else {
        block = aligned_alloc(ALIGNMENT, total);
        if (!block) return NULL;
        *block = (scratch_block){.bytes = total, .on_heap = true, .next = scratch->heap};
        scratch->heap = block;
    }
    scratch->live += total;
    if (scratch->live > scratch->peak) scratch->peak = scratch->live;
    return (unsigned char *)block + ALIGNMENT;
}

static void scratch_unlink(scratch_t *scratch, scratch_block *block) {
    scratch_block **link = &scratch->heap;
    while (*link && *link != block) link = &(*link)->next;
    if (*link) *link = block->next;
    free(block);
}

static void scratch_free(scratch_t *scratch, void *data) {
    scratch_block *block = (scratch_block *)(void *)((unsigned char *)data - ALIGNMENT);
    scratch->live -= block->bytes;
    if (block->on_heap) {
        scratch_unlink(scratch, block);
        return;
    }
    block->freed = true;
    while (scratch->used > 0) {
        block = (scratch_block *)(void *)(scratch->base + scratch->top);
        if (!block->freed) break;
        scratch->used = scratch->top;
        scratch->top = block->below;
    }
}

/* Drop what a failed run left, and grow the stack to what the last runs needed. */
static void scratch_reset(scratch_t *scratch) {
    while (scratch->heap) scratch_unlink(scratch, scratch->heap);
    scratch->used = scratch->live = scratch->top = 0;
    (void)scratch_reserve(scratch, scratch->peak); /* if that fails, the heap serves again */
}

static void scratch_release(scratch_t *scratch) {
    while (scratch->heap) scratch_unlink(scratch, scratch->heap);
    free(scratch->base);
}
