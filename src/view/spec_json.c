#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/json.h"
#include "base/error.h"
#include "view/fields.h"
#include "view/json_write.h"
#include "view/spec_json.h"

#define MAX_PIECE_BYTES (16u << 10) /* text of one piece: a name, at worst of escapes, and numbers */

typedef struct {
    const tpv_artifact_t *artifact;
    tpv_spec_t *spec;
    char what[TPV_MAX_NAME + 64]; /* the output or piece that is being read */
    bool told;                    /* the message of a failure names it already */
} reader_t;

/* The texts of the members of an object, each of which must be there unless it is optional. */
typedef struct {
    const char *what;
    const char *const *names; /* ends with NULL */
    tpv_json_text_t *values;
} members_t;

/* Parse a small member of an object. The caller drops *json. */
static tpv_status_t parse_member(const members_t *members, int member, json_t **json) {
    const char *name = members->names[member];
    if (!members->values[member].start)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" is missing", members->what, name);
    tpv_status_t status = tpv_json_parse(members->values[member], MAX_PIECE_BYTES, json);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "%s: \"%s\"", members->what, name);
}

static tpv_status_t parse_text(const members_t *members, int member, char *text, size_t room) {
    json_t *json = NULL;
    TPV_TRY(parse_member(members, member, &json));
    size_t length = json_string_length(json);
    bool good = json_is_string(json) && length > 0 && length < room;
    if (good) memcpy(text, json_string_value(json), length + 1);
    json_decref(json);
    if (good) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must be a string of 1 to %zu bytes", members->what,
                         members->names[member], room - 1);
}

/* Strides and offset of one side. With as many dims as `shape` has, strides may be left out: row-major. */
static tpv_status_t read_side(reader_t *reader, json_t *side, const char *sizes_of, uint32_t dims, uint32_t shape_dims,
                              const uint64_t *shape, uint64_t *strides, uint64_t *offset) {
    bool given = false;
    uint32_t count = 0;
    TPV_TRY(tpv_field_dims(reader->what, side, "strides", &given, &count, strides));
    TPV_TRY(tpv_field_whole(reader->what, side, "offset", 0, offset));
    if (given && count != dims)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: %u strides for %u sizes", reader->what, count, dims);
    if (given) return TPV_OK;
    if (dims != shape_dims)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "%s: \"strides\" can only be left out with as many sizes as the %s has dims (%u, not %u)",
                             reader->what, sizes_of, shape_dims, dims);
    tpv_spec_row_major(shape_dims, shape, strides);
    return TPV_OK;
}

static tpv_status_t read_parsed_piece(reader_t *reader, json_t *object) {
    static const char *const copy_keys[] = {"tensor", "sizes", "strides", "offset", "to", NULL};
    static const char *const zero_keys[] = {"zero", "sizes", "to", NULL};
    static const char *const number_keys[] = {"number", "sizes", "to", NULL};
    static const char *const to_keys[] = {"strides", "offset", NULL};
    const char *what = reader->what;
    const tpv_spec_output_t *output = &reader->spec->outputs[reader->spec->output_count - 1];
    tpv_piece_t piece = {.tensor = TPV_PIECE_ZERO};
    uint64_t sizes[TPV_MAX_DIMS], from[TPV_MAX_DIMS] = {0}, to[TPV_MAX_DIMS];
    bool present;

    bool zero = json_object_get(object, "zero") != NULL, number = !zero && json_object_get(object, "number");
    TPV_TRY(tpv_fields_known(what, object, zero ? zero_keys : number ? number_keys : copy_keys));
    if (zero && !json_is_true(json_object_get(object, "zero")))
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"zero\" can only be true", what);
    TPV_TRY(tpv_field_dims(what, object, "sizes", &present, &piece.dims, sizes));
    if (!present) return tpv_error_set(TPV_ERR_FORMAT, "%s: \"sizes\" is missing", what);

    if (number) {
        piece.tensor = TPV_PIECE_NUMBER;
        TPV_TRY(tpv_field_whole(what, object, "number", 0, &piece.from));
    } else if (!zero) {
        const char *name;
        TPV_TRY(tpv_field_name(what, object, "tensor", &name));
        if (!tpv_spec_find_tensor(reader->artifact, name, &piece.tensor))
            return tpv_error_set(TPV_ERR_PLAN, "%s: the artifact has no tensor %s", what, name);
        const tpv_tensor_t *tensor = tpv_artifact_tensor(reader->artifact, piece.tensor);
        TPV_TRY(read_side(reader, object, "tensor", piece.dims, tensor->dims, tensor->shape, from, &piece.from));
    }
    json_t *destination = json_object_get(object, "to");
    if (destination) TPV_TRY(tpv_fields_known(what, destination, to_keys));
    TPV_TRY(read_side(reader, destination, "output", piece.dims, output->dims, output->shape, to, &piece.to));
    for (uint32_t i = 0; i < piece.dims; i++)
        piece.dim[i] = (tpv_piece_dim_t){.size = sizes[i], .from = from[i], .to = to[i]};
    return tpv_spec_add_piece(reader->spec, &piece);
}

