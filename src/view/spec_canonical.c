#include "view/spec_canonical.h"

#include <stdlib.h>
#include <string.h>

/* Outer dims first: the largest destination stride. */
static bool belongs_outside(const tpv_piece_dim_t *a, const tpv_piece_dim_t *b) {
    if (a->to != b->to) return a->to > b->to;
    if (a->from != b->from) return a->from > b->from;
    return a->size > b->size;
}

bool tpv_piece_canonicalise(tpv_piece_t *piece) {
    bool zero = !tpv_piece_copies(piece->tensor);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < piece->dims; i++) {
        tpv_piece_dim_t dim = piece->dim[i];
        if (dim.size == 0) return false;
        if (dim.size == 1) continue;
        if (zero) dim.from = 0;
        uint32_t place = kept++;
        for (; place > 0 && belongs_outside(&dim, &piece->dim[place - 1]); place--)
            piece->dim[place] = piece->dim[place - 1];
        piece->dim[place] = dim;
    }
    piece->dims = 0;
    for (uint32_t i = 0; i < kept; i++) {
        tpv_piece_dim_t dim = piece->dim[i];
        if (piece->dims > 0) {
            tpv_piece_dim_t *outer = &piece->dim[piece->dims - 1];
            /* No overflow: the check bounded size * stride of both sides. */
            if (outer->to == dim.to * dim.size && (zero || outer->from == dim.from * dim.size)) {
                *outer = (tpv_piece_dim_t){.size = outer->size * dim.size, .from = dim.from, .to = dim.to};
                continue;
            }
        }
        piece->dim[piece->dims++] = dim;
    }
    return true;
}

static int by_destination(const void *left, const void *right) {
    const tpv_piece_t *a = left, *b = right;
    if (a->to != b->to) return a->to < b->to ? -1 : 1;
    if (a->dims != b->dims) return a->dims < b->dims ? -1 : 1;
    for (uint32_t i = 0; i < a->dims; i++) {
        if (a->dim[i].to != b->dim[i].to) return a->dim[i].to < b->dim[i].to ? -1 : 1;
        if (a->dim[i].size != b->dim[i].size) return a->dim[i].size < b->dim[i].size ? -1 : 1;
    }
    return 0;
}

/* Let `piece` take in `next` when that goes on along the outermost dim where it ends, in the source as well. */
static bool merge_next(tpv_piece_t *piece, const tpv_piece_t *next) {
    if (piece->tensor != next->tensor || piece->dims != next->dims || piece->dims == 0) return false;
    for (uint32_t i = 0; i < piece->dims; i++) {
        const tpv_piece_dim_t *a = &piece->dim[i], *b = &next->dim[i];
        if (a->from != b->from || a->to != b->to || (i > 0 && a->size != b->size)) return false;
    }
    tpv_piece_dim_t *outer = &piece->dim[0];
    if (next->to - piece->to != outer->size * outer->to) return false;
    if (next->from != piece->from + outer->size * outer->from) return false;
    outer->size += next->dim[0].size;
    return true;
}

static void canonicalise_output(tpv_spec_output_t *output) {
    size_t kept = 0;
    for (size_t i = 0; i < output->piece_count; i++)
        if (tpv_piece_canonicalise(&output->pieces[i])) output->pieces[kept++] = output->pieces[i];
    output->piece_count = kept;
    if (kept < 2) return;
    qsort(output->pieces, kept, sizeof *output->pieces, by_destination);
    size_t last = 0;
    for (size_t i = 1; i < kept; i++)
        if (!merge_next(&output->pieces[last], &output->pieces[i])) output->pieces[++last] = output->pieces[i];
    output->piece_count = last + 1;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const tpv_spec_alias_t *)a)->name, ((const tpv_spec_alias_t *)b)->name);
}

void tpv_spec_canonicalise(tpv_spec_t *spec) {
    spec->piece_count = 0;
    for (size_t i = 0; i < spec->output_count; i++) {
        canonicalise_output(&spec->outputs[i]);
        spec->piece_count += spec->outputs[i].piece_count;
    }
    if (spec->alias_count > 1) qsort(spec->aliases, spec->alias_count, sizeof *spec->aliases, by_name);
}
