/* tpview plan --explain: from what rule to what bytes, for people. */
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "tools/tpview/command.h"

static const char *text_of(const json_t *object, const char *key) {
    return tpv_cli_text(json_string_value(json_object_get(object, key)));
}

static long long number_of(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static void print_shape(const json_t *object) {
    size_t index;
    json_t *steps;
    printf("%s [", text_of(object, "dtype"));
    json_array_foreach(json_object_get(object, "shape"), index, steps) {
        printf("%s%lld", index ? ", " : "", (long long)json_integer_value(steps));
    }
    putchar(']');
}

/* Where a piece begins along the axis of the output. */
static long long place(const json_t *output, const json_t *piece, size_t axis) {
    const json_t *shape = json_object_get(output, "shape");
    long long stride = 1, steps = json_integer_value(json_array_get(shape, axis));
    for (size_t i = axis + 1; i < json_array_size(shape); i++)
        stride *= json_integer_value(json_array_get(shape, i));
    return stride > 0 && steps > 0 ? number_of(json_object_get(piece, "to"), "offset") / stride % steps : 0;
}

static void print_places(const json_t *tensor, const json_t *output) {
    size_t axis = (size_t)number_of(tensor, "axis"), index;
    const json_t *pieces = json_object_get(output, "pieces");
    json_t *piece;
    printf("  to     %s: ", text_of(output, "name"));
    print_shape(output);
    if (axis < json_array_size(json_object_get(output, "shape")) && json_is_integer(json_object_get(tensor, "axis")))
        json_array_foreach(pieces, index, piece) {
            long long first = place(output, piece, axis);
            long long steps = json_integer_value(json_array_get(json_object_get(piece, "sizes"), axis));
            printf("%s %lld to %lld", index ? "," : ", there", first, first + steps);
        }
    else
        printf(", %zu piece%s", json_array_size(pieces), json_array_size(pieces) == 1 ? "" : "s");
    printf("; bytes %lld to %lld of the view\n", number_of(output, "offset"),
           number_of(output, "offset") + number_of(output, "bytes"));
}

static void print_explanation(const json_t *tensor) {
    const json_t *rule = json_object_get(tensor, "rule"), *ranges = json_object_get(tensor, "ranges");
    const json_t *shape = json_object_get(tensor, "shape");
    size_t index;
    json_t *range, *output;
    printf("%s: ", text_of(tensor, "tensor"));
    print_shape(tensor);
    putchar('\n');
    if (json_is_object(rule)) {
        printf("  rule   \"%s\": %s (%s", text_of(rule, "pattern"), text_of(rule, "word"), text_of(rule, "plan"));
        if (json_object_get(rule, "disk")) printf(", on disk \"%s\"", text_of(rule, "disk"));
        printf(")\n");
    } else {
        printf("  rule   none\n");
    }
    printf("  why    %s\n", text_of(tensor, "why"));
    if (json_is_integer(json_object_get(tensor, "axis"))) {
        size_t axis = (size_t)number_of(tensor, "axis");
        printf("  from   axis %zu,", axis);
        json_array_foreach(ranges, index, range) {
            printf("%s %lld to %lld", index ? "," : "", (long long)json_integer_value(json_array_get(range, 0)),
                   (long long)json_integer_value(json_array_get(range, 1)));
        }
        if (json_array_size(ranges) == 0) printf(" nothing");
        printf(" of %lld", (long long)json_integer_value(json_array_get(shape, axis)));
        if (number_of(tensor, "zeros") > 0) printf(", then %lld of zeros", number_of(tensor, "zeros"));
        putchar('\n');
    } else {
        printf("  from   all of it\n");
    }
    json_array_foreach(json_object_get(tensor, "outputs"), index, output) {
        print_places(tensor, output);
    }
    if (json_array_size(json_object_get(tensor, "outputs")) == 0)
        printf("  to     nowhere: this rank gets none of it\n");
}

tpv_status_t tpv_explain_print(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact) {
    char *text;
    size_t index;
    json_t *tensor;
    TPV_TRY(tpv_arguments_explain(arguments, artifact, &text));
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    if (arguments->json) {
        tpv_cli_print_json(root);
        return TPV_OK;
    }
    json_array_foreach(json_object_get(root, "tensors"), index, tensor) {
        print_explanation(tensor);
    }
    json_decref(root);
    return TPV_OK;
}