static tpv_status_t read_piece(void *user, size_t index, tpv_json_text_t text) {
    reader_t *reader = user;
    const char *name = reader->spec->outputs[reader->spec->output_count - 1].name;
    snprintf(reader->what, sizeof reader->what, "output %s, piece %zu", name, index);
    json_t *object = NULL;
    tpv_status_t status = tpv_json_parse(text, MAX_PIECE_BYTES, &object);
    if (status != TPV_OK) {
        reader->told = true;
        return tpv_error_prefix(status, "%s", reader->what);
    }
    status = read_parsed_piece(reader, object);
    reader->told = status != TPV_OK;
    json_decref(object);
    return status;
}

enum { OUTPUT_NAME, OUTPUT_DTYPE, OUTPUT_SHAPE, OUTPUT_PIECES, OUTPUT_MEMBERS };

static tpv_status_t read_output(void *user, size_t index, tpv_json_text_t text) {
    static const char *const names[] = {"name", "dtype", "shape", "pieces", NULL};
    reader_t *reader = user;
    tpv_json_text_t values[OUTPUT_MEMBERS] = {0};
    members_t members = {.what = reader->what, .names = names, .values = values};
    snprintf(reader->what, sizeof reader->what, "output %zu", index);
    tpv_status_t status = tpv_json_pick(text, names, values);
    if (status != TPV_OK) return tpv_error_prefix(status, "output %zu", index);

    char name[TPV_MAX_NAME + 1], dtype[32];
    TPV_TRY(parse_text(&members, OUTPUT_NAME, name, sizeof name));
    snprintf(reader->what, sizeof reader->what, "output %s", name);
    TPV_TRY(parse_text(&members, OUTPUT_DTYPE, dtype, sizeof dtype));
    tpv_tensor_t output = {0};
    if (tpv_dtype_from_name(dtype, &output.dtype) != TPV_OK)
        return tpv_error_set(TPV_ERR_FORMAT, "output %s: unknown dtype \"%s\"", name, dtype);
    json_t *shape = NULL;
    TPV_TRY(parse_member(&members, OUTPUT_SHAPE, &shape));
    status = tpv_json_shape(shape, &output);
    json_decref(shape);
    if (status != TPV_OK) return tpv_error_prefix(status, "output %s", name);
    TPV_TRY(tpv_spec_add_output(reader->spec, name, output.dtype, output.dims, output.shape));

    if (!values[OUTPUT_PIECES].start) return tpv_error_set(TPV_ERR_FORMAT, "output %s: \"pieces\" is missing", name);
    status = tpv_json_items(values[OUTPUT_PIECES], read_piece, reader);
    return status == TPV_OK || reader->told ? status : tpv_error_prefix(status, "pieces of output %s", name);
}

static tpv_status_t read_alias(void *user, const char *name, tpv_json_text_t text) {
    reader_t *reader = user;
    json_t *target = NULL;
    tpv_status_t status = tpv_json_parse(text, MAX_PIECE_BYTES, &target);
    if (status != TPV_OK) return tpv_error_prefix(status, "alias %.200s", name);
    if (json_is_string(target))
        status = tpv_spec_add_alias(reader->spec, name, json_string_value(target));
    else
        status = tpv_error_set(TPV_ERR_FORMAT, "alias %.200s: expected the name of an output", name);
    json_decref(target);
    return status;
}

enum { SPEC_FORMAT, SPEC_OUTPUTS, SPEC_ALIASES, SPEC_MEMBERS };

