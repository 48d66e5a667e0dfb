#include "tools/perf/sized_view.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

const char *tpv_cut_name(tpv_cut_t cut) {
    static const char *const names[] = {"mixed", "column", "row"};
    return names[cut];
}

/* The canonical text has a run as one dim, whatever the tensor's shape was. */
static bool is_cut(const tpv_artifact_t *artifact, const json_t *output, tpv_cut_t cut) {
    const json_t *piece = json_array_get(json_object_get(output, "pieces"), 0);
    const char *name = json_string_value(json_object_get(piece, "tensor"));
    const json_t *sizes = json_object_get(piece, "sizes");
    if (cut == TPV_CUT_MIXED) return true;
    if (!name) return false; /* zeros */
    if (cut == TPV_CUT_ROW) return json_array_size(sizes) > 1;
    const tpv_tensor_t *tensor = tpv_artifact_find(artifact, name);
    uint64_t elements = 1;
    for (uint32_t i = 0; tensor && i < tensor->dims; i++)
        elements *= tensor->shape[i];
    return json_array_size(sizes) == 1 && (uint64_t)json_integer_value(json_array_get(sizes, 0)) < elements;
}

/* Keep the first `rows` of an output of one piece. False when its rows are not those of the piece. */
static bool shorten(json_t *output, uint64_t rows) {
    json_t *shape = json_object_get(output, "shape"), *pieces = json_object_get(output, "pieces"),
           *sizes = json_object_get(json_array_get(pieces, 0), "sizes");
    if (rows == 0 || json_array_size(pieces) != 1 || json_array_size(shape) == 0) return false;
    json_int_t all = json_integer_value(json_array_get(shape, 0)), first = json_integer_value(json_array_get(sizes, 0));
    if (json_array_size(sizes) == 1 && all > 0 && first % all == 0)
        first = first / all * (json_int_t)rows;
    else if (first == all)
        first = (json_int_t)rows;
    else
        return false;
    return json_array_set_new(sizes, 0, json_integer(first)) == 0 &&
           json_array_set_new(shape, 0, json_integer((json_int_t)rows)) == 0;
}

static void rename_first(json_t *outputs, const char *mark) {
    json_t *first = json_array_get(outputs, 0);
    json_t *name = json_sprintf("%s%s", json_string_value(json_object_get(first, "name")), mark);
    json_object_set_new(first, "name", name);
}

static json_t *choose(const tpv_artifact_t *artifact, const tpv_view_t *planned, const json_t *all, tpv_cut_t cut,
                      uint64_t size) {
    json_t *chosen = json_array();
    uint64_t taken = 0;
    for (size_t i = 0; i < json_array_size(all) && (size == 0 || taken < size); i++) {
        json_t *output = json_array_get(all, i);
        const tpv_output_t *planned_output = tpv_view_output(planned, i);
        uint64_t bytes = planned_output->bytes;
        if (bytes == 0 || !is_cut(artifact, output, cut)) continue;
        if (size > 0 && bytes > size - taken) {
            uint64_t row = planned_output->dims > 0 ? bytes / planned_output->shape[0] : bytes;
            uint64_t rows = (size - taken) / row;
            if (rows == 0 && taken == 0) rows = 1;
            bool shortened = shorten(output, rows);
            if (!shortened && taken > 0) break;
            bytes = shortened ? rows * row : bytes;
        }
        json_array_append(chosen, output);
        taken += bytes;
    }
    return chosen;
}

tpv_status_t tpv_sized_view(const tpv_artifact_t *artifact, const tpv_view_t *planned, tpv_cut_t cut, uint64_t size,
                            const char *mark, tpv_view_t **view) {
    json_t *root = json_loads(tpv_view_json(planned), 0, NULL);
    if (!root) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a view");
    json_t *chosen = choose(artifact, planned, json_object_get(root, "outputs"), cut, size);
    size_t count = json_array_size(chosen);
    if (count > 0 && *mark) rename_first(chosen, mark);
    /* Names that stand for outputs cost no bytes, and what they stand for may be gone. */
    json_object_set_new(root, "aliases", json_object());
    json_object_set_new(root, "outputs", chosen);
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a view");
    tpv_status_t status =
        count > 0
            ? tpv_view_from_json(artifact, text, strlen(text), view)
            : tpv_error_set(TPV_ERR_ARGUMENT, "--view %s: no tensor of this view is cut so (at tp_size 1 none is)",
                            tpv_cut_name(cut));
    free(text);
    return status;
}