tpv_status_t tpv_spec_read_json(const tpv_artifact_t *artifact, const char *json, size_t length, tpv_spec_t *spec) {
    static const char *const names[] = {"format", "outputs", "aliases", NULL};
    tpv_json_text_t values[SPEC_MEMBERS] = {0};
    members_t members = {.what = "view spec", .names = names, .values = values};
    reader_t reader = {.artifact = artifact, .spec = spec};
    if (length > TPV_MAX_SPEC_BYTES)
        return tpv_error_set(TPV_ERR_FORMAT, "view spec: %zu bytes of JSON, expected at most %u", length,
                             TPV_MAX_SPEC_BYTES);
    tpv_status_t status = tpv_json_pick((tpv_json_text_t){json, length}, names, values);
    if (status != TPV_OK) return tpv_error_prefix(status, "view spec");

    char format[64];
    TPV_TRY(parse_text(&members, SPEC_FORMAT, format, sizeof format));
    if (strcmp(format, TPV_SPEC_FORMAT) != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "view spec: format \"%s\", expected \"%s\"", format, TPV_SPEC_FORMAT);
    if (!values[SPEC_OUTPUTS].start) return tpv_error_set(TPV_ERR_FORMAT, "view spec: \"outputs\" is missing");
    status = tpv_json_items(values[SPEC_OUTPUTS], read_output, &reader);
    if (status == TPV_OK && values[SPEC_ALIASES].start)
        status = tpv_json_members(values[SPEC_ALIASES], read_alias, &reader);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "view spec");
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

typedef enum { SIZES, FROM, TO } column_t;

static void write_column(FILE *stream, const tpv_piece_t *piece, column_t column) {
    fputc('[', stream);
    for (uint32_t i = 0; i < piece->dims; i++) {
        const tpv_piece_dim_t *dim = &piece->dim[i];
        uint64_t value = column == SIZES ? dim->size : column == FROM ? dim->from : dim->to;
        fprintf(stream, i ? ",%llu" : "%llu", (unsigned long long)value);
    }
    fputc(']', stream);
}

static void write_piece(FILE *stream, const tpv_artifact_t *artifact, const tpv_piece_t *piece) {
    bool zero = piece->tensor == TPV_PIECE_ZERO, copies = tpv_piece_copies(piece->tensor);
    if (zero)
        fputs("{\"sizes\":", stream);
    else if (!copies)
        fprintf(stream, "{\"number\":%llu,\"sizes\":", (unsigned long long)piece->from);
    else
        fprintf(stream, "{\"offset\":%llu,\"sizes\":", (unsigned long long)piece->from);
    write_column(stream, piece, SIZES);
    if (copies) {
        fputs(",\"strides\":", stream);
        write_column(stream, piece, FROM);
        fputs(",\"tensor\":", stream);
        tpv_json_write_string(stream, tpv_piece_source_name(artifact, piece));
    }
    fprintf(stream, ",\"to\":{\"offset\":%llu,\"strides\":", (unsigned long long)piece->to);
    write_column(stream, piece, TO);
    fputs(zero ? "},\"zero\":true}" : "}}", stream);
}

static void write_output(FILE *stream, const tpv_artifact_t *artifact, const tpv_spec_output_t *output) {
    fprintf(stream, "{\"dtype\":\"%s\",\"name\":", tpv_dtype_name(output->dtype));
    tpv_json_write_string(stream, output->name);
    fputs(",\"pieces\":[", stream);
    for (size_t i = 0; i < output->piece_count; i++) {
        if (i) fputc(',', stream);
        write_piece(stream, artifact, &output->pieces[i]);
    }
    fputs("],\"shape\":[", stream);
    for (uint32_t i = 0; i < output->dims; i++)
        fprintf(stream, i ? ",%llu" : "%llu", (unsigned long long)output->shape[i]);
    fputs("]}", stream);
}

tpv_status_t tpv_spec_write_json(const tpv_artifact_t *artifact, const tpv_spec_t *spec, char **json, size_t *length) {
    *json = NULL;
    FILE *stream = open_memstream(json, length);
    if (!stream) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the view's spec");
    fputs("{\"aliases\":{", stream);
    for (size_t i = 0; i < spec->alias_count; i++) {
        if (i) fputc(',', stream);
        tpv_json_write_string(stream, spec->aliases[i].name);
        fputc(':', stream);
        tpv_json_write_string(stream, spec->aliases[i].target);
    }
    fprintf(stream, "},\"format\":\"%s\",\"outputs\":[", TPV_SPEC_FORMAT);
    for (size_t i = 0; i < spec->output_count; i++) {
        if (i) fputc(',', stream);
        write_output(stream, artifact, &spec->outputs[i]);
    }
    fputs("]}", stream);
    bool failed = ferror(stream);
    if (fclose(stream) != 0 || failed) {
        free(*json);
        *json = NULL;
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the view's spec");
    }
    if (*length > TPV_MAX_SPEC_BYTES) {
        tpv_status_t status = tpv_error_set(TPV_ERR_PLAN, "the view's spec has %zu bytes, at most %u are allowed",
                                            *length, TPV_MAX_SPEC_BYTES);
        free(*json);
        *json = NULL;
        return status;
    }
    return TPV_OK;
}
